"""Trades that are in S3, sent again: to restore tables, or to see how the flow takes a day at N times its speed.

A replay goes the way of an ingest, under a name of its own in the ledger, so an interrupted one goes on where
it was. Its trades have the identities that they had, so what is in Cassandra already is written over.
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
from kintsugi.pipeline.failures import reason_of, stops_all
from kintsugi.pipeline.ingest.file_ingest import CHUNK_ROWS, FileIngestReport, ingest_object
from kintsugi.pipeline.kafka_producer import producer
from kintsugi.pipeline.object_listing import NAME, S3Object, trade_files
from kintsugi.pipeline.synthetic_trade import PREFIX as CANARY_PREFIX

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

    from kintsugi.db.ingest_ledger import IngestLedger
    from kintsugi.pipeline.ingest.flow_control import FlowControl

_DAY_OR_MONTH = re.compile(r"\d{4}-(0[1-9]|1[0-2])(-(0[1-9]|[12]\d|3[01]))?")
PACED_ROWS = 500  # a chunk of a paced replay: the least that an interrupted one sends again


@dataclass(frozen=True, slots=True)
class Schedule:
    """When a trade is sent, by its own time.

    ``speed``: how many times as fast as the trades happened; 0: as fast as Kafka takes them. ``spike``: from
    ``spike_after_s`` seconds after the start, for ``spike_s`` seconds, that many times ``speed``.
    """

    speed: float = 0.0
    spike: float = 1.0
    spike_after_s: float = 0.0
    spike_s: float = 0.0

    def __post_init__(self) -> None:
        if self.speed < 0 or self.spike <= 0 or self.spike_after_s < 0 or self.spike_s < 0:
            raise InputError(f"{self}: speed and seconds must be 0 or more, the spike's factor more than 0")
        if self.spike_s and not self.speed:
            raise InputError("a spike needs a speed to be a multiple of; set the speed, 1 for real time")

    def due(self, trade_s: float) -> float:
        """Seconds after the start at which a trade is due that happened ``trade_s`` after the first one."""
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
    """Holds each trade back until it is due; the first one starts the clock.

    A trade older than one before it (files follow one another, and overlap at their borders) isn't held.
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
        wait = self._started + self._schedule.due((ts - self._first) / 1000) - self._clock()
        if wait > 0:
            self._sleep(wait)


def select(
    files: Sequence[S3Object], *, day: str = "", keys: Sequence[str] = (), everything: bool = False
) -> list[S3Object]:
    """The trade files of one day (``2024-10-08``) or month (``2024-10``), or these keys, or all, by key.

    Canaries aren't replayed. Raises InputError when the choice isn't one of the three, or S3 has no such file.
    """
    if (bool(day) + bool(keys) + everything) != 1:
        raise InputError("choose one: a day, or the keys of files, or everything")
    known = {item.key: item for item in files if not item.key.startswith(CANARY_PREFIX)}
    missing = [key for key in keys if key not in known]
    if missing:
        raise InputError(f"S3 has no trade file {missing[0]!r}; `keys` are whole keys, trades/…/{NAME}….csv")
    chosen = [
        item
        for key, item in sorted(known.items())
        if everything or key in keys or (day and _is_of(key.rpartition("/")[2], day))
    ]
    if not chosen:
        raise InputError(
            f"S3 has no trade file of {day or 'any day'}; a day inside a monthly file is replayed by its key"
        )
    return chosen


def day_or_month(text: str) -> str:
    """The text without blanks around it, if it is a day or a month, or empty; else InputError."""
    day = text.strip()
    if day and not _DAY_OR_MONTH.fullmatch(day):
        raise InputError(f"{day!r} is neither a day, as 2024-10-08, nor a month, as 2024-10")
    return day


def _is_of(name: str, day: str) -> bool:
    """Whether the name is of that day, or of the month or of a day in it."""
    period = period_of(name)
    return period == day or (len(day) == len("2024-10") and period.startswith(f"{day}-"))


def replay(
    s3: S3Client, ledger: IngestLedger, bootstrap: list[str], files: Sequence[S3Object], *,
    name: str, schedule: Schedule, bucket: str = BUCKET, control: FlowControl | None = None,
) -> list[FileIngestReport]:  # fmt: skip
    """Send the trades of these files again, one file after another; returns the accounts of them all.

    ``name``: of this replay. Called again with the same name it goes on where it was, at the pace of the
    first trade that it sends. ``control``: the back-pressure; a paced replay that waited for it catches up
    afterwards. Raises what Kafka and Postgres raise; and KintsugiError at the end, when S3 failed for a
    file.
    """
    if not name:
        raise InputError("a replay needs a name; the ledger resumes it by that")
    pace = Pacer(schedule) if schedule.speed else None
    rows = PACED_ROWS if schedule.speed else CHUNK_ROWS
    unread: list[str] = []
    with producer(bootstrap) as kafka:
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
                if stops_all(error):
                    raise
                unread.append(f"{source.key}: {reason_of(error)}")  # the others are sent all the same
    if unread:
        raise KintsugiError(
            f"{len(unread)} of {len(files)} files could not be read from S3; first {unread[0]}; "
            "run the same replay again, it goes on with these"
        )
    return [
        FileIngestReport(entry.key, entry.etag, entry.state, entry.tally, entry.reason, name)
        for entry in ledger.replayed(name)
    ]


def replay_from_form(
    s3: S3Client, ledger: IngestLedger, bootstrap: list[str], form: dict[str, object], name: str,
    sources: Sequence[DataSource] | None = None, control: FlowControl | None = None,
) -> list[FileIngestReport]:  # fmt: skip
    """A replay as the form of the DAG ``replay_trades`` describes it; see its fields. Raises InputError.

    ``sources``: where the files are; default: the installation's own bucket. What a form adds at the end of a line
    (spaces, a line end) is left out of a day and of a key. ``control``: the back-pressure.
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
    files = select(
        trade_files(sources or (own_source(s3),)),
        day=day_or_month(str(form["day"] or "")),
        keys=[key for key in (str(key).strip() for key in keys) if key],
        everything=bool(form["everything"]),
    )
    return replay(s3, ledger, bootstrap, files, name=name, schedule=schedule, control=control)
