"""Send trades in S3 again: to restore tables, or to test the flow with a day at N times its speed.

A replay is an ingest under a name of its own in the ledger, so an interrupted replay continues where it was. Its trades
have the same identities as before, so they overwrite the rows in Cassandra.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kintsugi.core.data_source import DataSource, own_source
from kintsugi.core.errors import InputError, KintsugiError
from kintsugi.core.file_names import period_of
from kintsugi.core.settings import BUCKET
from kintsugi.pipeline.failures import format_reason, stops_all_files
from kintsugi.pipeline.ingest.file_ingest import CHUNK_ROWS, ingest_object
from kintsugi.pipeline.ingest.file_manifest import FileIngestReport
from kintsugi.pipeline.kafka_producer import open_producer
from kintsugi.pipeline.object_listing import NAME, S3Object, list_trade_files
from kintsugi.pipeline.synthetic_trade import PREFIX as SYNTHETIC_PREFIX

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

    from kintsugi.db.ingest_ledger import IngestLedger
    from kintsugi.pipeline.ingest.flow_control import FlowControl

_DAY_OR_MONTH = re.compile(r"\d{4}-(0[1-9]|1[0-2])(-(0[1-9]|[12]\d|3[01]))?")
PACED_ROWS = 500  # rows of a chunk in a paced replay; an interrupted replay sends its last chunk again


@dataclass(frozen=True, slots=True)
class Schedule:
    """The times at which trades are sent, by their own times.

    ``speed``: 1 for real time; 0: as fast as Kafka accepts messages. ``spike``: ``speed`` is multiplied by it for
    ``spike_s`` seconds, from ``spike_after_s`` seconds after the start on.
    """

    speed: float = 0.0
    spike: float = 1.0
    spike_after_s: float = 0.0
    spike_s: float = 0.0

    def __post_init__(self) -> None:
        if self.speed < 0 or self.spike <= 0 or self.spike_after_s < 0 or self.spike_s < 0:
            raise InputError(f"{self}: speed and seconds must be 0 or more, the spike's factor more than 0")
        if self.spike_s and not self.speed:
            raise InputError(
                "a spike multiplies the speed, and the speed is 0; set the speed, 1 for real time"
            )

    def due_s(self, trade_s: float) -> float:
        """Return when a trade that happened ``trade_s`` after the first one is due, in seconds after the start."""
        if not self.speed:
            return 0.0
        before = self.spike_after_s * self.speed  # seconds of trading until the spike
        within = self.spike_s * self.speed * self.spike
        if not self.spike_s or trade_s <= before:
            return trade_s / self.speed
        if trade_s <= before + within:
            return self.spike_after_s + (trade_s - before) / (self.speed * self.spike)
        return self.spike_after_s + self.spike_s + (trade_s - before - within) / self.speed


class Pacer:
    """Delays each trade until it is due; the first one starts the clock.

    A trade that is older than the one before it isn't delayed: consecutive files overlap at their borders.
    """

    def __init__(
        self,
        schedule: Schedule,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._schedule, self._clock, self._sleep = schedule, clock, sleep
        self._first: int | None = None
        self._started = 0.0

    def __call__(self, ts: int) -> None:
        """Return when the trade of the time ``ts`` (milliseconds since 1970 UTC) is due."""
        if self._first is None:
            self._first, self._started = ts, self._clock()
        wait = self._started + self._schedule.due_s((ts - self._first) / 1000) - self._clock()
        if wait > 0:
            self._sleep(wait)


def select_files(
    files: Sequence[S3Object], *, day: str = "", keys: Sequence[str] = (), everything: bool = False
) -> list[S3Object]:
    """Return the trade files of one day (``2024-10-08``) or month (``2024-10``), or of these keys, or all, by key.

    Synthetic trades aren't replayed. Raises InputError unless exactly one of the three is given, and when S3 has no
    such file.
    """
    if (bool(day) + bool(keys) + everything) != 1:
        raise InputError("choose one: a day, or the keys of files, or everything")
    files_by_key = {file.key: file for file in files if not file.key.startswith(SYNTHETIC_PREFIX)}
    missing = [key for key in keys if key not in files_by_key]
    if missing:
        raise InputError(f"S3 has no trade file {missing[0]!r}; give complete keys, trades/…/{NAME}….csv")
    selected = [
        file
        for key, file in sorted(files_by_key.items())
        if everything or key in keys or (day and _covers_day(key.rpartition("/")[2], day))
    ]
    if not selected:
        raise InputError(
            f"S3 has no trade file of {day or 'any day'}; replay a day inside a monthly file by the key of the file"
        )
    return selected


def parse_day_or_month(text: str) -> str:
    """Return the text without blanks around it if it is a day, a month or empty; else raise InputError."""
    day = text.strip()
    if day and not _DAY_OR_MONTH.fullmatch(day):
        raise InputError(f"{day!r} is neither a day (2024-10-08) nor a month (2024-10)")
    return day


def _covers_day(name: str, day: str) -> bool:
    """Whether the file name has that day, or that month or a day in it."""
    period = period_of(name)
    return period == day or (len(day) == len("2024-10") and period.startswith(f"{day}-"))


def replay_files(
    s3: S3Client, ledger: IngestLedger, bootstrap: list[str], files: Sequence[S3Object], *,
    name: str, schedule: Schedule, bucket: str = BUCKET, control: FlowControl | None = None,
) -> list[FileIngestReport]:  # fmt: skip
    """Send the trades of these files again, one file after another; returns the reports of all files.

    ``name``: the name of this replay. Called again with the same name, it continues where it was, and the first trade
    that it sends starts the clock. ``control``: the back-pressure; a paced replay that waited for it catches up later.
    Raises what Kafka and Postgres raise, and KintsugiError at the end when S3 failed for a file.
    """
    if not name:
        raise InputError("a replay needs a name: the ledger identifies it by the name when it continues")
    pace = Pacer(schedule) if schedule.speed else None
    rows = PACED_ROWS if schedule.speed else CHUNK_ROWS
    failures: list[str] = []
    with open_producer(bootstrap) as kafka:
        for source in files:
            try:
                ingest_object(
                    s3,
                    source,
                    ledger=ledger,
                    kafka=kafka,
                    bucket=bucket,
                    replay=name,
                    pace=pace,
                    chunk_rows=rows,
                    control=control,
                )
            except Exception as error:
                if stops_all_files(error):
                    raise
                failures.append(f"{source.key}: {format_reason(error)}")  # and continue with the other files
    if failures:
        raise KintsugiError(
            f"{len(failures)} of {len(files)} files could not be read from S3, the first one: {failures[0]}; "
            "run the same replay again: it continues with these files"
        )
    return [
        FileIngestReport(entry.key, entry.etag, entry.state, entry.tally, entry.reason, name)
        for entry in ledger.replayed(name)
    ]


def replay_from_form(
    s3: S3Client, ledger: IngestLedger, bootstrap: list[str], form: dict[str, object], name: str,
    sources: Sequence[DataSource] | None = None, control: FlowControl | None = None,
) -> list[FileIngestReport]:  # fmt: skip
    """Replay what the form of the DAG ``replay_trades`` says; see its fields. Raises InputError.

    ``sources``: where the files are; default: the installation's own bucket. Spaces and line ends around a day or a key
    are removed. ``control``: the back-pressure.
    """
    schedule = Schedule(
        speed=float(str(form["speed"])),
        spike=float(str(form["spike"])),
        spike_after_s=float(str(form["spike_after_s"])),
        spike_s=float(str(form["spike_s"])),
    )
    keys = form["keys"] or ()
    if not isinstance(keys, (list, tuple)):
        raise InputError(f"`keys` is {keys!r}; give a list of keys")
    files = select_files(
        list_trade_files(sources or (own_source(s3),)),
        day=parse_day_or_month(str(form["day"] or "")),
        keys=[key for key in (str(key).strip() for key in keys) if key],
        everything=bool(form["everything"]),
    )
    return replay_files(s3, ledger, bootstrap, files, name=name, schedule=schedule, control=control)
