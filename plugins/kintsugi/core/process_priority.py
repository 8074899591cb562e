"""The processor priority (niceness) of a process: in the `local` environment nodes and control plane share processors.

See ``docs/decisions/0063-recovery-has-priority.md`` and ``0086-priority-is-set-for-the-session-too.md``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

URGENT = -10  # about nine times the processor share of a normal process
SERVER = 7  # for servers and for tasks that don't belong to a recovery: about a fifth of a normal share

IN_A_WORKER = "KINTSUGI_IN_A_WORKER"
"""Set in the environment of Airflow's workers. Others that run a task, such as a test, keep their priority."""


def read_niceness() -> int:
    """Return the niceness of this process."""
    return os.getpriority(os.PRIO_PROCESS, 0)


def set_priority(niceness: int) -> None:
    """Set the niceness of this process, and of its session if Linux schedules by session.

    That is the default (``sched_autogroup_enabled``): a process's own niceness then only counts within its session.
    Raises PermissionError for a lower niceness without root.
    """
    os.setpriority(os.PRIO_PROCESS, 0, niceness)
    with suppress(OSError):  # a kernel without it, or a session in a control group
        Path("/proc/self/autogroup").write_text(str(niceness))


def raise_priority() -> None:
    """Raise the priority of this process and its future children above all others; does nothing without root."""
    with suppress(PermissionError):
        set_priority(min(read_niceness(), URGENT))


def go_on_first() -> None:
    """If this process has a raised priority already, raise it for its session too, which may be new or lowered."""
    if read_niceness() < 0:
        raise_priority()


def lower_priority() -> None:
    """Lower the priority of this process and its future children to that of the nodes, below recoveries."""
    set_priority(max(read_niceness(), SERVER))


@contextmanager
def first_in_line() -> Iterator[None]:
    """Raise the priority of this thread, and what it starts, above everything else; does nothing without root.

    Without it, Ansible and Terraform got an eighth of a processor while the stream caught up.
    """
    before = read_niceness()
    raise_priority()
    try:
        yield
    finally:
        set_priority(before)  # a lower priority is always allowed
