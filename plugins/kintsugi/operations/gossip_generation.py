"""Keep a Cassandra node's gossip generation rising after its clock was fast; see ``docs/decisions/0072``.

The generation in a node's gossip tells its peers that it was restarted. It is the time of the start, or one more than
the number that the node keeps in ``system.local``. A row that was written with a fast clock can't be overwritten until
that time has come. So every later start would have the same generation, and peers would take its heartbeats for those
of the earlier start. It is worse if the earlier start was shut down in an orderly way. Its last heartbeat is the
highest possible, so the peers mark the node as shut down as long as it runs.
"""

from __future__ import annotations

import asyncio
import time

from kintsugi.core.errors import StepFailed
from kintsugi.core.fleet import Fleet, Node
from kintsugi.operations.verification_cassandra import RestrictedSession
from kintsugi.probes.peers import heartbeat

KEPT = "SELECT gossip_generation, writetime(gossip_generation) AS written_us FROM system.local WHERE key = 'local'"
IN_FORCE = "SELECT address, generation FROM system_views.gossip_info"
KEEP = "UPDATE system.local USING TIMESTAMP %s SET gossip_generation = %s WHERE key = 'local'"


def bump_generation(node: Node) -> str | None:
    """Store the current generation if the node itself couldn't; returns a sentence, or None if nothing was needed.

    Call it after each start. Raises StepFailed if the node doesn't answer.
    """
    from cassandra import DriverException
    from cassandra.cluster import NoHostAvailable

    try:
        with RestrictedSession([node.address]) as session:
            kept = session.execute(KEPT).one()
            ahead_s = kept.written_us / 1e6 - time.time()
            if ahead_s <= 0:
                return None
            in_force = {row.address: row.generation for row in session.execute(IN_FORCE)}[node.address]
            session.execute(KEEP, (kept.written_us + 1, in_force))
    except (DriverException, NoHostAvailable) as error:
        raise StepFailed(f"the gossip generation of {node.name} can't be read: {error}") from error
    return (
        f"{node.name} last stored its gossip generation with a clock that was at least {ahead_s:,.0f} s fast; "
        f"it was stored again and continues from {in_force}"
    )


async def generation_is_behind(fleet: Fleet, node: Node) -> str | None:
    """Return that peers ignore the node because they know a later heartbeat of the same generation; else None.

    A restart after `bump_generation` gives it a new generation, which they accept. None if the node does not answer.
    """
    peers = fleet.peers(node)
    heartbeats = await asyncio.gather(*(heartbeat(peer, node) for peer in peers))
    own = await heartbeat(node, node)  # asked last, so no peer can know a newer heartbeat of this start
    if isinstance(own, str):
        return None
    peers_behind = [
        peer.name
        for peer, heartbeat_held in zip(peers, heartbeats, strict=True)
        if not isinstance(heartbeat_held, str) and heartbeat_held[0] == own[0] and heartbeat_held[1] > own[1]
    ]
    if not peers_behind:
        return None
    return (
        f"{' and '.join(peers_behind)} ignore {node.name}: an earlier start of it had the same gossip generation "
        f"({own[0]}) and announced its shutdown"
    )
