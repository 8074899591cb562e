"""What the soak test feeds: a day with informed traders, and the end-of-day files for its baseline.

Without them nothing is unusual on either day, and tables without a row are always the same.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from itertools import count, islice
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.throughput import tables
from benchmarks.throughput.feed import Part, day_of, generate_parts
from kintsugi.core.data_source import EOD_PREFIX
from kintsugi.core.errors import StepFailed
from kintsugi.core.file_names import EOD_NAME
from kintsugi.core.settings import BUCKET
from kintsugi.pipeline.object_listing import NAME
from kintsugi.pipeline.stream.baselines import REFRESH_SECONDS, pending_files
from kintsugi.sampledata.generator import GeneratedDay, generate_day

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

ROWS = 900  # a file
PART_S = 30.0
INFORMED_TRADES = 90_000
LEVEL = "easy"  # the most of everything that is unusual
USUAL_BETWEEN = 2
BASELINE_S = 300.0


@dataclass(frozen=True, slots=True)
class SoakDays:
    """The two days: ``disturbed`` comes ``apart`` days after ``undisturbed``, with the same trades."""

    undisturbed: date
    disturbed: date

    @classmethod
    def from_seed(cls, seed: int) -> SoakDays:
        """Those of a run."""
        return cls(day_of("soak", seed), day_of("soak_killed", seed))

    @property
    def apart(self) -> int:
        return (self.disturbed - self.undisturbed).days


def generate_informed_day(seed: int, folder: Path, trades: int = INFORMED_TRADES) -> GeneratedDay:
    """Write the disturbed day's informed traders, in files of about ROWS trades, and the end of the day before it."""
    day = SoakDays.from_seed(seed).disturbed
    return generate_day(folder, day=day, seed=seed, trades=trades, parts=max(1, trades // ROWS), level=LEVEL)


def iterate_soak_parts(seed: int, made: GeneratedDay) -> Iterator[Part]:
    """An endless feed of the disturbed day: every third file of informed traders, as long as there are any."""
    usual = generate_parts("soak_killed", seed, rows=ROWS, seconds=PART_S)
    numbers = count(1)
    for path in made.trade_files:
        yield _number_part(seed, made.day, next(numbers), path.read_bytes())
        for part in islice(usual, USUAL_BETWEEN):
            yield _number_part(seed, made.day, next(numbers), part.body)
    for part in usual:
        yield _number_part(seed, made.day, next(numbers), part.body)


def _number_part(seed: int, day: date, number: int, body: bytes) -> Part:
    """A file whose name comes after the one before: so the ingest finds it at once (decision 80)."""
    rows = body.count(b"\n") - 1  # the header
    return Part(f"trades/{day}/{NAME}{day}_soak-{seed}-{number:06d}.csv", body, rows)


def move_part(part: Part, days: SoakDays) -> Part:
    """A file of the disturbed day, with every date moved, as one of the undisturbed day."""
    header, *lines = part.body.decode().splitlines()
    body = "\n".join([header, *(tables.move_trade_line(line, -days.apart) for line in lines), ""])
    key = part.key.replace(days.disturbed.isoformat(), days.undisturbed.isoformat())
    return Part(key, body.encode(), part.rows)


def end_of_day_files(made: GeneratedDay, days: SoakDays) -> dict[str, bytes]:
    """By key: the end of the day before the disturbed day, and the same for the undisturbed one."""
    (path,) = made.eod_files
    body = path.read_bytes()
    header, *lines = body.decode().splitlines()
    day = date.fromisoformat(lines[0].split(",", 2)[1])
    other = date.fromordinal(day.toordinal() - days.apart)
    shifted = "\n".join([header, *(tables.move_eod_line(line, -days.apart) for line in lines), ""])
    return {eod_key(day): body, eod_key(other): shifted.encode()}


def eod_key(day: date) -> str:
    """Where the end-of-day file of a day belongs in S3."""
    return f"{EOD_PREFIX}{EOD_NAME}{day.isoformat()}.csv"


def deliver_baseline(s3: S3Client, files: dict[str, bytes]) -> None:
    """Put the end-of-day files into S3, and wait until the stream measures by them.

    Raises StepFailed when ``build_baseline`` doesn't take them in.
    """
    for key, body in files.items():
        s3.put_object(Bucket=BUCKET, Key=key, Body=body)
    deadline = time.monotonic() + BASELINE_S
    while waiting := sorted(files.keys() & set(pending_files(s3))):
        if time.monotonic() > deadline:
            raise StepFailed(
                f"no baseline of {', '.join(waiting)} after {BASELINE_S:.0f} s; look at build_baseline in Airflow"
            )
        time.sleep(1)
    time.sleep(REFRESH_SECONDS)  # the driver reads the table anew that often, and nobody sees when it did
