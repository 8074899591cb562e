"""Which trade files are in S3, and which of them wait to be ingested."""

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
from kintsugi.pipeline.failures import is_of_s3, reason_of

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

    from kintsugi.db.ingest_ledger import IngestLedger  # not in the streaming driver's package

__all__ = [
    "NAME",
    "PREFIX",
    "PendingFileScanner",
    "S3Object",
    "listed",
    "objects",
    "pending",
    "trade_files",
    "unfinished",
]

log = logging.getLogger(__name__)

REST = 50  # a whole look takes a fiftieth of the time at most
REST_AT_MOST_S = 60.0
WARM_FOLDERS = 2
FEW_KEYS = 1000


def objects(s3: S3Client, bucket: str, prefix: str, after: str = "") -> Iterator[Any]:
    """Every object below ``prefix`` whose key comes after ``after``, as S3 tells of it.

    S3Proxy lists an object that is just being put without its ETag, now and then (seen once in some ten thousand). Such
    a one is asked for by itself; one that isn't there, or has none, is left for the next look.
    """
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix, StartAfter=after):
        for item in page.get("Contents", []):
            if "ETag" in item:
                yield item
            elif (etag := _etag(s3, bucket, item["Key"])) is not None:
                yield {**item, "ETag": etag}


def _etag(s3: S3Client, bucket: str, key: str) -> str | None:
    """The ETag of one object, None where there is no such object, or S3 tells none."""
    from botocore.exceptions import ClientError

    try:
        head = s3.head_object(Bucket=bucket, Key=key)
    except ClientError as error:
        if error.response["Error"]["Code"] in ("404", "NoSuchKey"):
            return None
        raise
    etag: str | None = head.get("ETag")
    if etag is None:
        # One object must not keep the others from being listed.
        log.warning("S3 tells no ETag of s3://%s/%s, so it is left out; put it there again", bucket, key)
    return etag


def listed(s3: S3Client, bucket: str = BUCKET, prefix: str = PREFIX, after: str = "") -> list[S3Object]:
    """The trade files of the installation's bucket below ``prefix`` whose keys come after ``after``, by key.

    Other objects are left out; `kind_of` says what they are.
    """
    return files_of(own_source(s3, bucket), ObjectKind.TRADES, prefix, after)


def files_of(
    source: DataSource, kind: ObjectKind, prefix: str | None = None, after: str = ""
) -> list[S3Object]:
    """The files of one kind in a source (below ``prefix``, where given), by key; raises what S3 raises."""
    prefix = source.prefixes[kind] if prefix is None else prefix
    return sorted(
        (
            S3Object(item["Key"], item["ETag"], item["Size"], item["LastModified"], source)
            for item in objects(source.client, source.bucket, prefix, after)
            if kind_of(item["Key"]) is kind
        ),
        key=lambda item: item.key,
    )


def trade_files(sources: Sequence[DataSource]) -> list[S3Object]:
    """The trade files of all sources, by key; raises what S3 raises."""
    found = [item for source in sources for item in files_of(source, ObjectKind.TRADES)]
    return sorted(found, key=lambda item: item.key)


def unfinished(
    files: Sequence[S3Object], ledger: IngestLedger, now: datetime | None = None
) -> list[S3Object]:
    """Those that the ingest has to take (`is_waiting`): new ones, interrupted ones, and new deliveries."""
    if not files:
        return []
    now = now or datetime.now(UTC)
    rows = ledger.by_key({item.key for item in files} if len(files) <= FEW_KEYS else None)
    return [
        item
        for item in files
        if is_waiting(item.etag, item.modified, rows.get((item.bucket, item.key), ()), now)
    ]


def pending(s3: S3Client, ledger: IngestLedger) -> list[S3Object]:
    """The files of the installation's own bucket that wait, by key; raises what S3 and Postgres raise."""
    return unfinished(listed(s3), ledger)


class PendingFileScanner:
    """Finds the files that wait to be ingested.

    A whole look lists every trade file there is. It comes again when fifty times as long has passed as the last one
    took, or a minute. The looks in between ask the folders with the youngest files only for keys after the last one
    that is finished there: the next files of a feed. What comes elsewhere (another folder, a key before others, a known
    key with new content) waits for the next whole look.
    """

    def __init__(
        self, sources: Sequence[DataSource], ledger: IngestLedger, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._sources, self._ledger, self._clock = sources, ledger, clock
        self._whole_at = -math.inf
        self._after: dict[tuple[int, str], str] = {}

    def pending(self) -> list[S3Object]:
        """The files found that wait, by key; raises what S3 and Postgres raise."""
        began = self._clock()
        if began < self._whole_at:
            return self._next_ones()
        waiting: list[S3Object] = []
        self._after = {}
        for number, source in enumerate(self._sources):
            files = self._files(number, source.prefixes[ObjectKind.TRADES])
            waiting += unfinished(files, self._ledger)
            self._note_folders(number, files, waiting)
        ended = self._clock()
        self._whole_at = ended + min(REST * (ended - began), REST_AT_MOST_S)
        return sorted(waiting, key=lambda item: item.key)

    def _files(self, number: int, prefix: str, after: str = "") -> list[S3Object]:
        """The files of one source; none of the user's bucket while it can't be listed, so that others come in."""
        source = self._sources[number]
        try:
            return files_of(source, ObjectKind.TRADES, prefix, after)
        except Exception as error:
            if not source.name or not is_of_s3(error):
                raise
            log.warning("s3://%s can't be listed: %s", source.bucket, reason_of(error))
            return []

    def _note_folders(self, number: int, files: list[S3Object], waiting: list[S3Object]) -> None:
        folders: dict[str, list[S3Object]] = {}
        for item in files:
            folders.setdefault(item.key[: item.key.rfind("/") + 1], []).append(item)
        warm = nlargest(WARM_FOLDERS, folders, key=lambda name: max(item.modified for item in folders[name]))
        for name in warm:
            self._after[number, name] = last_finished(folders[name], waiting) or name

    def _next_ones(self) -> list[S3Object]:
        found: set[S3Object] = set()  # folders may lie in one another
        for (number, folder), after in self._after.items():
            files = self._files(number, folder, after)
            waiting = unfinished(files, self._ledger)
            self._after[number, folder] = last_finished(files, waiting) or after
            found.update(waiting)
        return sorted(found, key=lambda item: item.key)


def last_finished(files: list[S3Object], waiting: list[S3Object]) -> str | None:
    """The last key of ``files`` (by key) before the first of them that waits; None when there is none."""
    still = frozenset(waiting)
    done = [item.key for item in takewhile(lambda item: item not in still, files)]
    return done[-1] if done else None
