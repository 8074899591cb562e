"""Take everything of a control plane from its machine, as a loss of the machine does, and keep what an operator keeps.

An operator keeps three things elsewhere: a copy of the backup, the key that opens it, and a bucket with the trades.
`LostMachine` has a directory beside the state directory for them. What is taken from the machine is moved there too,
and not deleted. So a drill that fails costs nobody an installation.
"""

from __future__ import annotations

import os
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path

from kintsugi.controlplane.postgres import Postgres
from kintsugi.controlplane.s3proxy import bucket_below, server_directory
from kintsugi.core.backup_key import load_key
from kintsugi.core.encryption import DecryptingReader
from kintsugi.core.errors import GuardRefused, StepFailed
from kintsugi.core.files import write_private
from kintsugi.core.processes import kill_owned, owned_pids
from kintsugi.core.settings import Settings
from kintsugi.installation.backup_manifest import BackupManifest, manifest_key, object_key
from kintsugi.installation.backup_place import BackupSource, DirectoryPlace
from kintsugi.installation.installation_lock import hold_installation_lock
from kintsugi.installation.restore import STAGING, choose_backup, verify_object

NOT_OF_THE_CONTROL_PLANE = frozenset({"nodes", "volumes", "quarantine", "lock"})
"""In the state directory: the nodes and their disks, which are other machines, and the lock of commands."""

DELIVERED = ("trades", "eod")
"""In the bucket: what the user delivers, and has elsewhere. Everything else in it is the control plane's."""


@dataclass(frozen=True, slots=True)
class LostMachine:
    """A machine that loses its control plane, and what is kept of it elsewhere, in ``directory`` (0700)."""

    settings: Settings

    @property
    def directory(self) -> Path:
        state = self.settings.state
        return state.with_name(f"{state.name}-restore-drill")

    @property
    def copy(self) -> Path:
        """Return the directory with the copy of the backup, for ``make restore DIRECTORY=``."""
        return self.directory / "copy"

    @property
    def key(self) -> Path:
        """Return the path of the copy of the key."""
        return self.directory / "key" / "backup.key"

    @property
    def taken(self) -> Path:
        """Return the directory with everything that was taken from the state directory."""
        return self.directory / "taken"

    @property
    def taken_bucket(self) -> Path:
        return bucket_below(self.taken / server_directory(self.settings).relative_to(self.settings.state))

    @property
    def bucket(self) -> Path:
        return bucket_below(server_directory(self.settings))

    def require_no_drill(self) -> None:
        """Raise GuardRefused if the directory is there: it may hold all that is left of a control plane."""
        if self.directory.exists():
            raise GuardRefused(
                f"{self.directory} is there: a drill was ended before its end. {self.describe_way_back()}"
            )

    def keep_backup(self, source: BackupSource, key: Path, backup: str) -> BackupManifest:
        """Copy a backup and its key, and check that the copies can be used; returns the backup's manifest.

        Raises StepFailed if the place can't be read, BackupRefused if the copy can't be used with the key. Nothing is
        kept then.
        """
        self.directory.mkdir(mode=0o700)
        try:
            return self._copy_backup(source, key, backup)
        except BaseException:
            self.remove()
            raise

    def _copy_backup(self, source: BackupSource, key: Path, backup: str) -> BackupManifest:
        for name in (object_key(backup), manifest_key(backup)):
            (self.copy / name).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            source.fetch(name, self.copy / name)
        self.key.parent.mkdir(mode=0o700)
        write_private(self.key, key.read_text())
        manifest = choose_backup(DirectoryPlace(self.copy), backup)
        sealed = self.copy / object_key(backup)
        verify_object(sealed, manifest)
        with sealed.open("rb") as file:
            reader = DecryptingReader(file, load_key(self.key), backup)
            while reader.read(2**20):
                pass
        return manifest

    def destroy(self) -> int:
        """End every process of the control plane by SIGKILL, and take its files; returns how many were ended.

        Raises StepFailed if a process or a file stays.
        """
        settings = self.settings
        with hold_installation_lock(settings):
            ended = kill_owned(settings.control)
            Postgres.of(settings).end_orphan()
            if left := owned_pids(settings.control) - {os.getpid()}:
                raise StepFailed(
                    f"processes of the control plane outlive SIGKILL: {sorted(left)}; see ps -fp"
                )
            self.taken.mkdir(mode=0o700)
            for path in self.remains():
                shutil.move(path, self.taken / path.name)
            if remains := self.remains():
                raise StepFailed(f"this is made again while it is taken away: {', '.join(map(str, remains))}")
        return ended

    def remains(self) -> list[Path]:
        """Return what the state directory holds of the control plane."""
        return sorted(
            path for path in self.settings.state.iterdir() if path.name not in NOT_OF_THE_CONTROL_PLANE
        )

    def put_deliveries_back(self) -> None:
        """Put back the trades and end-of-day files, as if the bucket were elsewhere."""
        self.bucket.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name in DELIVERED:
            if (self.taken_bucket / name).exists():
                shutil.move(self.taken_bucket / name, self.bucket / name)

    def put_rest_back(self) -> int:
        """Put back every other object of the bucket unless it is there again; returns how many were put back."""
        lost = [path for path in sorted(self.taken_bucket.rglob("*")) if path.is_file()]
        count = 0
        for path in lost:
            target = self.bucket / path.relative_to(self.taken_bucket)
            if not target.exists():
                target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                shutil.move(path, target)
                count += 1
        return count

    def remove(self) -> None:
        """Delete what was kept and what was taken."""
        shutil.rmtree(self.directory)

    def describe_way_back(self) -> str:
        """Return the commands that bring back the installation from here, as a sentence."""
        commands = way_back(
            self, is_taken=self.taken.exists(), is_restored=(self.settings.control / "postgres").exists()
        )
        return f"Now run: {'; '.join(commands)}"


def way_back(machine: LostMachine, *, is_taken: bool, is_restored: bool) -> list[str]:
    """Return the commands that a person must give after a drill was ended, in their order. Pure.

    ``is_taken``: the control plane was taken away, or a part of it. ``is_restored``: its database is in place.
    """
    remove = f"rm -r {shlex.quote(str(machine.directory))}"
    if not is_taken:
        return ["make up", remove]
    staging = machine.settings.state / STAGING
    restore = f"make restore DIRECTORY={shlex.quote(str(machine.copy))}"
    bucket, taken = shlex.quote(str(machine.bucket)), shlex.quote(str(machine.taken_bucket))
    again = [restore] if not is_restored else [f"{restore} (if {staging} is there)"]
    return [*again, f"mkdir -p {bucket} && cp -an {taken}/. {bucket}", "make up", remove]
