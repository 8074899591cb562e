"""Detect a broker with a wrong listener within seconds: its peers list it, but nothing listens at its address.

Such a broker is healthy for the quorum, gets in sync, and is soon elected leader of its partitions. Then nobody can
write to them. If we waited for its port until the deadline, they would stand still for all that time.

A broker opens its ports before it is unfenced. A clean stop fences it at once. So after it was seen fenced, a broker
that is listed and refuses connections must have a wrong listener. A killed broker stays listed until its session
expires; that alone proves nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from kintsugi.core.fleet import Fleet, Node, Role
from kintsugi.core.observation import ProbeResult
from kintsugi.core.settings import KAFKA_PORT
from kintsugi.probes.peers import ask_each
from kintsugi.probes.protocols import probe_node
from kintsugi.wire import kafka

SURE_S = 2.0
STALE_S = 12.0  # a session of 9 s and a margin


@dataclass
class UnheardListeners:
    """What was seen of one broker while it starts. Pure; call ``observe`` in order of time."""

    node: str
    seen_fenced: bool = False
    since: float | None = None

    def observe(self, *, listed: bool | None, refused: bool, now: float) -> str | None:
        """Take one observation; returns a sentence once the wrong listener is certain.

        ``listed``: whether the peers list it as alive, None if no peer answered. ``now``: monotonic seconds.
        """
        if listed is False:
            self.seen_fenced = True
        if not (listed and refused):
            self.since = None
            return None
        self.since = now if self.since is None else self.since
        if now - self.since < (SURE_S if self.seen_fenced else STALE_S):
            return None
        return f"the listeners of {self.node} are wrong: its peers list it as alive, but nothing listens at its address"


def listener_watch(fleet: Fleet, node: Node) -> Callable[[], str | None]:
    """Return a function that observes ``node`` once a call (2 s at most); it returns a sentence if it has found one.

    For other roles than Kafka it always returns None.
    """
    import time

    if node.role is not Role.KAFKA:
        return lambda: None
    memory = UnheardListeners(node.name)

    def observe_once() -> str | None:
        listed, refused = asyncio.run(_find_unheard(fleet, node))
        return memory.observe(listed=listed, refused=refused, now=time.monotonic())

    return observe_once


async def _find_unheard(fleet: Fleet, node: Node) -> tuple[bool | None, bool]:
    probe, known = await asyncio.gather(
        probe_node(node), ask_each(fleet.peers(node), KAFKA_PORT, kafka.read_broker_ids)
    )
    listed = all(node.index in answer for answer in known.values()) if known else None
    return listed, probe.answer is ProbeResult.REFUSED
