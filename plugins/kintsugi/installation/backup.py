"""Back up the control plane: `kintsugi backup`, and the DAG `back_up_control_plane` each night.

1. Both databases are dumped, each as one snapshot, into a private directory.
2. Dumps, secrets and releases become one encrypted file (`core.encryption`). If a file was changed meanwhile, as by a
   rotation of secrets, all of it begins again, so that files and databases belong together.
3. The encrypted file is uploaded, then the manifest. Only a backup with a manifest counts, so that a process that is
   killed anywhere leaves no half backup.
4. What is older than the newest ``KINTSUGI_BACKUPS_KEPT`` backups is deleted: the manifest first, then the object.

Memory is bounded; the disk holds the dumps and the encrypted file until the upload has ended.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from kintsugi.controlplane.database_dumps import DATABASES, dump_database
from kintsugi.controlplane.postgres import Postgres
from kintsugi.core.backup_key import ensure_key, key_path
from kintsugi.core.backup_record import record_backup
from kintsugi.core.encryption import EncryptingWriter, key_id
from kintsugi.core.errors import GuardRefused, KintsugiError, StepFailed
from kintsugi.core.settings import Settings
from kintsugi.installation.backup_content import (
    ContentChanged,
    content_digest,
    describe_installation,
    write_content,
)
from kintsugi.installation.backup_manifest import (
    MANIFEST,
    OBJECT,
    PREFIX,
    BackupManifest,
    group_by_backup,
    manifest_key,
    new_id,
    object_key,
    time_of,
)
from kintsugi.installation.backup_place import BucketPlace, place_to_write
from kintsugi.releases.archive import digest_of

KEPT = "KINTSUGI_BACKUPS_KEPT"
KEPT_DEFAULT = 14
TRIES = 3
HALF_WRITTEN = timedelta(days=1)
"""Files of a backup without a manifest are deleted after this time. No upload takes longer."""


@dataclass(frozen=True, slots=True)
class Backup:
    """A backup that was made. ``key_made``: its key file was made for it, and exists nowhere else."""

    manifest: BackupManifest
    place: str
    key_file: Path
    key_made: bool
    deleted: int

    def __str__(self) -> str:
        lines = [
            f"backup {self.manifest.id}: {self.manifest.size:,} bytes, encrypted, in {self.place}"
            + (f"; {self.deleted} older ones deleted" if self.deleted else "")
        ]
        if self.key_made:
            lines.append(
                f"The key of all backups was made: {self.key_file}. COPY IT TO ANOTHER PLACE NOW. "
                "It is in no backup and in no bucket. Without it no backup can be restored."
            )
        return "\n".join(lines)


def back_up(
    settings: Settings,
    *,
    place: BucketPlace | None = None,
    new_key: bool = False,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Backup:
    """Make one backup of a running control plane of the environment `local`, and delete the oldest ones.

    ``place``: where to; default: `place_to_write`. ``new_key``: make a key where backups with another one exist.

    Raises GuardRefused if another backup runs or the environment is
    another one; KintsugiError if key, Postgres or S3 can't be used, and then no backup was made.
    """
    if settings.fleet.environment != "local":
        raise GuardRefused(
            f"the environment {settings.fleet.environment} can't be backed up yet; copy its volume of Postgres instead"
        )
    kept = backups_kept()
    server = Postgres.of(settings)
    if not server.accepts():
        raise StepFailed(
            "Postgres of the control plane does not answer, so there is nothing to back up: `make up`"
        )
    place = place or place_to_write(settings)
    with _work_directory(settings) as directory:
        sizes = place.sizes()  # before the work begins: a place that can't be reached is reported at once
        if not new_key:
            _require_old_key(sizes)
        key, key_made = ensure_key(settings, key_path())
        backup = new_id(clock())
        writer, dumps = _write_object(settings, server, key, backup, directory)
        manifest = BackupManifest(
            id=backup,
            fleet=settings.fleet.name,
            environment=settings.fleet.environment,
            release=digest_of(settings),
            key=key_id(key),
            size=writer.size,
            sha256=writer.sha256,
            dumps=dumps,
        )
        place.upload(object_key(backup), directory / OBJECT)
        place.write(manifest_key(backup), manifest.to_json().encode())
        record_backup(settings, manifest.made_at)
        expired = keys_to_delete(sizes, backup, kept)
        place.delete(expired)
    deleted = sum(key.endswith(f"/{OBJECT}") for key in expired)
    return Backup(manifest, str(place), key_path(), key_made, deleted)


def backups_kept() -> int:
    """Return how many backups are kept: ``KINTSUGI_BACKUPS_KEPT``, else 14. Raises KintsugiError for a wrong value."""
    text = os.environ.get(KEPT) or str(KEPT_DEFAULT)
    if not (text.isascii() and text.isdigit() and int(text) >= 1):
        raise KintsugiError(f"{KEPT} is {text!r}: set it to a whole number of at least 1")
    return int(text)


def keys_to_delete(sizes: dict[str, int], newest: str, kept: int) -> list[str]:
    """Return the keys to delete, in this order, after the backup ``newest`` was made. Pure.

    ``sizes``: what was there before it. Of each backup that is too old the manifest goes first, so that the rest
    doesn't count any more. Backups without a manifest go if they are older than HALF_WRITTEN.
    """
    backups = group_by_backup(sizes)
    complete = sorted((backup for backup, files in backups.items() if MANIFEST in files), reverse=True)
    half = [
        backup
        for backup, files in backups.items()
        if MANIFEST not in files and time_of(newest) - time_of(backup) > HALF_WRITTEN
    ]
    return [
        f"{PREFIX}{backup}/{name}"
        for backup in (*complete[kept - 1 :], *sorted(half))
        for name in sorted(backups[backup], key=lambda name: name != MANIFEST)
    ]


def _require_old_key(sizes: dict[str, int]) -> None:
    """Refuse to make another key unasked: its owner would believe that his copy of the old one is enough."""
    if not key_path().exists() and any(MANIFEST in files for files in group_by_backup(sizes).values()):
        raise GuardRefused(
            f"the key of the backups is not in {key_path()}, and there are backups that need it: put your copy of "
            "it there. If it is lost, `kintsugi backup --new-key` makes another one, and older backups are lost with it"
        )


def _write_object(
    settings: Settings, server: Postgres, key: bytes, backup: str, directory: Path
) -> tuple[EncryptingWriter, dict[str, int]]:
    """Write the encrypted file; returns its writer, and the sizes of the dumps by database."""
    for attempt in range(1, TRIES + 1):
        try:
            return _try_object(settings, server, key, backup, directory)
        except ContentChanged:
            if attempt == TRIES:
                raise
        except OSError as error:
            raise StepFailed(f"the backup could not be written: {error}") from error
    raise AssertionError("unreachable")


def _try_object(
    settings: Settings, server: Postgres, key: bytes, backup: str, directory: Path
) -> tuple[EncryptingWriter, dict[str, int]]:
    dumps = directory / "dumps"
    shutil.rmtree(dumps, ignore_errors=True)
    dumps.mkdir(mode=0o700)
    before = content_digest(settings)
    for database in DATABASES:
        dump_database(server, database, dumps / f"{database}.dump")
    with (directory / OBJECT).open("wb") as file:
        writer = EncryptingWriter(file, key, backup)
        write_content(writer, settings, describe_installation(settings, backup), dumps)
        writer.finish()
    if content_digest(settings) != before:
        raise ContentChanged(
            "secrets, releases or the fleet file were changed while they were backed up, "
            f"{TRIES} times: try again when the rotation or roll-out has ended"
        )
    return writer, {database: (dumps / f"{database}.dump").stat().st_size for database in DATABASES}


@contextmanager
def _work_directory(settings: Settings) -> Iterator[Path]:
    """Yield an empty private directory, which one backup at a time uses; it is gone after the block."""
    directory = settings.control / "backup"
    with (settings.control / "backup.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise GuardRefused("another backup is under way: wait for it") from error
        try:
            shutil.rmtree(directory, ignore_errors=True)  # of a backup that was killed
            directory.mkdir(mode=0o700)
            yield directory
        finally:
            shutil.rmtree(directory, ignore_errors=True)
