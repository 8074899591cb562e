"""Which trade files are in S3, and which of them wait to be ingested."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from heapq import nlargest
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from kintsugi.errors import InputError
from kintsugi.settings import BUCKET
from kintsugi.trades.ledger import Ledger

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

PREFIX = "trades/"
NAME = "UnderlyingOptionsTradesCalcs_"
REST = 50  # a whole look takes a fiftieth of the time at most
REST_AT_MOST_S = 60.0
WARM_FOLDERS = 2


@dataclass(frozen=True, slots=True)
class S3Object:
    """A trade file in S3; ``etag`` as S3 gives it, with its quotes; ``size`` in bytes; ``modified`` in UTC."""

    key: str
    etag: str
    size: int
    modified: datetime = field(default=datetime.min.replace(tzinfo=UTC), compare=False)


def objects(s3: S3Client, bucket: str, prefix: str, after: str = "") -> Iterator[Any]:
    """Every object below ``prefix`` whose key comes after ``after``, as S3 tells of it.

    S3Proxy lists an object that is just being put without its ETag, now and then (seen once in some ten thousand). Such
    a one is asked for by itself; one that isn't there is left for the next look. Raises InputError where a whole object
    has none.
    """
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix, StartAfter=after):
        for item in page.get("Contents", []):
            if "ETag" in item:
                yield item
            elif (etag := _etag(s3, bucket, item["Key"])) is not None:
                yield {**item, "ETag": etag}


def _etag(s3: S3Client, bucket: str, key: str) -> str | None:
    """The ETag of one object, None where there is no such object."""
    from botocore.exceptions import ClientError

    try:
        head = s3.head_object(Bucket=bucket, Key=key)
    except ClientError as error:
        if error.response["Error"]["Code"] in ("404", "NoSuchKey"):
            return None
        raise
    if "ETag" not in head:
        raise InputError(f"the store tells no ETag of s3://{bucket}/{key}; put the file there again")
    return head["ETag"]


def listed(s3: S3Client, bucket: str = BUCKET, prefix: str = PREFIX, after: str = "") -> list[S3Object]:
    """The trade files below ``prefix`` whose keys come after ``after``, by key; other objects are ignored."""
    return sorted(
        (
            S3Object(item["Key"], item["ETag"], item["Size"], item["LastModified"])
            for item in objects(s3, bucket, prefix, after)
            if item["Key"].rpartition("/")[2].startswith(NAME)
        ),
        key=lambda item: item.key,
    )


def unfinished(files: list[S3Object], ledger: Ledger) -> list[S3Object]:
    """Those that the ledger doesn't hold as finished; interrupted ones, and known keys with new content, too."""
    finished = ledger.finished() if files else set()
    return [item for item in files if (item.key, item.etag) not in finished]


def pending(s3: S3Client, ledger: Ledger) -> list[S3Object]:
    """The trade files that wait to be ingested, by key; raises what S3 and Postgres raise."""
    return unfinished(listed(s3), ledger)


class Lookout:
    """Finds the files that wait to be ingested.

    A whole look lists every trade file there is. It comes again when fifty times as long has passed as the last one
    took, or a minute. The looks in between ask the folders with the youngest files only for keys after the last one
    that is finished there: the next files of a feed. What comes elsewhere (another folder, a key before others, a known
    key with new content) waits for the next whole look.
    """

    def __init__(
        self, s3: S3Client, ledger: Ledger, bucket: str = BUCKET, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._s3, self._ledger, self._bucket, self._clock = s3, ledger, bucket, clock
        self._whole_at = -math.inf
        self._after: dict[str, str] = {}

    def pending(self) -> list[S3Object]:
        """The files found that the ledger doesn't hold as finished, by key; raises what S3 and Postgres raise."""
        began = self._clock()
        if began < self._whole_at:
            return self._next_ones()
        files = listed(self._s3, self._bucket)
        waiting = unfinished(files, self._ledger)
        folders: dict[str, list[S3Object]] = {}
        for item in files:
            folders.setdefault(item.key.rpartition("/")[0] + "/", []).append(item)
        warm = nlargest(WARM_FOLDERS, folders, key=lambda name: max(item.modified for item in folders[name]))
        self._after = {name: last_finished(folders[name], waiting) or name for name in warm}
        ended = self._clock()
        self._whole_at = ended + min(REST * (ended - began), REST_AT_MOST_S)
        return waiting

    def _next_ones(self) -> list[S3Object]:
        found: list[S3Object] = []
        for folder, after in self._after.items():
            files = listed(self._s3, self._bucket, folder, after)
            waiting = unfinished(files, self._ledger)
            self._after[folder] = last_finished(files, waiting) or after
            found += waiting
        return sorted(found, key=lambda item: item.key)


def last_finished(files: list[S3Object], waiting: list[S3Object]) -> str | None:
    """The last key of ``files`` (by key) before the first of them that waits; None when there is none."""
    still = frozenset(waiting)
    done = [item.key for item in takewhile(lambda item: item not in still, files)]
    return done[-1] if done else None
