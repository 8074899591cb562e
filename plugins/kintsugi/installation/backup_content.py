"""What a backup holds, and its form inside of the encryption: a tar archive.

===================  ========================================================================
``about.json``       `About`: where and by whom the installation was run
``fleet.yaml``       the fleet file in effect
``databases/*.dump`` Airflow's database and ours, which has leases, incidents, releases, Terraform's state
``state/…``          ITEMS of the state directory, with their modes and owners
===================  ========================================================================

Not in it: nodes and volumes, caches, S3's data, logs, and the records of injected faults, which their janitor undoes
while the control plane is away.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import pwd
import shutil
import stat
import tarfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

from kintsugi.core.encryption import BackupRefused
from kintsugi.core.errors import StepFailed
from kintsugi.core.settings import Settings

ITEMS = (
    "secrets",
    "control/formed",
    "control/releases",
    "control/rotation-unfinished",
    "control/airflow/users",
    "control/airflow/passwords.json",
)
"""Files and directories of the state directory. ``secrets`` has the certificate authority and the SSH keys, too."""

ABOUT, FLEET_FILE, DUMPS, STATE = "about.json", "fleet.yaml", "databases", "state"


class ContentChanged(StepFailed):
    """A file was changed while it was backed up."""


@dataclass(frozen=True, slots=True)
class About:
    """Whose backup it is. ``state``: the state directory, whose path is in Terraform's state and on the nodes.

    ``user``: the operating system's user who runs the installation. ``host``: the machine, for people.
    """

    backup: str
    state: str
    user: str
    environment: str
    fleet: str
    host: str


def describe_installation(settings: Settings, backup: str) -> About:
    """Return what a backup of this installation says of it."""
    return About(
        backup=backup,
        state=str(settings.state),
        user=describe_user(),
        environment=settings.fleet.environment,
        fleet=settings.fleet.name,
        host=os.uname().nodename,
    )


def describe_user() -> str:
    """Return the name of the operating system's user who runs this process."""
    return pwd.getpwuid(os.geteuid()).pw_name


def content_digest(settings: Settings) -> str:
    """Return a digest of all files of a backup: their paths, modes and bytes.

    Raises ContentChanged if one vanishes, StepFailed if one is neither a file nor a directory.
    """
    digest = hashlib.sha256()
    try:
        paths = [path for item in ITEMS for path in _walk(settings.state / item)]
        for path in (*paths, settings.fleet_file):
            mode = path.lstat().st_mode
            digest.update(f"{path}\0{mode}\0".encode())
            if stat.S_ISREG(mode):
                digest.update(hashlib.sha256(path.read_bytes()).digest())
            elif not stat.S_ISDIR(mode):
                raise StepFailed(
                    f"{path} is neither a file nor a directory, so it can't be backed up: remove it"
                )
    except FileNotFoundError as error:
        raise ContentChanged(f"{error.filename} vanished while it was backed up") from error
    return digest.hexdigest()


def write_content(target: Any, settings: Settings, about: About, dumps: Path) -> None:
    """Write the archive of an installation to ``target``, which has ``write``.

    ``dumps``: the directory with the dumps of the databases. Raises ContentChanged; OSError if the disk is full.
    """
    try:
        with tarfile.open(fileobj=target, mode="w|", format=tarfile.PAX_FORMAT) as archive:
            _add_text(archive, ABOUT, json.dumps(asdict(about)))
            archive.add(settings.fleet_file.resolve(), FLEET_FILE)
            for dump in sorted(dumps.glob("*.dump")):
                archive.add(dump, f"{DUMPS}/{dump.name}")
            for item in ITEMS:
                for path in _walk(settings.state / item):
                    name = f"{STATE}/{path.relative_to(settings.state)}"
                    archive.add(path, name, recursive=False)
    except FileNotFoundError as error:
        raise ContentChanged(f"{error.filename} vanished while it was backed up") from error


def read_content(source: IO[bytes], directory: Path) -> About:
    """Unpack an archive below the empty ``directory``, with modes and owners; returns whose backup it is.

    Raises BackupRefused for anything that `write_content` doesn't write: the key's owner made it, but another version.
    """
    try:
        with tarfile.open(fileobj=source, mode="r|") as archive:
            for member in archive:
                _unpack(archive, member, directory)
        while source.read(2**20):  # up to the end: only the last chunk proves that nothing is missing
            pass
        return About(**json.loads((directory / ABOUT).read_text()))
    except (tarfile.TarError, ValueError, TypeError, FileNotFoundError) as error:
        raise BackupRefused(f"the backup's archive can't be read: {error}") from error


def _walk(path: Path) -> Iterator[Path]:
    """Yield ``path`` and everything below it, sorted; nothing if it doesn't exist."""
    if not path.exists() and not path.is_symlink():
        return
    yield path
    if path.is_dir() and not path.is_symlink():
        for child in sorted(path.iterdir()):
            yield from _walk(child)


def _add_text(archive: tarfile.TarFile, name: str, text: str) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(text.encode()), 0o600
    archive.addfile(info, io.BytesIO(text.encode()))


def _unpack(archive: tarfile.TarFile, member: tarfile.TarInfo, directory: Path) -> None:
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts or not (member.isreg() or member.isdir()):
        raise BackupRefused(f"the backup's archive holds {member.name!r}, which no backup has")
    target = directory / path
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if member.isdir():
        target.mkdir(mode=0o700, exist_ok=True)
    else:
        content = archive.extractfile(member)
        assert content is not None
        with os.fdopen(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            shutil.copyfileobj(content, file)
    if path.parts[0] == STATE:
        _give_to_owner(target, member)
        target.chmod(stat.S_IMODE(member.mode))


def _give_to_owner(target: Path, member: tarfile.TarInfo) -> None:
    """Give a file to the owner and group of the same names; another user than root can only keep it."""
    if os.geteuid() != 0:
        return
    try:
        shutil.chown(target, member.uname, member.gname)
    except LookupError as error:
        raise BackupRefused(
            f"{member.name} of the backup belongs to {member.uname}:{member.gname}, and this machine lacks "
            "one of them: make it, then restore again"
        ) from error
