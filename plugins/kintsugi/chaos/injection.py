"""The life of one fault: it is registered with the janitor, injected, held, and undone in every case."""

from __future__ import annotations

import logging
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from kintsugi.chaos import janitor
from kintsugi.chaos.registry import FAULTS
from kintsugi.core.errors import KintsugiError
from kintsugi.operations.context import Context

LONGEST_S = 1800.0
_PAUSE_S = 0.25

Check = Callable[[], None]
Announce = Callable[[Sequence[str]], None]

log = logging.getLogger(__name__)


def _accept() -> None:
    return None


def _announce_to_nobody(names: Sequence[str]) -> None:
    return None


@contextmanager
def fault_in_force(
    context: Context,
    kind: str,
    names: Sequence[str],
    *,
    longest_s: float = LONGEST_S,
    announce: Announce = _announce_to_nobody,
) -> Iterator[None]:
    """Inject a fault into these nodes; it is undone when the block ends, or by the janitor after ``longest_s``.

    ``announce`` gets the nodes right before something is done to them. Raises the errors of the injection. A fault
    that can't be undone keeps its record, and the janitor tries again.
    """
    fault = FAULTS[kind]
    record = janitor.register_fault(context.settings, kind, tuple(names), longest_s)
    try:
        announce(names)
        fault.make(context, names)
        yield
    finally:
        if fault.take_back is None:
            janitor.forget_fault(context.settings, record)
        else:
            announce(names)
            _undo_fault(context, record)


def _undo_fault(context: Context, record: janitor.FaultRecord) -> None:
    fault = FAULTS[record.kind]
    try:
        if fault.take_back is not None:
            fault.take_back(context, record.nodes)
    except (KintsugiError, OSError, subprocess.SubprocessError) as error:
        log.warning("%s of %s can't be undone now: %s", record.kind, ", ".join(record.nodes), error)
    else:
        janitor.forget_fault(context.settings, record)


def hold_fault(
    seconds: float,
    check: Check = _accept,
    *,
    again: Check = _accept,
    every_s: float | None = None,
) -> None:
    """Wait for ``seconds`` and call ``check`` repeatedly; an error of ``check`` ends the wait.

    ``again`` is called every ``every_s`` seconds: it repeats the fault.
    """
    began, times = time.monotonic(), 1
    while (passed := time.monotonic() - began) < seconds:
        check()
        if every_s is not None and passed >= times * every_s:
            times += 1
            again()
        time.sleep(min(_PAUSE_S, seconds - passed))
