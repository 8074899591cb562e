"""The streaming driver's processes on the Spark master's node, for the soak test that kills them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from kintsugi.core.fleet import Role
from kintsugi.core.processes import start_time
from kintsugi.core.settings import Settings
from kintsugi.environments.local.node_process import member_pids

APPLICATION = b"stream_trades.py"


@dataclass(frozen=True, slots=True)
class DriverProcess:
    """``kind``: ``jvm`` (spark-submit) or ``python`` (the application); ``began`` in clock ticks since boot."""

    pid: int
    kind: str
    began: int


def find_driver_processes(settings: Settings) -> list[DriverProcess]:
    """What lives of the driver now, by the host's pids."""
    found = []
    for node in settings.fleet.of(Role.SPARK_MASTER):
        for pid in member_pids(settings, node.name):
            kind, began = kind_of(_read_command(pid)), start_time(pid)
            if kind is not None and began is not None:
                found.append(DriverProcess(pid, kind, began))
    return found


def kind_of(command: Iterable[bytes]) -> str | None:
    """Return the part of the driver that the process with this command line is; None for other processes."""
    words = list(command)
    if not any(word.endswith(APPLICATION) for word in words):
        return None
    if any(word.endswith(b"deploy.SparkSubmit") for word in words):
        return "jvm"
    # Not the launcher that becomes spark-submit: it has the application's path as an option's value.
    return "python" if len(words) > 1 and words[1].endswith(APPLICATION) else None


def _read_command(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return []
