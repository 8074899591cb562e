"""How a local node is walled off from the rest of the machine: the one place where this is chosen.

A PID namespace makes the death of a node's init the death of the whole node; a mount namespace hides
everyone else's files. Where the user may make neither, ``setpriv --pdeathsig KILL`` before every program
and a sweep over the process table stand in, and files are not hidden.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from enum import StrEnum
from functools import cache

_NAMESPACES = ["--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--propagation", "private"]
_AS_USER = ["--user", "--map-current-user", "--keep-caps"]


class Isolation(StrEnum):
    """The wall around a node."""

    ROOT_NAMESPACES = "root-namespaces"
    USER_NAMESPACES = "user-namespaces"
    DEATH_SIGNAL = "death-signal"
    CONTAINER = "container"  # somebody else's wall: an engine made the namespaces before the init began

    @property
    def hides_files(self) -> bool:
        """Whether the init itself has to see to it that the node sees only its own part of the state."""
        return self in (Isolation.ROOT_NAMESPACES, Isolation.USER_NAMESPACES)


@cache
def choose_isolation() -> Isolation:
    """The strongest isolation that this user has on this machine, found by trying it.

    ``KINTSUGI_ISOLATION`` forces one by its value, which is how the weaker ones are tested.
    """
    forced = os.environ.get("KINTSUGI_ISOLATION")
    if forced:
        return Isolation(forced)
    preferred = Isolation.ROOT_NAMESPACES if os.geteuid() == 0 else Isolation.USER_NAMESPACES
    return preferred if _is_available(preferred) else Isolation.DEATH_SIGNAL


def init_prefix(isolation: Isolation) -> list[str]:
    """What to put before the command of a node's init."""
    if isolation is Isolation.ROOT_NAMESPACES:
        return ["unshare", *_NAMESPACES, "--"]
    if isolation is Isolation.USER_NAMESPACES:
        return ["unshare", *_AS_USER, *_NAMESPACES, "--"]
    return []


def service_prefix(isolation: Isolation) -> list[str]:
    """What to put before the command of every program that the init starts."""
    if isolation is Isolation.DEATH_SIGNAL:
        return [shutil.which("setpriv") or "/usr/bin/setpriv", "--pdeathsig", "KILL", "--"]
    return []


def _is_available(isolation: Isolation) -> bool:
    try:
        trial = subprocess.run(
            [*init_prefix(isolation), "true"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return trial.returncode == 0
