"""A Cassandra node's count of its starts, kept going after its clock was fast; see ``docs/decisions/0072``.

Peers tell a node's lives apart by the generation in its gossip: the time of its start, or one more than the
number that the node keeps in ``system.local``. What a fast clock wrote there cannot be overwritten before that time
comes, so every later life would have the same generation, and peers would take its heartbeats for those of the
life before. Worse where that one was asked to end: its last heartbeat is the highest there is, and the peers hold
the node for shut down as long as it lives.
"""

from __future__ import annotations

import asyncio
import time

from kintsugi.core.errors import StepFailed
from kintsugi.core.fleet import Fleet, Node
from kintsugi.operations.verification_cassandra import Only
from kintsugi.probes.peers import heartbeat

KEPT = "SELECT gossip_generation, writetime(gossip_generation) AS written_us FROM system.local WHERE key = 'local'"
IN_FORCE = "SELECT address, generation FROM system_views.gossip_info"
KEEP = "UPDATE system.local USING TIMESTAMP %s SET gossip_generation = %s WHERE key = 'local'"


def bump_generation(node: Node) -> str | None:
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


async def generation_is_behind(fleet: Fleet, node: Node) -> str | None:
    """That peers don't listen to the node, having heard a later heartbeat of the same life; None when none has.

    It takes a start under another number, after `bump_generation`, to be heard. None too where the node doesn't answer.
    """
    peers = fleet.peers(node)
    told = await asyncio.gather(*(heartbeat(peer, node) for peer in peers))
    own = await heartbeat(node, node)  # last: nobody can have heard one that it hasn't had by then
    if isinstance(own, str):
        return None
    deaf = [
        peer.name
        for peer, held in zip(peers, told, strict=True)
        if not isinstance(held, str) and held[0] == own[0] and held[1] > own[1]
    ]
    if not deaf:
        return None
    return (
        f"{' and '.join(deaf)} don't listen to {node.name}: a former life of it, which had the same number "
        f"({own[0]}), announced its end"
    )
