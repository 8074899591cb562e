"""The steady state, which a roll-out checks before, between and after the updates of its nodes."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from kintsugi.core.errors import GuardRefused, StepFailed
from kintsugi.core.s3_keys import S3Purpose
from kintsugi.operations import verification
from kintsugi.operations.context import Context
from kintsugi.operations.readiness import readiness_gap, stream_should_run
from kintsugi.pipeline import synthetic_trade as trade

log = logging.getLogger(__name__)

GATE_S = 300.0  # time for a recovery that is under way
GRACE_S = 20.0  # a shorter failure counts as a pause; a hang is found before that
CANARY_S = 120.0
POLL_S = 2.0

Look = Callable[[], "Steady"]


@dataclass(frozen=True, slots=True)
class Steady:
    """What is missing for the steady state. ``nodes``: by node name. ``others``: what concerns no single node."""

    nodes: Mapping[str, str] = field(default_factory=dict)
    others: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        """Whether the steady state holds."""
        return not self.nodes and not self.others

    def __str__(self) -> str:
        sick = [f"{node}: {lacks}" for node, lacks in sorted(self.nodes.items())]
        return "; ".join([*sick, *self.others]) or "the steady state holds"


class SickNodes(StepFailed):
    """Nodes that were updated don't serve. ``nodes``: what is missing, by node name."""

    def __init__(self, nodes: Mapping[str, str], seconds: float) -> None:
        super().__init__(f"not ready for {seconds:.0f} s: {Steady(nodes)}")
        self.nodes = nodes


def observe_fleet(context: Context, *, but: Iterable[str] = ()) -> Steady:
    """Check that every node is ready, no incident is open, and no data repair is pending; skip the nodes in ``but``."""
    left_out = set(but)
    store = context.store
    lacks = asyncio.run(_readiness_gaps(context, left_out))
    incidents = [i for i in store.read_incidents(None, open_only=True) if i.node not in left_out]
    others = [f"incident {incident.id} is open" for incident in incidents]
    others += [f"the data repair of {node} is not finished" for node in store.pending_repairs()]
    return Steady({node: what for node, what in lacks.items() if what is not None}, tuple(others))


async def _readiness_gaps(context: Context, left_out: set[str]) -> dict[str, str | None]:
    stream = stream_should_run(context.settings)
    nodes = [node for node in context.fleet if node.name not in left_out]
    gaps = await asyncio.gather(*(readiness_gap(context.fleet, node, stream) for node in nodes))
    return dict(zip((node.name for node in nodes), gaps, strict=True))


def await_steady(looking: Look, deadline_s: float | None = None) -> None:
    """Wait until the steady state holds; GuardRefused with what is missing after ``deadline_s`` (GATE_S) seconds."""
    deadline_s = GATE_S if deadline_s is None else deadline_s
    ends = time.monotonic() + deadline_s
    while not (seen := looking()):
        log.info("waiting for the steady state: %s", seen)
        if time.monotonic() >= ends:
            raise GuardRefused(f"no steady state after {deadline_s:.0f} s: {seen}")
        time.sleep(POLL_S)


def bake_fleet(looking: Look, seconds: float, ours: Iterable[str], deadline_s: float = GATE_S) -> None:
    """Wait until the steady state has held for ``seconds`` without a break.

    Raises SickNodes if one of ``ours``, the updated nodes, failed for longer than GRACE_S. Raises GuardRefused if
    something else prevented it until ``seconds`` and ``deadline_s`` were over.
    """
    names = set(ours)
    started = time.monotonic()
    well_since: float | None = None
    sick_since: float | None = None
    while True:
        seen, now = looking(), time.monotonic()
        mine = {node: lacks for node, lacks in seen.nodes.items() if node in names}
        sick_since = _since_when(sick_since, now, holds=bool(mine))
        if sick_since is not None and now - sick_since > GRACE_S:
            raise SickNodes(mine, now - sick_since)
        well_since = _since_when(well_since, now, holds=bool(seen))
        if well_since is None:
            log.info("waiting for the steady state: %s", seen)
        elif now - well_since >= seconds:
            return
        if now - started > seconds + deadline_s:
            raise GuardRefused(f"the steady state did not hold for {seconds:.0f} s without a break: {seen}")
        time.sleep(min(POLL_S, max(seconds, 0.1)))


def _since_when(before: float | None, now: float, *, holds: bool) -> float | None:
    """Return since when something has held without a break, as of ``now``; None if it doesn't hold."""
    return (now if before is None else before) if holds else None


def verify_synthetic_trade(context: Context, deadline_s: float = CANARY_S) -> str:
    """Send a synthetic trade from S3 to Cassandra; returns a sentence. Raises StepFailed if it doesn't arrive."""
    return verification.verify_synthetic_trade(
        context,
        lambda: (trade.send_synthetic_trade(context.s3(S3Purpose.SYNTHETIC)), "S3"),
        lambda waited_s: waited_s > deadline_s,
    )
