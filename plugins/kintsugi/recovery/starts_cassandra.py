"""A Cassandra node's count of its starts, kept going after its clock was fast; see ``docs/decisions/0072``.

Peers tell a node's lives apart by the generation in its gossip: the time of its start, or one more than the
number that the node keeps in ``system.local``. What a fast clock wrote there cannot be overwritten before that time
comes, so every later life would have the same generation, and peers would take its heartbeats for those of the
life before. Worse where that one was asked to end: its last heartbeat is the highest there is, and the peers hold
the node for shut down as long as it lives.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from kintsugi.errors import StepFailed
from kintsugi.fleet import Fleet, Node
from kintsugi.probes import cql_wire
from kintsugi.probes.peers import ask
from kintsugi.recovery.verify_cassandra import Only
from kintsugi.settings import CASSANDRA_PORT

KEPT = "SELECT gossip_generation, writetime(gossip_generation) AS written_us FROM system.local WHERE key = 'local'"
IN_FORCE = "SELECT address, generation FROM system_views.gossip_info"
HELD = "SELECT address, generation, heartbeat FROM system_views.gossip_info"
KEEP = "UPDATE system.local USING TIMESTAMP %s SET gossip_generation = %s WHERE key = 'local'"


def keep_count(node: Node) -> str | None:
    """Write down the generation in force where the node itself couldn't; None where its own number was written by now.

    To be called after each start. Returns a sentence; raises StepFailed when the node doesn't answer.
    """
    from cassandra import DriverException
    from cassandra.cluster import NoHostAvailable

    try:
        with Only([node.address]) as session:
            kept = session.execute(KEPT).one()
            ahead_s = kept.written_us / 1e6 - time.time()
            if ahead_s <= 0:
                return None
            in_force = {row.address: row.generation for row in session.execute(IN_FORCE)}[node.address]
            session.execute(KEEP, (kept.written_us + 1, in_force))
    except (DriverException, NoHostAvailable) as error:
        raise StepFailed(f"{node.name} doesn't tell the number of its starts: {error}") from error
    return (
        f"{node.name} last wrote down its number of starts with a clock that was at least {ahead_s:,.0f} s fast; "
        f"it goes on from {in_force}"
    )


async def overtaken(fleet: Fleet, node: Node) -> str | None:
    """That peers don't listen to the node, having heard a later heartbeat of the same life; None when none has.

    It takes a start under another number, after `keep_count`, to be heard. None too where the node doesn't answer.
    """
    # The node last: nobody can have heard a heartbeat that it hasn't had by then.
    told = {peer.name: await _held(peer, node) for peer in fleet.peers(node)}
    own = await _held(node, node)
    if own is None:
        return None
    deaf = [
        name
        for name, held in told.items()
        if held and held["generation"] == own["generation"] and held["heartbeat"] > own["heartbeat"]
    ]
    if not deaf:
        return None
    return (
        f"{' and '.join(deaf)} don't listen to {node.name}: a former life of it, which had the same number "
        f"({own['generation']}), announced its end"
    )


async def _held(asked: Node, node: Node) -> Mapping[str, Any] | None:
    """What the gossip of ``asked`` holds of ``node``: ``generation`` and ``heartbeat``; None when nothing is said."""
    rows = await ask(asked, CASSANDRA_PORT, lambda connection: cql_wire.query(connection, HELD))
    if isinstance(rows, str):
        return None
    return next((row for row in rows if row["address"] == node.address), None)
