"""What is usual: the baseline table, read for the stream."""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from kintsugi.errors import InputError
from kintsugi.settings import BUCKET, KEYSPACE
from kintsugi.trades.arrivals import files_of, objects
from kintsugi.trades.data_source import EOD_PREFIX, DataSource, S3Object, own_source
from kintsugi.trades.failures import is_of_s3, reason_of
from kintsugi.trades.file_names import EOD_NAME, ObjectKind
from kintsugi.trades.ledger import file_id

if TYPE_CHECKING:
    from cassandra.cluster import Session
    from mypy_boto3_s3.client import S3Client

__all__ = ["EOD_NAME", "EOD_PREFIX", "BaselineCache", "manifest_key", "pending_files", "pending_uris", "read"]

log = logging.getLogger(__name__)

BASELINE_SCHEMA = (
    "symbol string, as_of string, until string, option_type string, delta_bin string, expiry_bin string, "
    "volume_count int, volume_mean double, volume_median double, volume_stddev double, volume_log_stddev double, "
    "iv_count int, iv_median double, iv_stddev double, iv_log_stddev double"
)
STATISTICS = (
    "volume_count", "volume_mean", "volume_median", "volume_stddev", "volume_log_stddev",
    "iv_count", "iv_median", "iv_stddev", "iv_log_stddev",
)  # fmt: skip
EOD_MANIFESTS = "manifests/eod/"
FOREVER = "9999-12-31"
NEVER = datetime.min.replace(tzinfo=UTC)
REFRESH_SECONDS = 60.0

Usual = tuple[Any, ...]


def with_validity(rows: Iterable[tuple[Any, ...]]) -> list[Usual]:
    """Say until when each row is valid; returns rows of `BASELINE_SCHEMA`.

    In: ``(symbol, as_of, option_type, delta_bin, expiry_bin, *STATISTICS)``.
    A file is valid for the trade dates after its own day, up to and including the day of the symbol's
    next file (``until``): the day of a file is measured by the file before it.
    """
    days: dict[str, set[str]] = defaultdict(set)
    rows = list(rows)
    for row in rows:
        days[row[0]].add(row[1])
    until: dict[tuple[str, str], str] = {}
    for symbol, dates in days.items():
        ordered = sorted(dates)
        for day, following in zip(ordered, [*ordered[1:], FOREVER], strict=True):
            until[symbol, day] = following
    return [(r[0], r[1], until[r[0], r[1]], *r[2:]) for r in rows]


def read(session: Session) -> list[Usual]:
    """The whole baseline table as rows of `BASELINE_SCHEMA`."""
    found = session.execute(
        f"SELECT symbol, as_of, option_type, delta_bin, expiry_bin, {', '.join(STATISTICS)} FROM {KEYSPACE}.baseline"
    )
    return with_validity((r[0], str(r[1]), *r[2:]) for r in found)


class BaselineCache:
    """The baseline in the driver, read again every minute; the last one is kept while Cassandra is away."""

    def __init__(self, contact_points: list[str], refresh: float = REFRESH_SECONDS) -> None:
        self._contact_points = contact_points
        self._refresh = refresh
        self._session: Session | None = None
        self._rows: list[Usual] = []
        self._read_at = -refresh

    def rows(self, *, anew: bool = False) -> list[Usual]:
        """Rows of `BASELINE_SCHEMA`, the same list until they are read again; ``anew``: now.

        Raises KintsugiError only if none could ever be read.
        """
        from kintsugi.trades.cassandra import connect

        if not anew and time.monotonic() - self._read_at < self._refresh:
            return self._rows
        first = self._session is None
        try:
            self._session = self._session or connect(self._contact_points)
            self._rows = read(self._session)
        except Exception as error:
            if first:
                raise
            log.warning("could not read the baseline again: %s; keeping the last one", error)
        self._read_at = time.monotonic()
        return self._rows


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
