"""The host process of a node's service: found, stopped and continued without the node's help.

A stall of many nodes must begin at the same time, and must end although sshd and init are stalled too. So signals go
to host process ids, through a descriptor and checked by the start time (`environments.local.node_process.send`).
Environment ``local`` only: the processes of a container are not visible to every user.
"""

from __future__ import annotations

import signal
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from kintsugi.core.errors import StepFailed
from kintsugi.core.fleet import Node, Role
from kintsugi.core.settings import Settings
from kintsugi.environments.local.node_process import read_record, running, signal_process, start_time

MAIN_CLASS: Mapping[Role, bytes] = {
    Role.KAFKA: b"kafka.Kafka",
    Role.CASSANDRA: b"org.apache.cassandra.service.CassandraDaemon",
    Role.SPARK_MASTER: b"org.apache.spark.deploy.master.Master",
    Role.SPARK_WORKER: b"org.apache.spark.deploy.worker.Worker",
}


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """One life of a process: its host process id and its start, in clock ticks since boot."""

    pid: int
    started: int

    @property
    def alive(self) -> bool:
        """Whether this process still runs; a stopped process does, a zombie does not."""
        return start_time(self.pid) == self.started


def init_process(settings: Settings, name: str) -> ProcessIdentity | None:
    """The init of a running node; None when the node does not run."""
    record = read_record(settings, name)
    return ProcessIdentity(record.pid, record.start_time) if record is not None and running(record) else None


def service_process(settings: Settings, node: Node) -> ProcessIdentity | None:
    """The process of the node's service, a child of its init; None when there is none now."""
    init = init_process(settings, node.name)
    for pid in () if init is None else _child_processes(init.pid):
        if MAIN_CLASS[node.role] in _command_line(pid) and (started := start_time(pid)) is not None:
            return ProcessIdentity(pid, started)
    return None


def stop_services(settings: Settings, nodes: Iterable[Node]) -> dict[str, ProcessIdentity]:
    """SIGSTOP the services of these nodes, one right after the other; returns the stopped processes by node.

    Raises StepFailed, with nothing stopped, when a node has no service process.
    """
    processes = {node.name: service_process(settings, node) for node in nodes}
    if missing := [name for name, process in processes.items() if process is None]:
        raise StepFailed(f"no service process runs on {', '.join(missing)}; it can't be stopped")
    stopped = {name: process for name, process in processes.items() if process is not None}
    for process in stopped.values():
        signal_process(process.pid, signal.SIGSTOP, process.started)
    return stopped


def continue_services(settings: Settings, nodes: Iterable[Node]) -> None:
    """SIGCONT the services that run on these nodes now; harmless for one that is not stopped."""
    for node in nodes:
        if (process := service_process(settings, node)) is not None:
            signal_process(process.pid, signal.SIGCONT, process.started)


def kill_service(settings: Settings, node: Node) -> ProcessIdentity | None:
    """SIGKILL the node's service; returns the killed process, None when there was none."""
    process = service_process(settings, node)
    if process is not None:
        signal_process(process.pid, signal.SIGKILL, process.started)
    return process


def _child_processes(pid: int) -> list[int]:
    """The processes that ``pid`` started or adopted; needs CONFIG_PROC_CHILDREN, which distributions set."""
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def _command_line(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return []
