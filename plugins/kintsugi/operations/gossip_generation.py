"""Keep a Cassandra node's gossip generation rising after its clock was fast; see ``docs/decisions/0072``.

The generation in a node's gossip tells its peers that it was restarted. It is the time of the start, or one more than
the number that the node keeps in ``system.local``.

1. A row that was written with a fast clock can't be overwritten until that time has come. So every later start would
   have the same generation, and peers would take its heartbeats for those of the earlier start. It is worse if the
   earlier start was shut down in an orderly way. Its last heartbeat is the highest possible, so the peers mark the node
   as shut down as long as it runs.
2. A node that loses its disk forgets the number. The time of its start is smaller than what its peers know, until the
   time by which its clock was ahead has passed. They ignore it as long.

In both cases the node keeps the generation that its peers know, and is started once more.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kintsugi.core.errors import StepFailed
from kintsugi.core.fleet import Fleet, Node
from kintsugi.operations.verification_cassandra import RestrictedSession
from kintsugi.probes.peers import read_heartbeat

if TYPE_CHECKING:
    from cassandra.cluster import Session

KEPT = "SELECT gossip_generation, writetime(gossip_generation) AS written_us FROM system.local WHERE key = 'local'"
IN_FORCE = "SELECT address, generation FROM system_views.gossip_info"
KEEP = "UPDATE system.local USING TIMESTAMP %s SET gossip_generation = %s WHERE key = 'local'"


@dataclass(frozen=True, slots=True)
class KnownGeneration:
    """What peers that ignore a node know of it: the highest ``generation``, and why they ignore it, as a sentence."""

    generation: int
    why: str


def bump_generation(node: Node) -> str | None:
    """Store the current generation if the node itself couldn't; returns a sentence, or None if nothing was needed.

    Call it after each start. Raises StepFailed if the node doesn't answer.
    """
    with _session_with(node) as session:
        kept = session.execute(KEPT).one()
        ahead_s = kept.written_us / 1e6 - time.time()
        if ahead_s <= 0:
            return None
        in_force = {row.address: row.generation for row in session.execute(IN_FORCE)}[node.address]
        session.execute(KEEP, (kept.written_us + 1, in_force))
    return (
        f"{node.name} last stored its gossip generation with a clock that was at least {ahead_s:,.0f} s fast; "
        f"it was stored again and continues from {in_force}"
    )


def continue_from(node: Node, generation: int) -> None:
    """Store ``generation``, so that the next start of the node has the one after it.

    Raises StepFailed if the node doesn't answer.
    """
    with _session_with(node) as session:
        kept = session.execute(KEPT).one()
        session.execute(KEEP, (kept.written_us + 1, max(generation, kept.gossip_generation)))


async def ignored_by_peers(fleet: Fleet, node: Node) -> KnownGeneration | None:
    """Return what peers that ignore the node know of it; None if none does, or the node does not answer.

    They know a later generation, or a later heartbeat of the same one. A restart after `continue_from` gives it a newer
    generation, which they accept.
    """
    peers = fleet.peers(node)
    heartbeats = await asyncio.gather(*(read_heartbeat(peer, node) for peer in peers))
    own = await read_heartbeat(node, node)  # asked last, so no peer can know a newer heartbeat of this start
    if isinstance(own, str):
        return None
    ahead = {
        peer.name: held
        for peer, held in zip(peers, heartbeats, strict=True)
        if not isinstance(held, str) and held > own
    }
    if not ahead:
        return None
    generation = max(held[0] for held in ahead.values())
    reason = (
        f"an earlier start of it had the same gossip generation ({generation}) and announced its shutdown"
        if generation == own[0]
        else f"they know a gossip generation of it that is {generation - own[0]:,} s newer, from a clock that was ahead"
    )
    return KnownGeneration(generation, f"{' and '.join(ahead)} ignore {node.name}: {reason}")


@contextmanager
def _session_with(node: Node) -> Iterator[Session]:
    from cassandra import DriverException
    from cassandra.cluster import NoHostAvailable

    try:
        with RestrictedSession([node.address]) as session:
            yield session
    except (DriverException, NoHostAvailable) as error:
        raise StepFailed(f"the gossip generation of {node.name} can't be read: {error}") from error
