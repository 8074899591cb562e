"""A process's place in line for the processors: in the `local` environment nodes and control plane share them.

See ``docs/decisions/0063-recovery-has-priority.md`` and ``0086-priority-is-set-for-the-session-too.md``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

URGENT = -10  # about nine times the share of the rest
SERVER = 7  # of servers, and of tasks that aren't a recovery's: about a fifth

IN_A_WORKER = "KINTSUGI_IN_A_WORKER"
"""Set in the environment of Airflow's workers, so that nobody else who runs a task, a test for one, steps back."""


def place() -> int:
    """The niceness of this process."""
    return os.getpriority(os.PRIO_PROCESS, 0)


def set_priority(niceness: int) -> None:
    """Give this process a niceness, and its session too where Linux shares the processors out among sessions.

    It does so by default (``sched_autogroup_enabled``): a process's own niceness then counts within its session alone.
    Raises PermissionError for a lower niceness without root.
    """
    os.setpriority(os.PRIO_PROCESS, 0, niceness)
    with suppress(OSError):  # a kernel without it, or a session in a control group
        Path("/proc/self/autogroup").write_text(str(niceness))


def raise_priority() -> None:
    """Let this process, and what it starts from now on, go before the rest of the machine; without root it can't."""
    with suppress(PermissionError):
        set_priority(min(place(), URGENT))


def go_on_first() -> None:
    """Take the session along where this process stands in front already: it may be new, or have stepped back."""
    if place() < 0:
        raise_priority()


def lower_priority() -> None:
    """Let this process, and what it starts from now on, stand where the servers stand: behind what heals them."""
    set_priority(max(place(), SERVER))


@contextmanager
def first_in_line() -> Iterator[None]:
    """Let this thread, and what it starts, go before everything else on the machine; without root nothing changes.

    Ansible and Terraform got an eighth of a processor while the stream caught up beside them.
    """
    before = place()
    raise_priority()
    try:
        yield
    finally:
        set_priority(before)  # to a lower priority: always allowed
