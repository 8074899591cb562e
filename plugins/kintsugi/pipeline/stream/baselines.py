"""The baselines: the rows of the table ``baseline`` that the trades of a day are compared with.

A trade is compared with the newest end-of-day file before its day. The driver reads the rows by the partition key of
the table, once for each symbol and day in its batches, and caches a limited number. `announce_baseline` makes it read
them again.
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

from kintsugi.core.certificates import Principal
from kintsugi.core.data_source import EOD_PREFIX, DataSource, S3Object, own_source
from kintsugi.core.errors import InputError
from kintsugi.core.file_names import EOD_NAME, ObjectKind
from kintsugi.core.settings import BUCKET, KEYSPACE
from kintsugi.db.ledger_entry import file_id
from kintsugi.pipeline.cassandra_session import connect_session
from kintsugi.pipeline.failures import format_reason, is_s3_error
from kintsugi.pipeline.object_listing import list_files, list_objects
from kintsugi.pipeline.stream.cql_values import cassandra_date
from kintsugi.pipeline.stream.derived_records import Day
from kintsugi.pipeline.stream.stored_trades import await_rows

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
BUCKET_INDEXES = {bucket: index for index, bucket in enumerate(product(*BUCKET_VALUES.values()))}
EOD_MANIFESTS = "manifests/eod/"
REFRESH_SECONDS = 1.0  # between two looks at the version of the table
CAPACITY = 10_000  # symbols and days held in memory, of 2.5 kB each: 25 MB
IN_FLIGHT = 64
VERSIONS = "stream_trades"  # the row of `stream_driver` that holds the version

if TYPE_CHECKING:
    Buckets = NDArray[np.float64]  # by index in BUCKET_INDEXES and in STATISTICS; NaN without a value
else:
    Buckets = np.ndarray


def buckets_from_rows(rows: Iterable[Sequence[Any]]) -> Buckets | None:
    """Return rows ``(option_type, delta_bin, expiry_bin, *STATISTICS)`` of one symbol and file as an array.

    None without rows. Volumes in contracts a day, volatilities as a fraction a year.
    """
    buckets = np.full((len(BUCKET_INDEXES), len(STATISTICS)), np.nan)
    has_rows = False
    for row in rows:
        index = BUCKET_INDEXES.get((row[0], row[1], row[2]))
        if index is not None:
            buckets[index] = [np.nan if value is None else value for value in row[3:]]
            has_rows = True
    return buckets if has_rows else None


class BaselineCache:
    """Baselines by symbol and day, in the driver: at most about ``capacity``, those that were used last."""

    def __init__(
        self, contact_points: list[str], refresh: float = REFRESH_SECONDS, capacity: int = CAPACITY
    ) -> None:
        self._contact_points = contact_points
        self._refresh, self._capacity = refresh, capacity
        self._session: Session | None = None
        self._cache: OrderedDict[Day, Buckets | None] = OrderedDict()
        self._version: int | None = None
        self._checked_at = -refresh

    def look_up(self, days: Iterable[Day]) -> Mapping[Day, Buckets | None]:
        """Return the baseline of each symbol and day; None where no file before the day has one.

        Raises KintsugiError when Cassandra can't be reached, and what the driver raises.
        """
        days = sorted(days)
        self._clear_if_announced()
        missing = [day for day in days if day not in self._cache]
        self._cache.update(zip(missing, self._read(missing), strict=True))
        for day in days:
            self._cache.move_to_end(day)
        result = {day: self._cache[day] for day in days}
        while len(self._cache) > self._capacity:
            self._cache.popitem(last=False)
        return result

    def _clear_if_announced(self) -> None:
        """Clear the cache when there is a new version; if the version can't be read, it is checked again later."""
        if time.monotonic() - self._checked_at < self._refresh:
            return
        self._checked_at = time.monotonic()
        try:
            version = self._read_version()
        except Exception as error:
            if self._version is None:
                raise
            log.warning("could not read the version of the baseline: %s; keeping the cached baselines", error)
            return
        if version != self._version:
            self._version = version
            self._cache.clear()

    def _connect(self) -> Session:
        if self._session is None:
            self._session = connect_session(self._contact_points, Principal.STREAM)
            self._newest = self._session.prepare(
                f"SELECT as_of, {', '.join((*BUCKET_VALUES, *STATISTICS))} FROM {KEYSPACE}.baseline "
                f"WHERE symbol = ? AND as_of < ? ORDER BY as_of DESC LIMIT {len(BUCKET_INDEXES)}"
            )
            # Not idempotent, so that the driver doesn't send the read twice: see `stored_trades.read_partitions`.
            self._newest.is_idempotent = False
        return self._session

    def _read_version(self) -> int:
        query = f"SELECT baseline_version FROM {KEYSPACE}.stream_driver WHERE name = '{VERSIONS}'"
        row = self._connect().execute(query).one()
        return (row.baseline_version if row else None) or 0

    def _read(self, days: list[Day]) -> list[Buckets | None]:
        """Read the rows of the newest file before each day: by partition key, many at a time."""
        result: list[Buckets | None] = []
        if not days:
            return result
        session = self._connect()
        for start in range(0, len(days), IN_FLIGHT):
            keys = [(symbol, cassandra_date(date)) for symbol, date in days[start : start + IN_FLIGHT]]
            futures = [session.execute_async(self._newest, key) for key in keys]
            for key, future in zip(keys, futures, strict=True):
                rows = await_rows(session, self._newest, key, future)
                result.append(buckets_from_rows(row[1:] for row in rows if row[0] == rows[0][0]))
        return result


def newest_before(rows: Iterable[Sequence[Any]], days: Iterable[Day]) -> dict[Day, Buckets | None]:
    """Return what `BaselineCache.look_up` would return if the table had these rows.

    ``rows``: ``(symbol, as_of, *<columns of buckets_from_rows>)``.
    """
    rows = list(rows)
    result = {}
    for symbol, date in days:
        before = [row for row in rows if row[0] == symbol and row[1] < date]
        newest = max((row[1] for row in before), default="")
        result[symbol, date] = buckets_from_rows(row[2:] for row in before if row[1] == newest)
    return result


def announce_baseline(session: Session) -> None:
    """Announce that the table ``baseline`` has changed: each driver reads it again within REFRESH_SECONDS."""
    session.execute(
        f"UPDATE {KEYSPACE}.stream_driver SET baseline_version = %s WHERE name = '{VERSIONS}'",
        (time.time_ns() // 1000,),
    )


def pending_files(s3: S3Client, bucket: str = BUCKET) -> list[str]:
    """List the keys of the installation's end-of-day files without a manifest; new content is another file."""
    return [item.key for item in _list_pending(s3, (own_source(s3, bucket),), bucket)]


def pending_uris(s3: S3Client, sources: Sequence[DataSource]) -> list[str]:
    """List the end-of-day files of all sources without a manifest, as ``s3://bucket/key``, by key.

    ``s3``: where the manifests are.
    """
    return [(item.source or sources[0]).uri(item.key) for item in _list_pending(s3, sources, BUCKET)]


def _list_pending(s3: S3Client, sources: Sequence[DataSource], bucket: str) -> list[S3Object]:
    # A manifest older than its file belongs to an earlier delivery of the same content (v1, v2, v1 again).
    manifests = {item["Key"]: item["LastModified"] for item in list_objects(s3, bucket, EOD_MANIFESTS)}
    files: list[S3Object] = []
    for source in sources:
        try:
            files += list_files(source, ObjectKind.EOD)
        except Exception as error:
            if not source.name or not is_s3_error(error):
                raise
            log.warning("s3://%s can't be listed: %s", source.bucket, format_reason(error))
    return sorted(
        (file for file in files if manifests.get(manifest_key(file.key, file.etag), NEVER) < file.modified),
        key=lambda file: file.key,
    )


def find_source(sources: Sequence[DataSource], uri: str) -> tuple[DataSource, str]:
    """Return the source and the key of an end-of-day file, given as ``s3://bucket/key`` or as a key of the first one.

    Raises InputError for a bucket that isn't a source.
    """
    if not uri.startswith("s3://"):
        return sources[0], uri
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    for source in sources:
        if source.bucket == bucket:
            return source, key
    raise InputError(
        f"{uri} isn't in a bucket of this installation; its buckets are {', '.join(s.bucket for s in sources)}"
    )


def manifest_key(key: str, etag: str) -> str:
    """Return the key of the manifest of one content of an end-of-day file."""
    return f"{EOD_MANIFESTS}{file_id(key, etag)}.json"
