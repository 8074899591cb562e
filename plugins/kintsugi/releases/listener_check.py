"""Detect a broker with a wrong listener within seconds: its peers list it, but nothing listens at its address.

Such a broker is healthy for the quorum, gets in sync, and is soon elected leader of its partitions. Then nobody can
write to them. If we waited for its port until the deadline, they would stand still for all that time.

A broker opens its ports right after it is unfenced: usually within 0.1 s, on an overloaded machine within seconds. A
clean stop fences it at once. So after it was seen fenced, a broker that is listed and refuses connections has a wrong
listener if its log says that its start is complete. A killed broker stays listed until its session expires; that alone
proves nothing.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from kintsugi.core.errors import StepFailed
from kintsugi.core.fleet import Fleet, Node, Role
from kintsugi.core.observation import ProbeResult
from kintsugi.core.settings import KAFKA_PORT
from kintsugi.operations.context import Context
from kintsugi.probes.peers import ask_each
from kintsugi.probes.protocols import probe_node
from kintsugi.wire import kafka

log = logging.getLogger(__name__)

SURE_S = 2.0
STALE_S = 12.0  # a session of 9 s and a margin
STARTED = "Transition from STARTING to STARTED"  # a broker writes it once all its ports are open


@dataclass
class UnheardListeners:
    """What was seen of one broker while it starts. Pure; call ``observe`` in order of time."""

    node: str
    seen_fenced: bool = False
    since: float | None = None

    def observe(
        self, *, listed: bool | None, refused: bool, now: float, has_started: Callable[[], bool]
    ) -> str | None:
        """Take one observation; returns a sentence once the wrong listener is certain.

        ``listed``: whether the peers list it as alive, None if no peer answered. ``now``: monotonic seconds.
        ``has_started``: asks whether its log says so; called only when all else speaks for a wrong listener.
        """
        if listed is False:
            self.seen_fenced = True
        if not (listed and refused):
            self.since = None
            return None
        self.since = now if self.since is None else self.since
        waited = now - self.since
        if waited < STALE_S and not (self.seen_fenced and waited >= SURE_S and has_started()):
            return None
        return f"the listeners of {self.node} are wrong: its peers list it as alive, but nothing listens at its address"


def listener_watch(context: Context, node: Node) -> Callable[[], str | None]:
    """Return a function that observes ``node`` once a call (2 s at most); it returns a sentence if it has found one.

    For other roles than Kafka it always returns None. Make it before the node is restarted.
    """
    if node.role is not Role.KAFKA:
        return lambda: None
    memory, began = UnheardListeners(node.name), datetime.now(UTC)

    def has_started() -> bool:
        try:
            return bool(context.said(node.name, STARTED, began))
        except StepFailed as error:
            log.warning("the log of %s can't be read: %s", node.name, error)
            return False

    def observe_once() -> str | None:
        listed, refused = asyncio.run(_find_unheard(context.fleet, node))
        return memory.observe(listed=listed, refused=refused, now=time.monotonic(), has_started=has_started)

    return observe_once


async def _find_unheard(fleet: Fleet, node: Node) -> tuple[bool | None, bool]:
    probe, known = await asyncio.gather(
        probe_node(node), ask_each(fleet.peers(node), KAFKA_PORT, kafka.read_broker_ids)
    )
    listed = all(node.index in answer for answer in known.values()) if known else None
    return listed, probe.answer is ProbeResult.REFUSED
