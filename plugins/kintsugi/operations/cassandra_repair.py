"""Repair a Cassandra node's ranges (`nodetool repair`, anti-entropy): at the end of a recovery, and each night.

A replica can miss a write without an error: it was too busy and no hint was kept, or its disk lost the write. Nobody
notices while the other replicas have it. Without repair, deleted rows can reappear after ``gc_grace_seconds``.
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
from kintsugi.operations.context import Context
from kintsugi.probes.protocols import answering_nodes, silent_nodes

log = logging.getLogger(__name__)

# A repair takes longer with more data. AWAY_S ends one that can't finish because a node is down.
COMPARISON_S = 4 * 3600.0
AWAY_S = 30.0
ASK_EVERY_S = 5.0
NOTE_EVERY_S = 120.0  # a recovery counts as stuck if its journal has no new entry for ten minutes
REPLICAS_S = 720.0
DIFFER = re.compile(r" ha(?:s|ve) (\d+) range\(s\) out of sync")


def repair_ranges(
    context: Context, node: Node, by: str, *, primary: bool, note: Callable[[str], None] = log.info
) -> str:
    """Repair the node's ranges with their replicas; the repair is recorded for ``by``.

    ``primary``: only the ranges whose first replica is this node. For all nodes together these are all ranges.
    ``note`` gets a sentence every NOTE_EVERY_S while the repair runs. Returns a sentence. Raises StepFailed, also if a
    Cassandra node hasn't answered for AWAY_S.
    """
    number, began = context.store.begin_comparison(node.name, by), datetime.now(UTC)
    try:
        context.ansible().run(  # of no release: nothing is configured
            "rejoin_cassandra.yml",
            limit=node.name,
            extra_vars={"cassandra_repair_primary": primary},
            timeout_s=COMPARISON_S,
            give_up=_absence_watch(
                context.fleet,
                lambda seconds: note(f"the data repair of {node.name} has run for {seconds:.0f} s"),
            ),
        )
    except StepFailed as failure:
        context.store.end_comparison(number, failure=str(failure))
        raise
    differed = _count_differing_ranges(context, node, began)
    context.store.end_comparison(number, differed)
    which = "every primary range" if primary else "every range"
    result = {None: "the number of ranges out of sync is unknown", 0: "no range was out of sync"}.get(
        differed, f"ranges that were out of sync: {differed}"
    )
    return f"{which} of {node.name} was repaired with its replicas: {result}"


def repair_tonight(context: Context, name: str, by: str) -> str:
    """Run the nightly repair of one node; raises StepFailed with the reason if it fails or is postponed."""
    if (why := _reason_to_postpone(context)) is not None:
        raise StepFailed(f"the data repair of {name} is postponed: {why}")
    sentence = repair_ranges(context, context.fleet.node(name), by, primary=True)
    log.info("%s", sentence)
    return sentence


def await_replicas(fleet: Fleet) -> None:
    """Wait until every Cassandra node answers, because other nodes may be in recovery too.

    Raises StepFailed after REPLICAS_S.
    """
    until = time.monotonic() + REPLICAS_S
    while away := _silent_nodes(fleet):
        if time.monotonic() > until:
            raise StepFailed(f"no data repair without {' and '.join(away)}: no answer for {REPLICAS_S:.0f} s")
        time.sleep(2)


def _reason_to_postpone(context: Context) -> str | None:
    """Return why no data repair should start now: it would disturb a recovery or a roll-out, or be ended by it."""
    for incident in context.store.read_incidents(None, open_only=True):
        if incident.role is Role.CASSANDRA:
            return f"{incident.node} is being recovered ({incident.id})"
    for deployment in context.store.read_deployments():
        if deployment.state == "running":
            return f"a release is being rolled out ({deployment.id})"
    if away := _silent_nodes(context.fleet):
        return f"no answer from {' and '.join(away)}"
    return None


def _silent_nodes(fleet: Fleet) -> list[str]:
    """Return the Cassandra nodes that don't answer now."""
    return asyncio.run(silent_nodes(fleet.of(Role.CASSANDRA)))


def _count_differing_ranges(context: Context, node: Node, began: datetime) -> int | None:
    """Return how many ranges were out of sync since then, by the node's log and clock; None if it can't be read."""
    try:
        return differing_ranges(context.said(node.name, "range(s) out of sync", began))
    except StepFailed as failure:
        log.warning("the number of ranges out of sync is unknown: %s", failure)
        return None


@dataclass
class Away:
    """Finds a node that hasn't answered for AWAY_S. Pure; call ``observe`` in order of time."""

    heard: dict[str, float]

    def observe(self, answering: Collection[str], now: float) -> str | None:
        """Take the nodes that answer at ``now`` (monotonic seconds); returns a sentence once a node is away."""
        self.heard.update(dict.fromkeys(answering, now))
        for name, at in self.heard.items():
            if now - at > AWAY_S:
                return f"{name} hasn't answered for {now - at:.0f} s, and a data repair needs every replica"
        return None


def _absence_watch(fleet: Fleet, report_progress: Callable[[float], None]) -> Callable[[], str | None]:
    """Return a function that probes every ASK_EVERY_S (takes at most 2 s); it returns a sentence if a node is away.

    ``report_progress`` gets the seconds since the start, every NOTE_EVERY_S.
    """
    nodes = fleet.of(Role.CASSANDRA)
    started_at = probed_at = reported_at = time.monotonic()
    memory = Away(dict.fromkeys([node.name for node in nodes], started_at))

    def probe_replicas() -> str | None:
        nonlocal probed_at, reported_at
        if (now := time.monotonic()) - probed_at < ASK_EVERY_S:
            return None
        probed_at = now
        if now - reported_at >= NOTE_EVERY_S:
            reported_at = now
            report_progress(now - started_at)
        return memory.observe(asyncio.run(answering_nodes(nodes)), now)

    return probe_replicas


def differing_ranges(lines: Sequence[str]) -> int:
    """Return the number of ranges out of sync: the sum of Cassandra's log lines, one a pair of replicas and table."""
    return sum(int(match[1]) for line in lines if (match := DIFFER.search(line)))
