"""What is usual: the rows of the table ``baseline`` that the trades of a day are measured by.

A trade is measured by the newest end-of-day file before its day. The driver reads what it needs by the partition key of
the table, once for each symbol and day that it meets, and holds a bounded number. `announce` tells it to read anew.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from kintsugi.core.data_source import EOD_PREFIX, DataSource, S3Object, own_source
from kintsugi.core.errors import InputError
from kintsugi.core.file_names import EOD_NAME, ObjectKind
from kintsugi.core.settings import BUCKET, KEYSPACE
from kintsugi.db.ledger_entry import file_id
from kintsugi.pipeline.cassandra_session import connect
from kintsugi.pipeline.failures import is_of_s3, reason_of
from kintsugi.pipeline.object_listing import files_of, objects
from kintsugi.pipeline.stream.cassandra_sink import cassandra_date
from kintsugi.pipeline.stream.derived_records import Day
from kintsugi.pipeline.stream.stored_trades import finished

if TYPE_CHECKING:
    from cassandra.cluster import Session
    from mypy_boto3_s3.client import S3Client
    from numpy.typing import NDArray

__all__ = ["EOD_NAME", "EOD_PREFIX", "BaselineCache", "manifest_key", "pending_files", "pending_uris"]

log = logging.getLogger(__name__)

STATISTICS = (
    "volume_count", "volume_mean", "volume_median", "volume_stddev", "volume_log_stddev",
    "iv_count", "iv_median", "iv_stddev", "iv_log_stddev",
)  # fmt: skip
NEVER = datetime.min.replace(tzinfo=UTC)
# The columns that make a bucket, with their values (`columns.delta_bin`, `columns.expiry_bin`).
BUCKET_VALUES = {
    "option_type": ("C", "P"),
    "delta_bin": ("0-20", "20-40", "40-60", "60-80", "80-100"),
    "expiry_bin": ("short", "medium", "long"),
}
PLACES = {bucket: place for place, bucket in enumerate(product(*BUCKET_VALUES.values()))}
EOD_MANIFESTS = "manifests/eod/"
REFRESH_SECONDS = 1.0  # between two looks at the version of the table
CAPACITY = 10_000  # symbols and days held in memory, of 2.5 kB each: 25 MB
IN_FLIGHT = 64
VERSIONS = "stream_trades"  # the row of `stream_driver` that holds the version

if TYPE_CHECKING:
    Buckets = NDArray[np.float64]  # by place in PLACES and in STATISTICS; NaN where nothing is known
else:
    Buckets = np.ndarray


def buckets_of(rows: Iterable[Sequence[Any]]) -> Buckets | None:
    """Rows ``(option_type, delta_bin, expiry_bin, *STATISTICS)`` of one symbol and file as an array; None without rows.

    Volumes in contracts a day, volatilities as a fraction a year.
    """
    found = np.full((len(PLACES), len(STATISTICS)), np.nan)
    known = False
    for row in rows:
        place = PLACES.get((row[0], row[1], row[2]))
        if place is not None:
            found[place] = [np.nan if value is None else value for value in row[3:]]
            known = True
    return found if known else None


class BaselineCache:
    """What is usual by symbol and day, in the driver; at most about ``capacity`` of them, those that were used last."""

    def __init__(
        self, contact_points: list[str], refresh: float = REFRESH_SECONDS, capacity: int = CAPACITY
    ) -> None:
        self._contact_points = contact_points
        self._refresh, self._capacity = refresh, capacity
        self._session: Session | None = None
        self._held: OrderedDict[Day, Buckets | None] = OrderedDict()
        self._version: int | None = None
        self._looked_at = -refresh

    def of(self, days: Iterable[Day]) -> Mapping[Day, Buckets | None]:
        """What is usual for each symbol and day; None where no file before the day says anything.

        Raises KintsugiError when Cassandra can't be reached, and what the driver raises.
        """
        days = sorted(days)
        self._forget_if_announced()
        missing = [day for day in days if day not in self._held]
        self._held.update(zip(missing, self._read(missing), strict=True))
        for day in days:
            self._held.move_to_end(day)
        found = {day: self._held[day] for day in days}
        while len(self._held) > self._capacity:
            self._held.popitem(last=False)
        return found

    def _forget_if_announced(self) -> None:
        """Forget everything when there is a new version; one that can't be read is looked at again later."""
        if time.monotonic() - self._looked_at < self._refresh:
            return
        self._looked_at = time.monotonic()
        try:
            version = self._read_version()
        except Exception as error:
            if self._version is None:
                raise
            log.warning("could not read the version of the baseline: %s; keeping what is known", error)
            return
        if version != self._version:
            self._version = version
            self._held.clear()

    def _connected(self) -> Session:
        if self._session is None:
            self._session = connect(self._contact_points)
            self._newest = self._session.prepare(
                f"SELECT as_of, {', '.join((*BUCKET_VALUES, *STATISTICS))} FROM {KEYSPACE}.baseline "
                f"WHERE symbol = ? AND as_of < ? ORDER BY as_of DESC LIMIT {len(PLACES)}"
            )
            # Not idempotent, so that the driver doesn't speculate: it would take a late second answer for a page.
            self._newest.is_idempotent = False
        return self._session

    def _read_version(self) -> int:
        query = f"SELECT baseline_version FROM {KEYSPACE}.stream_driver WHERE name = '{VERSIONS}'"
        row = self._connected().execute(query).one()
        return (row.baseline_version if row else None) or 0

    def _read(self, days: list[Day]) -> list[Buckets | None]:
        """The newest file's rows before each day: by partition key, many at a time."""
        found: list[Buckets | None] = []
        if not days:
            return found
        session = self._connected()
        for start in range(0, len(days), IN_FLIGHT):
            keys = [(symbol, cassandra_date(date)) for symbol, date in days[start : start + IN_FLIGHT]]
            asked = [(key, session.execute_async(self._newest, key)) for key in keys]
            for key, future in asked:
                rows = finished(session, self._newest, key, future)
                found.append(buckets_of(row[1:] for row in rows if row[0] == rows[0][0]))
        return found


def newest_before(rows: Iterable[Sequence[Any]], days: Iterable[Day]) -> dict[Day, Buckets | None]:
    """What `BaselineCache.of` says where the table holds these ``(symbol, as_of, *<as buckets_of takes them>)``."""
    rows = list(rows)
    found = {}
    for symbol, date in days:
        before = [row for row in rows if row[0] == symbol and row[1] < date]
        newest = max((row[1] for row in before), default="")
        found[symbol, date] = buckets_of(row[2:] for row in before if row[1] == newest)
    return found


def announce(session: Session) -> None:
    """Say that the table ``baseline`` has changed: each driver reads what it needs anew within REFRESH_SECONDS."""
    session.execute(
        f"UPDATE {KEYSPACE}.stream_driver SET baseline_version = %s WHERE name = '{VERSIONS}'",
        (time.time_ns() // 1000,),
    )


def pending_files(s3: S3Client, bucket: str = BUCKET) -> list[str]:
    """Keys of the installation's end-of-day files without a manifest, by name; new content is another file."""
    return [item.key for item in _pending(s3, (own_source(s3, bucket),), bucket)]


def pending_uris(s3: S3Client, sources: Sequence[DataSource]) -> list[str]:
    """The end-of-day files of all sources without a manifest, as ``s3://bucket/key``, by key.

    ``s3``: where the manifests are.
    """
    return [(item.source or sources[0]).uri(item.key) for item in _pending(s3, sources, BUCKET)]


def _pending(s3: S3Client, sources: Sequence[DataSource], bucket: str) -> list[S3Object]:
    # A manifest that is older than its file is of an earlier delivery of the same content: v1, v2, v1.
    done = {item["Key"]: item["LastModified"] for item in objects(s3, bucket, EOD_MANIFESTS)}
    found: list[S3Object] = []
    for source in sources:
        try:
            found += files_of(source, ObjectKind.EOD)
        except Exception as error:
            if not source.name or not is_of_s3(error):
                raise
            log.warning("s3://%s can't be listed: %s", source.bucket, reason_of(error))
    return sorted(
        (item for item in found if done.get(manifest_key(item.key, item.etag), NEVER) < item.modified),
        key=lambda item: item.key,
    )


def find_source(sources: Sequence[DataSource], uri: str) -> tuple[DataSource, str]:
    """The source and the key of an end-of-day file, given as ``s3://bucket/key``, or as a key of the first source.

    Raises InputError for a bucket that is no source.
    """
    if not uri.startswith("s3://"):
        return sources[0], uri
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    for source in sources:
        if source.bucket == bucket:
            return source, key
    raise InputError(
        f"{uri} lies in no bucket of this installation; known: {', '.join(s.bucket for s in sources)}"
    )


def manifest_key(key: str, etag: str) -> str:
    """Where the manifest of one end-of-day file and content lies."""
    return f"{EOD_MANIFESTS}{file_id(key, etag)}.json"
