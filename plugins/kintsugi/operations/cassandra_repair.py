"""Comparing a Cassandra node's ranges with its replicas, which repairs what differs: after a repair, and each night.

A replica misses writes quietly: it was too busy for a moment and no hint of the write was kept, or its disk lost one.
Nobody notices while the others hold them, and what has been deleted since comes back after ``gc_grace_seconds``.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from kintsugi.core.errors import StepFailed
from kintsugi.core.fleet import Fleet, Node, Role
from kintsugi.core.observation import ProbeResult
from kintsugi.operations.context import Context
from kintsugi.probes.protocols import probe_node

log = logging.getLogger(__name__)

# It takes as long as there is data; what can't end any more is noticed by AWAY_S.
COMPARISON_S = 4 * 3600.0
AWAY_S = 30.0
ASK_EVERY_S = 5.0
NOTE_EVERY_S = 120.0  # a journal that says nothing for ten minutes is taken for a repair that is stuck
REPLICAS_S = 720.0
DIFFER = re.compile(r" ha(?:s|ve) (\d+) range\(s\) out of sync")


def repair_ranges(
    context: Context, node: Node, by: str, *, primary: bool, note: Callable[[str], None] = log.info
) -> str:
    """Compare the node's ranges with their replicas, and repair what differs; it is put on record for ``by``.

    ``primary``: only the ranges whose first replica it is; of all nodes together those are all there are. ``note`` gets
    a sentence every NOTE_EVERY_S while it goes on. Returns a sentence; raises StepFailed, also once a Cassandra node
    hasn't answered for AWAY_S.
    """
    number, began = context.store.begin_comparison(node.name, by), datetime.now(UTC)
    try:
        context.ansible().run(  # of no release: nothing is configured
            "rejoin_cassandra.yml",
            limit=node.name,
            extra_vars={"cassandra_repair_primary": primary},
            timeout_s=COMPARISON_S,
            give_up=_away(
                context.fleet, lambda seconds: note(f"{node.name} has been compared for {seconds:.0f} s")
            ),
        )
    except StepFailed as failure:
        context.store.end_comparison(number, failure=str(failure))
        raise
    differed = _differed(context, node, began)
    context.store.end_comparison(number, differed)
    which = "every range that is its own first" if primary else "every range"
    found = {None: "how many differed is unknown", 0: "none differed"}.get(
        differed, f"{differed} differed and were repaired"
    )
    return f"{which} of {node.name} was compared with its replicas: {found}"


def repair_tonight(context: Context, name: str, by: str) -> str:
    """The nightly comparison of one node; raises StepFailed where it fails, or is put off, with the reason."""
    if (why := _put_off(context)) is not None:
        raise StepFailed(f"the comparison of {name} is put off: {why}")
    sentence = repair_ranges(context, context.fleet.node(name), by, primary=True)
    log.info("%s", sentence)
    return sentence


def await_replicas(fleet: Fleet) -> None:
    """Wait until every Cassandra node answers, because others may be under repair too.

    Raises StepFailed after REPLICAS_S.
    """
    until = time.monotonic() + REPLICAS_S
    while away := _silent(fleet):
        if time.monotonic() > until:
            raise StepFailed(f"no comparison without {' and '.join(away)}: no answer for {REPLICAS_S:.0f} s")
        time.sleep(2)


def _put_off(context: Context) -> str | None:
    """Why no ranges should be compared now: a repair or a roll-out would be slowed down, or break it off."""
    for incident in context.store.incidents(open_only=True):
        if incident.role is Role.CASSANDRA:
            return f"{incident.node} is being repaired ({incident.id})"
    for deployment in context.store.deployments():
        if deployment.state == "running":
            return f"a release is being rolled out ({deployment.id})"
    if away := _silent(context.fleet):
        return f"no answer from {' and '.join(away)}"
    return None


def _silent(fleet: Fleet) -> list[str]:
    """The Cassandra nodes that don't answer now."""
    nodes = fleet.of(Role.CASSANDRA)
    answering = asyncio.run(_answering(nodes))
    return [node.name for node in nodes if node.name not in answering]


async def _answering(nodes: Sequence[Node]) -> list[str]:
    probes = await asyncio.gather(*(probe_node(node) for node in nodes))
    return [probe.target for probe in probes if probe.answer is ProbeResult.OK]


def _differed(context: Context, node: Node, began: datetime) -> int | None:
    """How many ranges the node's log says differed since then, by its own clock; None where it can't be asked."""
    try:
        return differing_ranges(context.said(node.name, "range(s) out of sync", began))
    except StepFailed as failure:
        log.warning("how many ranges differed is unknown: %s", failure)
        return None


@dataclass
class Away:
    """Which of the nodes hasn't answered for AWAY_S. Pure; ``observe`` it in order."""

    heard: dict[str, float]

    def observe(self, answering: Collection[str], now: float) -> str | None:
        """Take one look, at ``now`` (monotonic seconds); a sentence once a node is away."""
        self.heard.update(dict.fromkeys(answering, now))
        for name, at in self.heard.items():
            if now - at > AWAY_S:
                return f"{name} hasn't answered for {now - at:.0f} s, and a comparison needs every replica"
        return None


def _away(fleet: Fleet, tell: Callable[[float], None]) -> Callable[[], str | None]:
    """A function that looks every ASK_EVERY_S (two seconds at most); a sentence once a Cassandra node is away.

    ``tell`` gets the seconds that went by, every NOTE_EVERY_S.
    """
    nodes = fleet.of(Role.CASSANDRA)
    began = asked = told = time.monotonic()
    memory = Away(dict.fromkeys([node.name for node in nodes], began))

    def look() -> str | None:
        nonlocal asked, told
        if (now := time.monotonic()) - asked < ASK_EVERY_S:
            return None
        asked = now
        if now - told >= NOTE_EVERY_S:
            told = now
            tell(now - began)
        return memory.observe(asyncio.run(_answering(nodes)), now)

    return look


def differing_ranges(lines: Sequence[str]) -> int:
    """The sum over Cassandra's words for each pair of replicas and table that differ."""
    return sum(int(found[1]) for line in lines if (found := DIFFER.search(line)))
