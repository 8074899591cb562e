"""The key that backups are encrypted with: a file of the user, which is in no backup and in no bucket.

It is in ``$KINTSUGI_BACKUP_KEY``, else in ``/etc/kintsugi/backup.key`` (root) or ``~/.config/kintsugi/backup.key``. The
first backup makes it. Who loses it can restore no backup, so it belongs in a second place that the user chooses.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from kintsugi.core.errors import KintsugiError
from kintsugi.core.files import write_private_once
from kintsugi.core.settings import Settings

KEY_FILE = "KINTSUGI_BACKUP_KEY"
_KEY_BYTES = 32


def key_path() -> Path:
    """Return the path of the key file; it need not exist."""
    named = os.environ.get(KEY_FILE)
    if named:
        return Path(named)
    return (Path("/etc") if os.geteuid() == 0 else Path.home() / ".config") / "kintsugi/backup.key"


def ensure_key(settings: Settings, path: Path) -> tuple[bytes, bool]:
    """Return the key (32 bytes) in ``path``, and whether this call made it (0600, 32 random bytes in hex).

    Raises KintsugiError if the file lies in the state directory, which is lost together with what the backup is for,
    or if it can't be made or used.
    """
    if path.resolve().is_relative_to(settings.state.resolve()):
        raise KintsugiError(
            f"{KEY_FILE} is {path}, which lies in the state directory and is lost with it: "
            "name a place outside of it"
        )
    made = not path.exists()
    if made:
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_private_once(path, secrets.token_hex(_KEY_BYTES) + "\n")
        except OSError as error:
            raise KintsugiError(
                f"cannot make the key of the backups in {path}: {error.strerror}; name another place in {KEY_FILE}"
            ) from error
    return load_key(path), made


def load_key(path: Path) -> bytes:
    """Return the key (32 bytes) in ``path``.

    Raises KintsugiError if there is none, if others may read it, or if it isn't a key.
    """
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            content = file.read(200)
    except FileNotFoundError:
        raise KintsugiError(
            f"the key of the backups is not in {path}: put your copy of it there, or name its place in {KEY_FILE}"
        ) from None
    except OSError as error:
        raise KintsugiError(f"cannot read the key of the backups in {path}: {error.strerror}") from error
    if mode & 0o077:
        raise KintsugiError(
            f"{path} is the key of the backups, but others may read it: run `chmod 600 {path}`"
        )
    try:
        key = bytes.fromhex(content.decode())
    except ValueError:
        key = b""
    if len(key) != _KEY_BYTES:
        raise KintsugiError(
            f"{path} is not a key of the backups, which has {2 * _KEY_BYTES} hexadecimal digits"
        )
    return key
