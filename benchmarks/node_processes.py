"""Every process of the nodes at one moment: which have ended later, and how long they waited for the processor."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from kintsugi.core.processes import start_time
from kintsugi.core.settings import Settings
from kintsugi.environments.local.node_process import member_pids, processor_use


@dataclass(frozen=True, slots=True, order=True)
class NodeProcess:
    """A process of a node. ``start``: clock ticks since boot; no two processes share number and start."""

    node: str
    pid: int
    start: int


Processes = Mapping[NodeProcess, str]
"""Processes of the nodes, with their short names."""


def read_processes(settings: Settings) -> dict[NodeProcess, str]:
    """Return every live process of every node of the local fleet."""
    found = {}
    for name in settings.fleet.nodes:
        for pid in member_pids(settings, name):
            start = start_time(pid)
            with suppress(OSError):  # it ended a moment ago
                command = Path(f"/proc/{pid}/comm").read_text().strip()
                if start is not None:
                    found[NodeProcess(name, pid, start)] = command
    return found


def stable_processes(earlier: Processes, later: Processes) -> dict[NodeProcess, str]:
    """Return what ran at both moments: the services, without sessions and helpers that end by themselves."""
    return {process: command for process, command in earlier.items() if process in later}


def ended_processes(before: Processes, now: Processes) -> list[str]:
    """Return, for people, each process of ``before`` that runs no more, sorted by node."""
    return [
        f"{process.node}: {before[process]} (pid {process.pid})"
        for process in sorted(before)
        if process not in now
    ]


ProcessorUse = Mapping[str, tuple[float, float]]
"""By node: seconds for which its processes have used the processor, and for which they have waited for it."""


def read_processor_use(settings: Settings) -> dict[str, tuple[float, float]]:
    """Return the use of the processor by each node of the local fleet since its processes began."""
    return {name: processor_use(settings, name) for name in settings.fleet.nodes}


def processor_since(before: ProcessorUse, now: ProcessorUse) -> dict[str, dict[str, float]]:
    """Return ``used_s`` and ``waited_s`` since an earlier reading, by node. Processes that ended are not counted."""
    return {
        name: {"used_s": round(used - before[name][0], 1), "waited_s": round(waited - before[name][1], 1)}
        for name, (used, waited) in now.items()
    }
