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
from kintsugi.operations.context import Runtime

LONGEST_S = 1800.0
_PAUSE_S = 0.25

Check = Callable[[], None]
Announce = Callable[[Sequence[str]], None]

log = logging.getLogger(__name__)


def _nothing() -> None:
    return None


def _nobody(names: Sequence[str]) -> None:
    return None


@contextmanager
def in_force(
    runtime: Runtime,
    kind: str,
    names: Sequence[str],
    *,
    longest_s: float = LONGEST_S,
    announce: Announce = _nobody,
) -> Iterator[None]:
    """Inject a fault into these nodes; it is undone when the block ends, or by the janitor after ``longest_s``.

    ``announce`` gets the nodes right before something is done to them. Raises the errors of the injection. A fault
    that can't be undone keeps its record, and the janitor tries again.
    """
    fault = FAULTS[kind]
    record = janitor.register(runtime.settings, kind, tuple(names), longest_s)
    try:
        announce(names)
        fault.make(runtime, names)
        yield
    finally:
        if fault.take_back is None:
            janitor.forget(runtime.settings, record)
        else:
            announce(names)
            _take_back(runtime, record)


def _take_back(runtime: Runtime, record: janitor.FaultRecord) -> None:
    fault = FAULTS[record.kind]
    try:
        if fault.take_back is not None:
            fault.take_back(runtime, record.nodes)
    except (KintsugiError, OSError, subprocess.SubprocessError) as error:
        log.warning("%s of %s can't be undone now: %s", record.kind, ", ".join(record.nodes), error)
    else:
        janitor.forget(runtime.settings, record)


def hold(
    seconds: float,
    check: Check = _nothing,
    *,
    again: Check = _nothing,
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
