"""The one way in which a benchmark injects a fault: allowed by chaos, on record, and undone in every case.

1. `allow_fault` asks the switch and the guards of chaos (`kintsugi.chaos.guard`) until they allow the fault.
2. `AllowedFault.injected` asks the switch once more and records the fault with its time t0. It registers the fault
   with the janitor, injects it, and undoes it at the end of the block. If this process dies, the janitor undoes it.
3. While the block waits, it calls `check_switch`: a person can stop chaos at any time.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime

from kintsugi.chaos import guard, injection, switch
from kintsugi.chaos.registry import FAULTS
from kintsugi.core.errors import GuardRefused
from kintsugi.db.store import StoreUnavailable
from kintsugi.operations.context import Context
from kintsugi.recovery.guard_model import Guard

ALLOWED_DEADLINE_S = 600.0  # replicas of much data are repaired for minutes
PAUSE_S = 2.0


@dataclass
class AllowedFault:
    """A fault that the guards of chaos allow for these nodes now. ``t0`` (UTC): right before it is injected."""

    context: Context
    kind: str
    names: Sequence[str]
    run: str
    t0: datetime = field(default_factory=lambda: datetime.now(UTC))

    @contextmanager
    def inject_fault(self, *, longest_s: float = injection.LONGEST_S) -> Iterator[datetime]:
        """Inject the fault, and undo it when the block ends, or by the janitor after ``longest_s``; yields t0.

        Raises ChaosStopped before anything is done, and the errors of the injection.
        """
        switch.check_not_stopped(self.context.store)
        self.t0 = datetime.now(UTC)
        for name in self.names:
            self.context.store.record_fault(
                name,
                kind=self.kind,
                t0=self.t0,
                run=f"{self.run} {self.t0.isoformat()}",
                mode=FAULTS[self.kind].mode,
            )
        with injection.fault_in_force(self.context, self.kind, self.names, longest_s=longest_s):
            yield self.t0


def allow_fault(
    context: Context,
    kind: str,
    names: Sequence[str],
    *,
    run: str,
    waives: Collection[Guard] = frozenset(),
    deadline_s: float = ALLOWED_DEADLINE_S,
) -> AllowedFault:
    """Ask the guards of chaos until they allow this fault. ``run``: who injects it, for the record.

    What an earlier fault left behind, such as a repair of replicas, ends after some minutes. Raises the last
    GuardRefused at the deadline, and ChaosStopped at once.
    """
    until = time.monotonic() + deadline_s
    while True:
        try:
            guard.check_guards(context, FAULTS[kind], names, waives)
        except switch.ChaosStopped:
            raise
        except GuardRefused:
            if time.monotonic() > until:
                raise
            time.sleep(PAUSE_S)
        else:
            return AllowedFault(context, kind, names, run)


def check_switch(context: Context) -> None:
    """Raise ChaosStopped if a person has stopped chaos. A database that does not answer may be the victim."""
    with suppress(StoreUnavailable):
        switch.check_not_stopped(context.store)
