"""List the files in S3, and find those that wait to be ingested."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from heapq import nlargest
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from kintsugi.core.data_source import PREFIX, DataSource, S3Object, own_source
from kintsugi.core.file_names import TRADES_NAME as NAME
from kintsugi.core.file_names import ObjectKind, kind_of
from kintsugi.core.settings import BUCKET
from kintsugi.db.ledger_entry import is_waiting
from kintsugi.pipeline.failures import format_reason, is_s3_error

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

    from kintsugi.db.ingest_ledger import IngestLedger  # not in the streaming driver's package

__all__ = [
    "NAME",
    "PREFIX",
    "PendingFileScanner",
    "S3Object",
    "list_objects",
    "list_own_trade_files",
    "list_trade_files",
    "list_waiting_files",
    "select_waiting",
]

log = logging.getLogger(__name__)

PAUSE_FACTOR = 50  # a full scan takes at most a fiftieth of the time
MAX_PAUSE_S = 60.0
RECENT_FOLDERS = 2
MAX_KEYS_IN_QUERY = 1000


def list_objects(s3: S3Client, bucket: str, prefix: str, after: str = "") -> Iterator[Any]:
    """Yield every object below ``prefix`` whose key comes after ``after``, with the fields that S3 lists.

    While an object is being put, S3Proxy sometimes lists it without its ETag (once in about ten thousand). The ETag of
    such an object is fetched. If it has none, or is gone, it is left out until the next listing.
    """
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix, StartAfter=after):
        for item in page.get("Contents", []):
            if "ETag" in item:
                yield item
            elif (etag := _fetch_etag(s3, bucket, item["Key"])) is not None:
                yield {**item, "ETag": etag}


def _fetch_etag(s3: S3Client, bucket: str, key: str) -> str | None:
    """Return the ETag of one object; None if there is no such object, or S3 returns no ETag."""
    from botocore.exceptions import ClientError

    try:
        head = s3.head_object(Bucket=bucket, Key=key)
    except ClientError as error:
        if error.response["Error"]["Code"] in ("404", "NoSuchKey"):
            return None
        raise
    etag: str | None = head.get("ETag")
    if etag is None:
        # One object must not prevent that the others are listed.
        log.warning("S3 returns no ETag of s3://%s/%s, so it is left out; upload it again", bucket, key)
    return etag


def list_own_trade_files(
    s3: S3Client, bucket: str = BUCKET, prefix: str = PREFIX, after: str = ""
) -> list[S3Object]:
    """List the trade files of the installation's bucket below ``prefix`` whose keys come after ``after``, by key.

    Objects of another kind (`kind_of`) are left out.
    """
    return list_files(own_source(s3, bucket), ObjectKind.TRADES, prefix, after)


def list_files(
    source: DataSource, kind: ObjectKind, prefix: str | None = None, after: str = ""
) -> list[S3Object]:
    """List the files of one kind in a source (below ``prefix``, if given), by key; raises what S3 raises."""
    prefix = source.prefixes[kind] if prefix is None else prefix
    return sorted(
        (
            S3Object(item["Key"], item["ETag"], item["Size"], item["LastModified"], source)
            for item in list_objects(source.client, source.bucket, prefix, after)
            if kind_of(item["Key"]) is kind
        ),
        key=lambda item: item.key,
    )


def list_trade_files(sources: Sequence[DataSource]) -> list[S3Object]:
    """List the trade files of all sources, by key; raises what S3 raises."""
    files = [file for source in sources for file in list_files(source, ObjectKind.TRADES)]
    return sorted(files, key=lambda file: file.key)


def select_waiting(
    files: Sequence[S3Object], ledger: IngestLedger, now: datetime | None = None
) -> list[S3Object]:
    """Return the files that the ingest has to take (`is_waiting`): new, interrupted and newly delivered ones."""
    if not files:
        return []
    now = now or datetime.now(UTC)
    entries = ledger.by_key({file.key for file in files} if len(files) <= MAX_KEYS_IN_QUERY else None)
    return [
        file
        for file in files
        if is_waiting(file.etag, file.modified, entries.get((file.bucket, file.key), ()), now)
    ]


def list_waiting_files(s3: S3Client, ledger: IngestLedger) -> list[S3Object]:
    """List the files of the installation's own bucket that wait, by key; raises what S3 and Postgres raise."""
    return select_waiting(list_own_trade_files(s3), ledger)


class PendingFileScanner:
    """Finds the files that wait to be ingested.

    1. A full scan lists every trade file. The next one is due after fifty times the duration of the last one, but
       after a minute at most.
    2. Between two full scans, only the folders with the newest files are listed, and there only the keys after the last
       finished file. That finds the next files of a feed.
    3. All other files (in another folder, with an earlier key, or with new content under a known key) are found by the
       next full scan.
    """

    def __init__(
        self, sources: Sequence[DataSource], ledger: IngestLedger, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._sources, self._ledger, self._clock = sources, ledger, clock
        self._full_scan_at = -math.inf
        self._last_finished: dict[tuple[int, str], str] = {}  # key by number of the source and folder

    def scan(self) -> list[S3Object]:
        """Return the files that wait, by key; raises what S3 and Postgres raise."""
        started = self._clock()
        if started < self._full_scan_at:
            return self._scan_recent_folders()
        waiting: list[S3Object] = []
        self._last_finished = {}
        for number, source in enumerate(self._sources):
            files = self._list_source(number, source.prefixes[ObjectKind.TRADES])
            waiting += select_waiting(files, self._ledger)
            self._note_recent_folders(number, files, waiting)
        ended = self._clock()
        self._full_scan_at = ended + min(PAUSE_FACTOR * (ended - started), MAX_PAUSE_S)
        return sorted(waiting, key=lambda file: file.key)

    def _list_source(self, number: int, prefix: str, after: str = "") -> list[S3Object]:
        """List the files of one source. If the user's bucket can't be listed, it counts as empty."""
        source = self._sources[number]
        try:
            return list_files(source, ObjectKind.TRADES, prefix, after)
        except Exception as error:
            if not source.name or not is_s3_error(error):
                raise
            log.warning("s3://%s can't be listed: %s", source.bucket, format_reason(error))
            return []

    def _note_recent_folders(self, number: int, files: list[S3Object], waiting: list[S3Object]) -> None:
        folders: dict[str, list[S3Object]] = {}
        for file in files:
            folders.setdefault(file.key[: file.key.rfind("/") + 1], []).append(file)
        newest = nlargest(
            RECENT_FOLDERS, folders, key=lambda name: max(file.modified for file in folders[name])
        )
        for name in newest:
            self._last_finished[number, name] = last_finished(folders[name], waiting) or name

    def _scan_recent_folders(self) -> list[S3Object]:
        all_waiting: set[S3Object] = set()  # one folder may contain another
        for (number, folder), key in self._last_finished.items():
            files = self._list_source(number, folder, key)
            waiting = select_waiting(files, self._ledger)
            self._last_finished[number, folder] = last_finished(files, waiting) or key
            all_waiting.update(waiting)
        return sorted(all_waiting, key=lambda file: file.key)


def last_finished(files: list[S3Object], waiting: list[S3Object]) -> str | None:
    """Return the last key of ``files`` (sorted by key) before the first one that waits; None if there is none."""
    unfinished = frozenset(waiting)
    finished = [file.key for file in takewhile(lambda file: file not in unfinished, files)]
    return finished[-1] if finished else None
