"""Restore the control plane from a backup: `kintsugi restore`, on a machine that has lost it while its nodes run.

1. It refuses to run beside a control plane that runs, and where files of one lie.
2. The newest complete backup (or the one that is named) is fetched and compared with its manifest. All of it is
   decrypted, and each chunk authenticated, into ``<state>/restore``, a directory that nothing else uses.
3. A new Postgres there gets both databases. What they say about the present is corrected (`db.restored_facts`,
   `controlplane.airflow_runs`), so that no later step can act upon it.
4. Only now anything is put in place, each part by one rename. A file marks that this has begun.
5. ``<state>/restore`` is removed, and `make up` may run. It refuses as long as the directory is there.

It may be killed anywhere and run again: before the mark it begins anew, after it, it goes on with the renames.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

from kintsugi.controlplane.airflow_runs import end_unfinished_runs
from kintsugi.controlplane.database_dumps import DATABASES, restore_database, run_server
from kintsugi.controlplane.postgres import AIRFLOW_DATABASE, STORE_DATABASE, Postgres
from kintsugi.core.backup_key import key_path, load_key
from kintsugi.core.encryption import BackupAltered, BackupCutShort, BackupRefused, DecryptingReader
from kintsugi.core.errors import GuardRefused, KintsugiError, StepFailed
from kintsugi.core.files import write_private
from kintsugi.core.processes import owned_pids
from kintsugi.db.restored_facts import RestoredFacts
from kintsugi.installation.backup_content import (
    DUMPS,
    FLEET_FILE,
    ITEMS,
    STATE,
    About,
    describe_user,
    read_content,
)
from kintsugi.installation.backup_manifest import (
    MANIFEST,
    OBJECT,
    BackupManifest,
    group_by_backup,
    is_id,
    manifest_key,
    object_key,
    parse_manifest,
)
from kintsugi.installation.backup_place import BackupSource, place_to_read
from kintsugi.installation.installation_lock import hold_installation_lock

if TYPE_CHECKING:
    from kintsugi.core.settings import Settings

STAGING, REMOVED = "restore", "restore.old"  # below the state directory
_VERIFIED = "verified"
"""In STAGING: the id of the backup whose parts are all there. From here on they are put in place."""

_POSTGRES = "control/postgres"
_PORT = 5432  # only a part of the name of a socket in STAGING


@dataclass(frozen=True, slots=True)
class Restored:
    """A control plane that was put in place. ``text``: what was restored and corrected, for people."""

    backup: str
    text: str

    def __str__(self) -> str:
        return self.text


def require_no_restore(settings: Settings) -> None:
    """Raise GuardRefused while a restore of this installation has begun and not ended."""
    staging = settings.state / STAGING
    if staging.exists():
        raise GuardRefused(
            f"a restore was begun and has not ended ({staging}): run `make restore` again. To start without "
            "what it restores, delete that directory first"
        )


def restore(settings: Settings, *, backup: str | None = None, source: BackupSource | None = None) -> Restored:
    """Restore the control plane of the environment `local`, and leave it stopped.

    ``backup``: the id of the backup; default: the newest complete one. ``source``: where it is; default:
    `place_to_read`. Raises GuardRefused if a control plane is there, BackupRefused if the backup can't be used,
    KintsugiError if place, key or Postgres can't be used. Nothing is in place then.
    """
    with hold_installation_lock(settings):
        _require_stopped(settings)
        staging = settings.state / STAGING
        if not (staging / _VERIFIED).exists():
            _require_empty(settings)
            key = load_key(key_path())
            _remove_staging(staging)
            staging.mkdir(mode=0o711)  # Postgres runs as a user of its own, and must reach its directory
            # Airflow's provider of S3 clients makes its home when it is loaded; not in the place of the real one.
            os.environ["AIRFLOW_HOME"] = str(staging / "airflow-home")
            try:
                text = _prepare(settings, staging, key, backup, source)
            except StepFailed:
                raise  # its logs are in STAGING
            except KintsugiError:
                _remove_staging(staging)
                raise
            write_private(staging / _VERIFIED, text)
        text = (staging / _VERIFIED).read_text()
        _put_in_place(settings, staging)
        return Restored(text.partition(":")[0], text)


def _require_stopped(settings: Settings) -> None:
    if running := owned_pids(settings.control) - {os.getpid()}:
        pids = ", ".join(map(str, sorted(running)))
        raise GuardRefused(
            f"the control plane of {settings.state} runs (pid {pids}), and a restore would replace it under its "
            "hands. It is for a machine that has lost its control plane"
        )


def _require_empty(settings: Settings) -> None:
    there = [
        path
        for path in (settings.state / item for item in (_POSTGRES, *ITEMS))
        if path.exists() and not (path.is_dir() and not any(path.iterdir()))
    ]
    if there:
        raise GuardRefused(
            f"{settings.state} holds a control plane: {', '.join(map(str, there))}. `make up` starts it. "
            "To restore a backup instead, move these to another place first"
        )


def _prepare(
    settings: Settings, staging: Path, key: bytes, backup: str | None, source: BackupSource | None
) -> str:
    """Make everything that is put in place later; returns what was restored, as text that begins with the backup."""
    source = source or place_to_read(settings)
    manifest = choose_backup(source, backup)
    content = staging / "content"
    content.mkdir(mode=0o700)
    fetched = staging / OBJECT
    source.fetch(object_key(manifest.id), fetched)
    fetched.chmod(0o600)
    verify_object(fetched, manifest)
    with fetched.open("rb") as file:
        reader = DecryptingReader(file, key, manifest.id)
        about = read_content(cast("BinaryIO", reader), content)
    _require_same_installation(settings, about)
    _require_fleet_file(settings, content / FLEET_FILE, manifest.id)
    facts = _restore_databases(staging, content / DUMPS, manifest.id)
    fetched.unlink()
    made = f"{manifest.made_at:%Y-%m-%d %H:%M:%S} UTC on {about.host}"
    return f"{manifest.id}: the control plane as it was at {made}. {facts}"


def choose_backup(source: BackupSource, backup: str | None = None) -> BackupManifest:
    """Return the manifest of the newest complete backup, or of ``backup``.

    A backup is complete if its manifest is there, and its object with the size that the manifest says. Raises
    BackupRefused if there is none, or if ``backup`` isn't complete.
    """
    backups = group_by_backup(source.sizes())
    if backup is not None and (not is_id(backup) or backup not in backups):
        known = ", ".join(sorted(backups, reverse=True)[:5]) or "none"
        raise BackupRefused(f"there is no backup {backup!r} in {source}; the newest are: {known}")
    reasons = []
    for name in [backup] if backup is not None else sorted(backups, reverse=True):
        files = backups[name]
        if MANIFEST not in files:
            reasons.append(f"{name} was never completed")
            continue
        manifest = parse_manifest(name, source.read(manifest_key(name)))
        if files.get(OBJECT) == manifest.size:
            return manifest
        reasons.append(f"{name} has {files.get(OBJECT, 0)} of {manifest.size} bytes")
    why = "; ".join(reasons[:5]) or "there is none"
    raise BackupRefused(f"no complete backup in {source}: {why}")


def verify_object(path: Path, manifest: BackupManifest) -> None:
    """Compare a fetched object with its manifest. Raises BackupCutShort or BackupAltered."""
    size = path.stat().st_size
    if size < manifest.size:
        raise BackupCutShort(f"the backup {manifest.id} is cut short: {size} of {manifest.size} bytes")
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if (size, digest) != (manifest.size, manifest.sha256):
        raise BackupAltered(
            f"the backup {manifest.id} is altered: its SHA-256 is {digest}, and the manifest says {manifest.sha256}. "
            "Name another backup"
        )


def _require_same_installation(settings: Settings, about: About) -> None:
    if about.environment != "local":
        raise BackupRefused(
            f"the backup is of the environment {about.environment}; only local can be restored"
        )
    for what, then, now, how in (
        ("state directory", about.state, str(settings.state), "set KINTSUGI_STATE to it"),
        ("user", about.user, describe_user(), "run the command as that user"),
    ):
        if then != now:
            raise BackupRefused(f"the {what} of the backup is {then}, and here it is {now}: {how}")


def _require_fleet_file(settings: Settings, restored: Path, backup: str) -> None:
    """Refuse another fleet file: Terraform would replace every node that differs from it."""
    path = settings.fleet_file
    if path.exists() and path.read_bytes() != restored.read_bytes():
        copy = settings.state / f"fleet-of-{backup}.yaml"
        shutil.copyfile(restored, copy)
        raise BackupRefused(
            f"{path} differs from the fleet file of the backup, and `make up` would replace the nodes that differ. "
            f"The backup's is {copy}: compare them, copy it to {path}, then restore again"
        )


def _restore_databases(staging: Path, dumps: Path, backup: str) -> str:
    """Make a Postgres in STAGING with both databases, and correct them; returns what was corrected, as text."""
    server = Postgres(socket=staging / "socket", port=_PORT, data=staging / "postgres")
    with run_server(server, staging / "postgres.log"):
        for database in DATABASES:
            restore_database(server, database, dumps / f"{database}.dump")
        runs = end_unfinished_runs(server.dsn(AIRFLOW_DATABASE))
        facts = RestoredFacts(server.dsn(STORE_DATABASE))
        facts.migrate()
        incidents = facts.correct_facts(backup)
    again = f" ({', '.join(incidents)})" if incidents else ""
    return (
        f"{runs} runs of Airflow that it called running are ended; {len(incidents)} open incidents are judged "
        f"again{again}; fault injection is stopped until `make chaos-resume`"
    )


def _put_in_place(settings: Settings, staging: Path) -> None:
    """Move what isn't in place yet; each part by one rename, within one file system."""
    settings.control.mkdir(mode=0o711, exist_ok=True)
    settings.control.chmod(0o711)
    (settings.control / "airflow").mkdir(mode=0o700, exist_ok=True)
    for mark in (settings.control / "airflow").glob("migrated-*"):
        mark.unlink()  # of the database that is gone: the restored one may need a migration
    if not settings.fleet_file.exists():  # it may lie on another file system, so it is no rename
        shutil.copyfile(staging / "content" / FLEET_FILE, settings.fleet_file)
    for source, target in _moves(settings, staging):
        _move_part(source, target)
    _remove_placed(settings, staging)


def _move_part(source: Path, target: Path) -> None:
    """Put one part in place; it is no error if it is there already, or if the backup has none."""
    if source.exists():
        source.replace(target)


def _remove_placed(settings: Settings, staging: Path) -> None:
    removed = settings.state / REMOVED
    shutil.rmtree(removed, ignore_errors=True)
    staging.replace(removed)  # at once: a half-removed directory would look like a restore that has begun
    shutil.rmtree(removed, ignore_errors=True)


def _moves(settings: Settings, staging: Path) -> Iterator[tuple[Path, Path]]:
    content = staging / "content"
    for item in ITEMS:
        yield content / STATE / item, settings.state / item
    yield staging / "postgres", settings.state / _POSTGRES


def _remove_staging(staging: Path) -> None:
    """Remove what a killed restore left, its Postgres first."""
    Postgres(socket=staging / "socket", port=_PORT, data=staging / "postgres").end_orphan()
    try:
        if staging.exists():
            shutil.rmtree(staging)
    except OSError as error:
        raise KintsugiError(f"cannot remove {staging} of an earlier restore: {error}") from error
