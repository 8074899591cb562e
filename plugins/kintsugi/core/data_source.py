"""The source of market data files: a bucket, and the prefix of each kind of file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from kintsugi.core.file_names import ObjectKind
from kintsugi.core.settings import BUCKET

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

PREFIX = "trades/"
EOD_PREFIX = "eod/"
OWN_PREFIXES: Mapping[ObjectKind, str] = {ObjectKind.TRADES: PREFIX, ObjectKind.EOD: EOD_PREFIX}


@dataclass(frozen=True, slots=True)
class DataSource:
    """A bucket that files are read from; nothing is ever written through it.

    ``prefixes``: the prefix of each kind of file. ``name``: the bucket's name in the ledger. It is empty for the
    installation's own bucket, so that existing rows stay valid.
    """

    client: S3Client
    bucket: str = BUCKET
    prefixes: Mapping[ObjectKind, str] = field(default_factory=lambda: OWN_PREFIXES)
    name: str = ""

    def uri(self, key: str) -> str:
        """``s3://bucket/key``."""
        return f"s3://{self.bucket}/{key}"


@dataclass(frozen=True, slots=True)
class S3Object:
    """A file in S3; ``etag`` as S3 gives it, with its quotes; ``size`` in bytes; ``modified`` in UTC.

    ``source``: the bucket that holds it; None: the installation's own.
    """

    key: str
    etag: str
    size: int
    modified: datetime = field(default=datetime.min.replace(tzinfo=UTC), compare=False)
    source: DataSource | None = field(default=None, compare=False, repr=False)

    @property
    def bucket(self) -> str:
        """The bucket's name in the ledger."""
        return self.source.name if self.source else ""


def own_source(s3: S3Client, bucket: str = BUCKET, prefix: str = PREFIX) -> DataSource:
    """Return the installation's own bucket, with trade files below ``prefix``."""
    return DataSource(s3, bucket, {**OWN_PREFIXES, ObjectKind.TRADES: prefix})
