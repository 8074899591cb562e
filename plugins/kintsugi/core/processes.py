"""Find and end processes by proof of ownership, never by name.

Every process of the control plane has ``KINTSUGI_CONTROL=<path>`` in its environment, and its children inherit it. So
an orphan of a killed supervisor is still known as ours. ``SPT_NOENV`` keeps ``setproctitle`` (Airflow's workers) from
overwriting that proof. A signal goes through a pidfd that is opened before the proof is read, so it can't reach
another process that reuses the pid.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

MARKER = "KINTSUGI_CONTROL"
PART = "KINTSUGI_PART"


@dataclass(frozen=True, slots=True)
class Listener:
    """The process that listens on a TCP port; ``pid`` is None if the kernel hides it (another user's process)."""

    pid: int | None
    command: str

    def __str__(self) -> str:
        return f"{self.command} (pid {self.pid})" if self.pid else "a process of another user"


def wait_until(condition: Callable[[], bool], seconds: float, *, pause: float = 0.1) -> bool:
    """Poll ``condition`` until it holds or ``seconds`` have passed; returns whether it held."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(pause)
    return True


def carries_marker(pid: int, control: Path, part: str | None = None) -> bool:
    """Whether the process ``pid`` belongs to the control plane in ``control`` (to its ``part``, if given)."""
    proofs = [(MARKER, str(control)), *([] if part is None else [(PART, part)])]
    return all(has_variable(pid, name, value) for name, value in proofs)


def has_variable(pid: int, name: str, value: str) -> bool:
    """Whether the process ``pid`` was started with this variable; False if it is gone or can't be read.

    psutil stops at the first gap in an environment, which a program leaves that writes its title over the beginning.
    """
    try:
        return f"{name}={value}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False


def start_time(pid: int) -> int | None:
    """Return the start of a live process in clock ticks since boot; None if it is gone or a zombie.

    It identifies a process where its number alone may belong to another one later. It is not psutil's time of creation,
    which changes when the clock is set.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def owned_pids(control: Path, part: str | None = None) -> set[int]:
    """Return the pids of all live processes of this control plane (of its ``part``), without zombies."""
    return {pid for pid in psutil.pids() if carries_marker(pid, control, part)}


def signal_if(pid: int, number: signal.Signals, proof: Callable[[int], bool]) -> bool:
    """Send ``number`` to ``pid`` if ``proof(pid)`` holds; returns whether the signal was sent."""
    try:
        handle = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        if not proof(pid):
            return False
        signal.pidfd_send_signal(handle, number)
    except OSError:
        return False
    finally:
        os.close(handle)
    return True


def kill_owned(control: Path, part: str | None = None, *, seconds: float = 10.0) -> int:
    """SIGKILL all processes of this control plane (of its ``part``); returns how many were killed.

    Repeats until none is left, because a process may fork while the list is read. The caller is not killed, so that a
    task of Airflow may call it.
    """
    return _kill_proven(lambda pid: carries_marker(pid, control, part), seconds)


def kill_started_with(name: str, value: str, *, seconds: float = 10.0) -> int:
    """SIGKILL all processes that were started with this variable, as `kill_owned`; returns how many were killed."""
    return _kill_proven(lambda pid: has_variable(pid, name, value), seconds)


def _kill_proven(proof: Callable[[int], bool], seconds: float) -> int:
    hit: set[int] = set()

    def none_left() -> bool:
        left = {pid for pid in psutil.pids() if proof(pid)} - {os.getpid()}
        hit.update(pid for pid in left if signal_if(pid, signal.SIGKILL, proof))
        return not left

    wait_until(none_left, seconds, pause=0.05)
    return len(hit)


def is_running_in(pid: int, directory: Path) -> bool:
    """Whether ``pid`` lives and has ``directory`` as its working directory."""
    try:
        return Path(f"/proc/{pid}/cwd").readlink() == directory
    except OSError:
        return False


def find_listener(address: str, port: int) -> Listener | None:
    """Return the process that listens on ``address:port`` or on all addresses; None if there is none.

    A JVM listens on IPv4 addresses through an IPv6 socket, so they count as mapped addresses too.
    """
    addresses = {address, f"::ffff:{address}", "0.0.0.0", "::", "::ffff:0.0.0.0"}  # noqa: S104 - only compared
    for one in psutil.net_connections(kind="tcp"):
        if one.status == psutil.CONN_LISTEN and one.laddr.port == port and one.laddr.ip in addresses:
            if one.pid is None:
                return Listener(None, "")
            with contextlib.suppress(psutil.NoSuchProcess):
                return Listener(one.pid, psutil.Process(one.pid).name())
    return None
