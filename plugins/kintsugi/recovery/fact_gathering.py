"""The facts for the guards as they are at this moment: from probes, peers, the platform, the node and the store."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from kintsugi.core.errors import StepFailed
from kintsugi.core.fleet import Node
from kintsugi.core.observation import ProcessorUse
from kintsugi.probes.event_loop_lag import LoopLag
from kintsugi.recovery.common_cause import OtherNode, Starvation
from kintsugi.recovery.diagnosis import HANG_AFTER
from kintsugi.recovery.guard_facts import guard_facts
from kintsugi.recovery.guards import GuardFacts

if TYPE_CHECKING:
    from kintsugi.environments.base import Platform
    from kintsugi.operations.context import Context

WAITED_SHARE = (
    0.5  # of the time in which a node was looked at; a stopped or deadlocked process waits for nothing
)
OWN_LAG_S = 1.0  # for which our event loop stood still while we looked
WATCH_LATE_S = 2.0  # for which the watch stood still while it found the node sick
LOOK_AGAIN = timedelta(seconds=10)
RECOVER = timedelta(seconds=20)  # a machine that was starved needs so long until everything answers again


@dataclass(frozen=True, slots=True)
class Suspicion:
    """What the confirmation knew of the node. Times are UTC; see ``GuardFacts``."""

    first_failed_at: datetime
    detected_at: datetime
    last_seen_at: datetime | None
    volume_intact: bool | None
    watch_late_s: float = 0.0
    planned: bool = False


def gather_guard_facts(context: Context, node: Node, suspicion: Suspicion) -> GuardFacts:
    """Everything that the guards ask for, all but the store's ledger. Takes at most about 9 s."""
    platform = context.platform()
    running = is_running(platform, node.name)

    async def ask() -> tuple[GuardFacts, float]:
        async with LoopLag() as lag:
            facts = await guard_facts(
                context.fleet,
                node,
                last_seen_at=suspicion.last_seen_at,
                first_failed_at=suspicion.first_failed_at,
                volume_intact=suspicion.volume_intact,
                running=running,
                settings=context.settings,
            )
            return facts, lag.take()

    before = _processor_use(platform, node.name) if running else None
    facts, own_lag_s = asyncio.run(ask())
    processor = facts.view.processor or _used_since(before, _processor_use(platform, node.name))
    return replace(
        facts,
        planned=suspicion.planned,
        others=tuple(_others(context, platform, facts)),
        starvation=find_starvation(node.name, processor, own_lag_s, suspicion, facts.at),
    )


def is_running(platform: Platform, name: str) -> bool | None:
    """The platform's answer: whether the node runs; None when the platform can't say."""
    try:
        return platform.incarnation(name) is not None
    except (StepFailed, OSError):
        return None


def find_starvation(
    name: str, processor: ProcessorUse | None, own_lag_s: float, suspicion: Suspicion, at: datetime
) -> Starvation | None:
    """Whether processor time was missing, to the node or to us who ask; None when it was not. Pure."""
    if processor and processor.waited_s > max(WAITED_SHARE * processor.seconds, 2 * processor.used_s):
        return Starvation(
            f"{name} waits for the processor ({processor.waited_s:.1f} s within {processor.seconds:.1f} s, and it "
            f"used {processor.used_s:.1f} s): its silence proves nothing.",
            at + LOOK_AGAIN,
        )
    if own_lag_s > OWN_LAG_S:
        return Starvation(
            f"This machine is starved: our own event loop stood still for {own_lag_s:.1f} s.", at + LOOK_AGAIN
        )
    if suspicion.watch_late_s > WATCH_LATE_S and at < suspicion.detected_at + RECOVER:
        return Starvation(
            f"This machine was starved: the watch of {name} stood still for {suspicion.watch_late_s:.1f} s "
            "while it found the node sick.",
            suspicion.detected_at + RECOVER,
        )
    return None


def _processor_use(platform: Platform, name: str) -> tuple[datetime, float, float] | None:
    try:
        use = platform.processor_use(name)
    except (StepFailed, OSError):
        return None
    return None if use is None else (datetime.now(UTC), *use)


def _used_since(
    before: tuple[datetime, float, float] | None, after: tuple[datetime, float, float] | None
) -> ProcessorUse | None:
    if before is None or after is None:
        return None
    return ProcessorUse(
        (after[0] - before[0]).total_seconds(), max(0.0, after[1] - before[1]), max(0.0, after[2] - before[2])
    )


def _others(context: Context, platform: Platform, facts: GuardFacts) -> list[OtherNode]:
    """The other nodes; of a silent one also whether it runs, and since when it has been silent."""
    incidents: Mapping[str, datetime] = {
        one.node: one.first_failed_at for one in context.store.incidents(50, open_only=True)
    }
    # One that no watch has reported yet fell silent at most as long ago as a hang takes to be noticed.
    unnoticed = facts.at - HANG_AFTER
    return [
        other
        if other.answers
        else replace(
            other,
            running=is_running(platform, other.name),
            silent_since=incidents.get(other.name, unnoticed),
        )
        for other in facts.others
    ]


class ProcessorClock:
    """Time since it was made, by what a node gets of the processor: a start needs processor time, not wall time.

    A span in which the node's processes wait for the processor counts by the share of it that they got, and at least a
    tenth, so that the clock always ends. Where the platform can't say, it is the wall clock.
    """

    LEAST_SHARE = 0.1

    def __init__(self, platform: Platform, name: str) -> None:
        self._platform, self._name = platform, name
        self._passed_s, self._at_s = 0.0, time.monotonic()
        self._use = _processor_use(platform, name)

    def passed_s(self) -> float:
        """Seconds that have passed so far."""
        at_s, use = time.monotonic(), _processor_use(self._platform, self._name)
        self._passed_s += (at_s - self._at_s) * self._share(_used_since(self._use, use))
        self._at_s, self._use = at_s, use
        return self._passed_s

    def _share(self, use: ProcessorUse | None) -> float:
        if use is None or use.waited_s <= WAITED_SHARE * use.seconds:
            return 1.0
        return max(self.LEAST_SHARE, use.used_s / (use.used_s + use.waited_s))
