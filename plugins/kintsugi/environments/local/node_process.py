"""The processes of local nodes: find and end them, and never a process of somebody else.

A node's init is recorded by host PID and start time, outside the node's root. So a fence or a fault kills exactly that
process. Every process of a node has ``KINTSUGI_INIT_OF=<root>`` in its environment. A process of a killed creation,
which has no record, is found by that mark.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from kintsugi.core.errors import StepFailed
from kintsugi.core.processes import has_variable, start_time
from kintsugi.core.settings import Settings

MARK = "KINTSUGI_INIT_OF"


@dataclass(frozen=True, slots=True)
class InitRecord:
    """A node's init: ``pid`` as the host sees it, ``start_time`` in clock ticks since boot.

    The start time guards against a reused PID. ``pid_namespace`` is the inode of its PID namespace, None
    without one.
    """

    pid: int
    start_time: int
    pid_namespace: int | None
    isolation: str


def record_path(settings: Settings, name: str) -> Path:
    """Return the path of the record of a node's init, which the node itself can't see."""
    return settings.state / "nodes" / f"{name}.pid.json"


def names_on_disk(settings: Settings) -> set[str]:
    """Return every node that has a root, a record or a volume, also if neither fleet nor Terraform know it."""
    paths = (path for part in ("nodes", "volumes") for path in (settings.state / part).glob("*"))
    # A record, also one that was being written, has the name before its endings.
    return {path.name.partition(".")[0] for path in paths}


def read_record(settings: Settings, name: str) -> InitRecord | None:
    """Return the recorded init of a node; None if there is no readable record."""
    try:
        return InitRecord(**json.loads(record_path(settings, name).read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def write_record(settings: Settings, name: str, record: InitRecord) -> None:
    """Write the record atomically."""
    path = record_path(settings, name)
    fresh = path.with_suffix(f".{os.getpid()}")
    fresh.write_text(json.dumps(asdict(record)))
    fresh.replace(path)


def namespace_of(pid: int) -> int | None:
    """Return the inode of the PID namespace of ``pid``; None if it can't be read."""
    try:
        return int(str(Path(f"/proc/{pid}/ns/pid").readlink())[5:-1])
    except OSError:
        return None


def is_running(record: InitRecord | None) -> bool:
    """Whether the recorded init runs: the same process, not a later one with its number."""
    return record is not None and start_time(record.pid) == record.start_time


def member_pids(settings: Settings, name: str) -> Iterator[int]:
    """Yield the host PIDs of a node's live processes: by its PID namespace, or else by the mark in the environment.

    Without a namespace the init's descendants count too: sshd's environment can't be read by its own user. Namespace
    and descendants count only while the init runs. It outlives all processes of its namespace, and after that the
    kernel may give the namespace's number to another node.
    """
    record = read_record(settings, name)
    space, family = None, set[int]()
    if record is not None and is_running(record):
        space = record.pid_namespace
        family = _descendant_pids(record.pid) if space is None else family
    root = str(settings.node_root(name))
    for pid in psutil.pids():
        belongs = (space is not None and namespace_of(pid) == space) or pid in family
        if (belongs or has_variable(pid, MARK, root)) and pid != os.getpid() and start_time(pid) is not None:
            yield pid


def _descendant_pids(ancestor: int) -> set[int]:
    try:
        return {ancestor, *(child.pid for child in psutil.Process(ancestor).children(recursive=True))}
    except psutil.NoSuchProcess:
        return {ancestor}


def signal_process(pid: int, number: signal.Signals, expected_start: int | None = None) -> bool:
    """Signal a process through a descriptor, so that its number can't be reused; returns False if it is gone."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        if expected_start is not None and start_time(pid) != expected_start:
            return False
        signal.pidfd_send_signal(handle, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(handle)
    return True


def kill_all(settings: Settings, name: str, timeout_s: float = 10.0) -> None:
    """End everything of a node at once, its init first; returns when nothing of it runs.

    Raises StepFailed, which names the survivors, if some outlive ``timeout_s``.
    """
    starts = {pid: start_time(pid) for pid in member_pids(settings, name)}
    record = read_record(settings, name)
    if record is not None:
        signal_process(record.pid, signal.SIGKILL, record.start_time)
    deadline = time.monotonic() + timeout_s
    while alive := _surviving_pids(settings, name, starts):
        if time.monotonic() > deadline:
            raise StepFailed(f"{name}: processes {alive} outlived SIGKILL for {timeout_s:.0f} s; see ps -fp")
        for pid in alive:
            signal_process(pid, signal.SIGKILL, starts[pid])
        time.sleep(0.02)


def _surviving_pids(settings: Settings, name: str, starts: dict[int, int | None]) -> list[int]:
    """Return the processes that were seen and still run: one that is ending has no environment any more."""
    for pid in member_pids(settings, name):
        starts.setdefault(pid, start_time(pid))
    return [pid for pid, start in starts.items() if start is not None and start_time(pid) == start]


def signal_all(settings: Settings, name: str, number: signal.Signals, *, stopped: bool) -> int:
    """Signal every process of a node until each is stopped, or none is; returns how many there are.

    Processes that are forked meanwhile get the signal in the next round. A process that has ended counts as done.
    """
    for _ in range(100):
        pids = list(member_pids(settings, name))
        waiting = [pid for pid in pids if _is_stopped(pid) not in (None, stopped)]
        if not waiting:
            return len(pids)
        for pid in waiting:
            signal_process(pid, number)
        time.sleep(0.01)
    raise StepFailed(f"{name}: processes {waiting} did not take {number.name} within 1 s; see ps -fp")


def _is_stopped(pid: int) -> bool | None:
    """Whether a process is stopped by a signal or a tracer; None if it has ended."""
    try:
        status = psutil.Process(pid).status()
    except psutil.NoSuchProcess:
        return None
    if status in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD):
        return None
    return status in (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP)


def processor_use(settings: Settings, name: str) -> tuple[float, float]:
    """Return for how many seconds a node's processes have used the processor, and their threads have waited for it.

    The second is the kernel's ``run_delay`` (Documentation/scheduler/sched-stats): time on a run queue. A process that
    is stopped or asleep doesn't wait.
    """
    from kintsugi.probes.node_view import processor_ns  # a node's init starts by this module

    uses = [processor_ns(pid) for pid in member_pids(settings, name)]
    return sum(used for used, _ in uses) / 1e9, sum(waited for _, waited in uses) / 1e9
