"""Where backups lie: the installation's own bucket, the user's bucket, or a directory with a copy of either.

The connection ``kintsugi_backup`` names the user's bucket, as ``kintsugi_data`` names the one with market data:
``extra.service_config.s3.bucket_name``, and ``prefix`` for a place in it. It needs ``s3:ListBucket``, ``s3:GetObject``,
``s3:PutObject``, ``s3:DeleteObject`` and ``s3:AbortMultipartUpload``. Without it backups go to the own bucket, which is
lost with the machine.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from kintsugi.controlplane.s3proxy import bucket_below, server_directory
from kintsugi.core.connections import BACKUP_CONNECTION, read_connection, s3_client
from kintsugi.core.errors import KintsugiError, StepFailed
from kintsugi.core.s3_keys import S3Purpose
from kintsugi.core.settings import BUCKET
from kintsugi.core.user_bucket import connection_client, service_fields
from kintsugi.core.user_connections import user_connections
from kintsugi.installation.backup_manifest import PREFIX

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

    from kintsugi.core.settings import Settings

_IN_ONE_REQUEST = 64 * 2**20  # bytes; a larger object is sent in parts of PART
_PART = 16 * 2**20


class BackupSource(Protocol):
    """A place that backups are read from. Keys are those below its prefix; every method raises StepFailed."""

    def sizes(self) -> dict[str, int]:
        """Return the size in bytes of everything below ``backups/``, by key."""

    def read(self, key: str) -> bytes:
        """Return a small object."""

    def fetch(self, key: str, target: Path) -> None:
        """Copy an object into the file ``target``."""


@dataclass(frozen=True, slots=True)
class BucketPlace:
    """A bucket with backups below ``prefix``; backups are written to it, too."""

    client: S3Client
    bucket: str
    prefix: str = ""

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}{PREFIX} at {self.client.meta.endpoint_url}"

    def sizes(self) -> dict[str, int]:
        with self._errors():
            pages = self.client.get_paginator("list_objects_v2").paginate(
                Bucket=self.bucket, Prefix=self.prefix + PREFIX
            )
            return {
                one["Key"].removeprefix(self.prefix): one["Size"]
                for page in pages
                for one in page.get("Contents", ())
            }

    def read(self, key: str) -> bytes:
        with self._errors():
            return self.client.get_object(Bucket=self.bucket, Key=self.prefix + key)["Body"].read(2**20)

    def fetch(self, key: str, target: Path) -> None:
        from boto3.s3.transfer import TransferConfig

        config = TransferConfig(multipart_chunksize=_PART, max_concurrency=2)
        with self._errors():
            self.client.download_file(self.bucket, self.prefix + key, str(target), Config=config)

    def upload(self, key: str, source: Path) -> None:
        """Copy the file ``source`` into an object; without threads, so at most one part is in memory."""
        from boto3.s3.transfer import TransferConfig

        config = TransferConfig(
            multipart_threshold=_IN_ONE_REQUEST, multipart_chunksize=_PART, use_threads=False
        )
        with self._errors():
            self.client.upload_file(str(source), self.bucket, self.prefix + key, Config=config)

    def write(self, key: str, body: bytes) -> None:
        """Write a small object."""
        with self._errors():
            self.client.put_object(Bucket=self.bucket, Key=self.prefix + key, Body=body)

    def delete(self, keys: Collection[str]) -> None:
        """Delete these objects, one after the other."""
        with self._errors():
            for key in keys:
                self.client.delete_object(Bucket=self.bucket, Key=self.prefix + key)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        from boto3.exceptions import Boto3Error
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield
        except (Boto3Error, BotoCoreError, ClientError) as error:
            reason = " ".join(str(error).split())
            raise StepFailed(f"the backups' place {self} can't be used: {reason}") from error


@dataclass(frozen=True, slots=True)
class DirectoryPlace:
    """A directory that holds ``backups/``: a copy of a bucket, or the data of an S3 server that doesn't run."""

    directory: Path

    def __str__(self) -> str:
        return str(self.directory / PREFIX)

    def sizes(self) -> dict[str, int]:
        with self._errors():
            return {
                str(path.relative_to(self.directory)): path.stat().st_size
                for path in (self.directory / PREFIX).rglob("*")
                if path.is_file()
            }

    def read(self, key: str) -> bytes:
        with self._errors():
            return (self.directory / key).read_bytes()

    def fetch(self, key: str, target: Path) -> None:
        with self._errors():
            shutil.copyfile(self.directory / key, target)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StepFailed(f"the backups' place {self} can't be used: {error}") from error


def place_to_write(settings: Settings) -> BucketPlace:
    """Return where backups are written. Raises KintsugiError if the user's connection can't be used."""
    return _users_bucket() or BucketPlace(s3_client(settings, S3Purpose.BACKUP), BUCKET)


def place_to_read(settings: Settings) -> BackupSource:
    """Return where a restore looks for backups: the user's bucket, else the own one.

    The own S3 server doesn't run during a restore, so its data are read from the disk. Raises KintsugiError if they
    are gone, or if the user's connection can't be used.
    """
    users = _users_bucket()
    if users is not None:
        return users
    own = bucket_below(
        server_directory(settings)
    )  # no ObjectStore: it would make keys, and a restore brings them
    if not own.is_dir():
        raise KintsugiError(
            f"there is no place with backups: the connection {BACKUP_CONNECTION} is not defined, and the "
            f"installation's own S3 data are gone ({own}). Define the connection (docs/operations.md), or name a "
            "directory with a copy of the backups (DIRECTORY=)"
        )
    return DirectoryPlace(own)


def _users_bucket() -> BucketPlace | None:
    conn = read_connection(BACKUP_CONNECTION) or user_connections().get(BACKUP_CONNECTION)
    if conn is None:
        return None
    fields = service_fields(conn, BACKUP_CONNECTION)
    bucket, prefix = fields.get("bucket_name"), fields.get("prefix", "")
    if not bucket or not isinstance(bucket, str) or not isinstance(prefix, str) or prefix.startswith("/"):
        raise KintsugiError(
            f"the connection {BACKUP_CONNECTION} names no bucket: set extra.service_config.s3.bucket_name, and "
            "prefix to the beginning of keys, as kintsugi/ (or leave it out)"
        )
    return BucketPlace(connection_client(BACKUP_CONNECTION, conn), bucket, prefix)
