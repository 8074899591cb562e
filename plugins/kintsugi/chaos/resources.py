"""Resource faults: a machine without processor time, and a slow disk.

*Processor*: busy loops, each in its own session, because Linux shares the processors among sessions
(``sched_autogroup_enabled``): forty loops in one session get one share, in forty sessions forty shares. Each loop is
limited by ``timeout``, so it ends even if its owner dies.

*Disk*: the node's processes move to a control group with a limit of bytes a second (``blkio.throttle``, cgroup v1).
``io.max`` of v2 limits the same, but that hierarchy belongs to systemd and is not changed. Processes that the node
starts later belong to the group too; a new node does not.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path

from kintsugi.core.errors import StepFailed
from kintsugi.core.processes import signal_if, wait_until
from kintsugi.core.settings import Settings
from kintsugi.environments.local.node_process import members

LOOPS = 48
MARK = "KINTSUGI_CHAOS"
SLOW_DISK_BYTES_PER_S = 256 * 1024
_THROTTLE = Path("/sys/fs/cgroup/blkio")
_LIMITS = ("blkio.throttle.write_bps_device", "blkio.throttle.read_bps_device")
_GROUP = "kintsugi-chaos-"


def start_busy_loops(seconds: float, owner: str, loops: int = LOOPS) -> list[subprocess.Popen[bytes]]:
    """Start loops that use all processor time and end by themselves after ``seconds``.

    ``owner``: the installation (its state directory), by which `end_processes` finds them.
    """
    environment = {"PATH": os.environ.get("PATH", os.defpath), MARK: owner}
    command = ["timeout", "-s", "KILL", f"{seconds:.1f}", "sh", "-c", "while :; do :; done"]
    return [
        subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        for _ in range(loops)
    ]


def end_processes(owner: str) -> int:
    """SIGKILL every process whose environment says ``MARK=owner``; returns how many there were."""
    hit: set[int] = set()

    def is_ours(pid: int) -> bool:
        return _carries_mark(pid, f"{MARK}={owner}".encode())

    def none_left() -> bool:
        left = [
            int(entry.name)
            for entry in Path("/proc").iterdir()
            if entry.name.isdigit() and is_ours(int(entry.name))
        ]
        for pid in left:
            if signal_if(pid, signal.SIGKILL, is_ours):
                hit.add(pid)
        return not left

    wait_until(none_left, 10.0, pause=0.05)
    return len(hit)


def _carries_mark(pid: int, mark: bytes) -> bool:
    try:
        return mark in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False


def slow_disk_unavailable(settings: Settings) -> str | None:
    """Why no disk can be slowed down here; None when it can."""
    if settings.fleet.environment != "local":
        return "the processes of a container belong to its engine's control group"
    if not all(os.access(_THROTTLE / name, os.W_OK) for name in _LIMITS):
        return "this needs root and the control group blkio with throttling (cgroup v1)"
    try:
        _disk_device(settings)
    except StepFailed as failure:
        return str(failure)
    return None


def slow_disk(settings: Settings, name: str, bytes_per_s: int = SLOW_DISK_BYTES_PER_S) -> None:
    """Limit the node's processes to so many bytes a second, written and read. Raises StepFailed."""
    limit_processes(group_of(settings, name), _disk_device(settings), members(settings, name), bytes_per_s)


def restore_disk_speed(settings: Settings, name: str) -> bool:
    """Remove the limit of the node's disk; False when there is none. Raises StepFailed."""
    return remove_limit(group_of(settings, name))


def group_of(settings: Settings, name: str) -> Path:
    """The control group of a node's slow disk; two installations don't share one."""
    owner = str(settings.state).strip("/").replace("/", "-")
    return _THROTTLE / f"{_GROUP}{owner}-{name}"


def limit_processes(group: Path, device: str, pids: Iterable[int], bytes_per_s: int) -> None:
    """Move ``pids`` to ``group``, limited on ``device`` (``major:minor``); a process that has ended is left out."""
    try:
        group.mkdir(exist_ok=True)
        for limit in _LIMITS:
            (group / limit).write_text(f"{device} {bytes_per_s}")
        _move_processes(pids, group)
    except OSError as error:
        raise StepFailed(f"the control group {group} can't be used: {error.strerror}") from error


def remove_limit(group: Path, seconds: float = 10.0) -> bool:
    """Move all processes of ``group`` back to the root group and remove it; False when there is no such group."""
    if not group.exists():
        return False
    until = time.monotonic() + seconds
    while True:
        # A process may fork while the list is read, so repeat until the group can be removed.
        _move_processes([int(pid) for pid in (group / "cgroup.procs").read_text().split()], group.parent)
        try:
            group.rmdir()
        except FileNotFoundError:
            return True
        except OSError as error:
            if time.monotonic() > until:
                raise StepFailed(f"the control group {group} can't be removed: {error.strerror}") from error
            time.sleep(0.05)
        else:
            return True


def _move_processes(pids: Iterable[int], group: Path) -> None:
    for pid in pids:
        try:
            (group / "cgroup.procs").write_text(str(pid))
        except ProcessLookupError:
            continue


def _disk_device(settings: Settings) -> str:
    """``major:minor`` of the disk with the volumes; raises StepFailed when no single disk can be limited."""
    place = next(path for path in (settings.state, *settings.state.parents) if path.exists())
    number = place.stat().st_dev
    device = f"{os.major(number)}:{os.minor(number)}"
    block = Path("/sys/dev/block") / device
    if os.major(number) == 0 or not block.exists():
        raise StepFailed(f"{place} is not on a block device whose speed can be limited")
    # A partition's limit belongs to its whole disk.
    return (block / "../dev").read_text().strip() if (block / "partition").exists() else device
