"""Gather the guards' facts as they are now: from probes, peers, the platform, the node and the database."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from kintsugi.core.errors import StepFailed
from kintsugi.core.fleet import Node
from kintsugi.core.observation import ProcessorUse
from kintsugi.probes.event_loop_lag import LoopLag
from kintsugi.recovery.common_cause import OtherNode, Starvation
from kintsugi.recovery.diagnosis import HANG_AFTER, FailureMode
from kintsugi.recovery.guard_facts import guard_facts
from kintsugi.recovery.guard_model import GuardFacts

if TYPE_CHECKING:
    from kintsugi.environments.base import Platform
    from kintsugi.operations.context import Context

WAITED_SHARE = 0.5  # of the observed time; a stopped or deadlocked process does not wait for the processor
OWN_LAG_S = 1.0  # how long our own event loop was blocked during the probes
WATCH_LATE_S = 2.0  # how long the watch was blocked while it found the node down
LOOK_AGAIN = timedelta(seconds=10)
RECOVER = timedelta(seconds=20)  # how long a starved machine needs until everything answers again
# The node, its log or its init tells of these. A lack of processor time explains silence, and none of these is silence.
# A service that exits at each start even causes the lack itself.
NOT_SILENT = frozenset(
    {FailureMode.DATA_DAMAGED, FailureMode.DISK_FULL, FailureMode.DISK_LOST, FailureMode.MISCONFIGURED}
)


@dataclass(frozen=True, slots=True)
class Suspicion:
    """What the confirmation knows of the node. Times are UTC; see ``GuardFacts``."""

    failure_mode: FailureMode
    first_failed_at: datetime
    detected_at: datetime
    last_seen_at: datetime | None
    volume_intact: bool | None
    watch_late_s: float = 0.0
    planned: bool = False


def gather_guard_facts(context: Context, node: Node, suspicion: Suspicion) -> GuardFacts:
    """Return all facts that the guards need, except the database's ledger. Takes at most about 9 s."""
    platform = context.platform()
    running = is_running(platform, node.name)

    async def ask_nodes() -> tuple[GuardFacts, float]:
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
    facts, own_lag_s = asyncio.run(ask_nodes())
    processor = facts.view.processor or _used_since(before, _processor_use(platform, node.name))
    return replace(
        facts,
        planned=suspicion.planned,
        others=tuple(_other_nodes(context, platform, facts)),
        starvation=find_starvation(node.name, processor, own_lag_s, suspicion, facts.at),
    )


def is_running(platform: Platform, name: str) -> bool | None:
    """Return whether the node runs, by the platform; None if the platform can't tell."""
    try:
        return platform.incarnation(name) is not None
    except (StepFailed, OSError):
        return None


def find_starvation(
    name: str, processor: ProcessorUse | None, own_lag_s: float, suspicion: Suspicion, at: datetime
) -> Starvation | None:
    """Return a Starvation if a lack of processor time may explain the suspicion, of node or control plane. Pure."""
    if suspicion.failure_mode in NOT_SILENT:
        return None
    if processor and processor.waited_s > max(WAITED_SHARE * processor.seconds, 2 * processor.used_s):
        return Starvation(
            f"{name} lacks processor time: within {processor.seconds:.1f} s it waited {processor.waited_s:.1f} s "
            f"for the processor and used {processor.used_s:.1f} s. Its silence is no proof that it is down.",
            at + LOOK_AGAIN,
        )
    if own_lag_s > OWN_LAG_S:
        return Starvation(
            f"The control plane lacks processor time: its event loop was blocked for {own_lag_s:.1f} s. "
            "A missed reply may be its own stall.",
            at + LOOK_AGAIN,
        )
    if suspicion.watch_late_s > WATCH_LATE_S and at < suspicion.detected_at + RECOVER:
        return Starvation(
            f"The control plane lacked processor time: the watch of {name} was blocked for "
            f"{suspicion.watch_late_s:.1f} s while it found the node down.",
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


def _other_nodes(context: Context, platform: Platform, facts: GuardFacts) -> list[OtherNode]:
    """Return the other nodes; for a silent one also whether it runs, and since when it has been silent."""
    first_failures = context.store.first_failures()
    # If no watch has reported a silent node yet, it became silent at most HANG_AFTER ago.
    unnoticed = facts.at - HANG_AFTER
    return [
        other
        if other.answers
        else replace(
            other,
            running=is_running(platform, other.name),
            silent_since=first_failures.get(other.name, unnoticed),
        )
        for other in facts.others
    ]


class ProcessorClock:
    """A clock that counts the processor time that a node gets: a start needs processor time, not wall time.

    While the node's processes wait for the processor, time counts by the share that they got. It counts by at least a
    tenth, so that a deadline is always reached. If the platform can't tell, it counts wall time.
    """

    LEAST_SHARE = 0.1

    def __init__(self, platform: Platform, name: str) -> None:
        self._platform, self._name = platform, name
        self._passed_s, self._at_s = 0.0, time.monotonic()
        self._use = _processor_use(platform, name)

    def passed_s(self) -> float:
        """Return the seconds that have passed so far."""
        at_s, use = time.monotonic(), _processor_use(self._platform, self._name)
        self._passed_s += (at_s - self._at_s) * self._share(_used_since(self._use, use))
        self._at_s, self._use = at_s, use
        return self._passed_s

    def _share(self, use: ProcessorUse | None) -> float:
        if use is None or use.waited_s <= WAITED_SHARE * use.seconds:
            return 1.0
        return max(self.LEAST_SHARE, use.used_s / (use.used_s + use.waited_s))
