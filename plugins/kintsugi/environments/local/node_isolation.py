"""How a local node is isolated from the rest of the machine: it is chosen here only.

With a PID namespace the whole node ends with its init. A mount namespace hides the files of all others. A user who may
create neither gets ``setpriv --pdeathsig KILL`` before every program and a sweep over the process table instead; then
files are not hidden.
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
    """The isolation of a node."""

    ROOT_NAMESPACES = "root-namespaces"
    USER_NAMESPACES = "user-namespaces"
    DEATH_SIGNAL = "death-signal"
    CONTAINER = "container"  # the Docker engine created the namespaces before the init started

    @property
    def hides_files(self) -> bool:
        """Whether the init itself has to hide the other nodes' part of the state."""
        return self in (Isolation.ROOT_NAMESPACES, Isolation.USER_NAMESPACES)


@cache
def choose_isolation() -> Isolation:
    """Return the strongest isolation that this user may use on this machine, found by a trial.

    ``KINTSUGI_ISOLATION`` forces one by its value; tests of the weaker ones use it.
    """
    forced = os.environ.get("KINTSUGI_ISOLATION")
    if forced:
        return Isolation(forced)
    preferred = Isolation.ROOT_NAMESPACES if os.geteuid() == 0 else Isolation.USER_NAMESPACES
    return preferred if _is_available(preferred) else Isolation.DEATH_SIGNAL


def init_prefix(isolation: Isolation) -> list[str]:
    """Return what comes before the command of a node's init."""
    if isolation is Isolation.ROOT_NAMESPACES:
        return ["unshare", *_NAMESPACES, "--"]
    if isolation is Isolation.USER_NAMESPACES:
        return ["unshare", *_AS_USER, *_NAMESPACES, "--"]
    return []


def service_prefix(isolation: Isolation) -> list[str]:
    """Return what comes before the command of every program that the init starts."""
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
