"""A broker that its peers list while nobody listens at its address: a wrong listener, told within seconds.

Such a broker is well for the quorum, gets in sync, and is soon elected leader of its partitions; then nobody can write
to them. Waiting for its port until the time is up would let them stand still that long.

A broker opens its ports before it lets itself be unfenced, so once it was seen fenced (as a clean stop leaves it at
once), being listed and refusing contradict each other. A broker that was killed stays listed for the length of a
session, which proves nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from kintsugi.core.fleet import Fleet, Node, Role
from kintsugi.core.observation import ProbeResult
from kintsugi.core.settings import KAFKA_PORT
from kintsugi.probes.peers import ask_peer
from kintsugi.probes.protocols import probe_node
from kintsugi.wire import kafka

SURE_S = 2.0
STALE_S = 12.0  # a session of 9 s, and some


@dataclass
class UnheardListeners:
    """What was seen of one broker while it starts. Pure; ``observe`` it in order."""

    node: str
    seen_fenced: bool = False
    since: float | None = None

    def observe(self, *, listed: bool | None, refused: bool, now: float) -> str | None:
        """Take one look; a sentence once the contradiction is certain.

        ``listed``: whether the peers take it for alive, None when no peer answered. ``now``: monotonic seconds.
        """
        if listed is False:
            self.seen_fenced = True
        if not (listed and refused):
            self.since = None
            return None
        self.since = now if self.since is None else self.since
        if now - self.since < (SURE_S if self.seen_fenced else STALE_S):
            return None
        return f"its peers take {self.node} for alive, and nobody listens at its address: its listeners are wrong"


def watch(fleet: Fleet, node: Node) -> Callable[[], str | None]:
    """A function that looks once (2 s at most) each time it is called; a sentence once ``node`` is unheard.

    For other roles than Kafka there is nothing to contradict: it says nothing.
    """
    import time

    if node.role is not Role.KAFKA:
        return lambda: None
    memory = UnheardListeners(node.name)

    def look() -> str | None:
        listed, refused = asyncio.run(_look(fleet, node))
        return memory.observe(listed=listed, refused=refused, now=time.monotonic())

    return look


async def _look(fleet: Fleet, node: Node) -> tuple[bool | None, bool]:
    asked = asyncio.gather(*(ask_peer(peer, KAFKA_PORT, kafka.broker_ids) for peer in fleet.peers(node)))
    probe, answers = await asyncio.gather(probe_node(node), asked)
    known = [answer for answer in answers if not isinstance(answer, str)]
    listed = all(node.index in answer for answer in known) if known else None
    return listed, probe.answer is ProbeResult.REFUSED
