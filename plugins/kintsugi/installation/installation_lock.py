"""The lock of an installation: one command at a time starts, removes or restores it."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kintsugi.core.errors import KintsugiError
from kintsugi.core.settings import Settings


@contextmanager
def hold_installation_lock(settings: Settings) -> Iterator[None]:
    """Hold the installation's lock; raises KintsugiError if another command has it."""
    settings.make_state()
    path = settings.state / "lock"
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise KintsugiError(
                f"another `kintsugi up`, `down` or `restore` works on {settings.state} "
                f"(pid {_lock_holder(path)}): wait for it, or end it"
            ) from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def _lock_holder(path: Path) -> str:
    return path.read_text().strip() or "unknown"
