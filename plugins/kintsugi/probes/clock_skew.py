"""How far the clock of a node's service is off: asked of the service itself where its protocol tells the time.

Kafka deletes by the clock and Cassandra expires by it; what a Cassandra node gets from its peers it also drops as too
old when its clock is fast. Both answer their protocol all the same, so no other probe notices.

* **Cassandra** tells its time in CQL.
* **Kafka**'s protocol doesn't, so a program is run on the node with the environment of the broker's process.
"""

from __future__ import annotations

import asyncio
import statistics
import time
import uuid

from kintsugi.core.errors import StepFailed
from kintsugi.core.fleet import Node, Role
from kintsugi.core.settings import CASSANDRA_PORT, Settings
from kintsugi.infra import ssh
from kintsugi.probes.peers import ask_peer
from kintsugi.wire import cql

EVERY_S = {Role.CASSANDRA: 10.0, Role.KAFKA: 60.0}
"""Seconds between looks of a watch: a question in CQL costs a millisecond, a session over SSH a tenth of a second."""

TOLERANCE_S = 2.0
"""Beyond the round trip. NTP keeps a healthy server within milliseconds."""

_ASK_TIMEOUT_S = 3.0
_GREGORIAN_S = 12_219_292_800  # from 1582-10-15, where the time of a UUID begins, to 1970
_NOW = "SELECT now() AS now FROM system.local"
# $1 is what the broker's command line ends with; the word after it keeps the shell from finding itself.
_DATE = """
pid=$(pgrep -o -f -- "$1") || exit 1
exec xargs -0 -a "/proc/$pid/environ" sh -c 'exec env -i "$@" date +%s.%N' sh
"""


async def seconds_ahead(settings: Settings, node: Node) -> float | None:
    """Seconds by which the service's clock is certainly ahead of the time (negative: behind); None when unknown.

    The time is what most of us agree on: whoever asks, and the node's peers. They are asked only where the node and
    the asker disagree, so that a watch with a wrong clock of its own accuses nobody.
    """
    own = await _seconds_ahead_of_us(settings, node)
    if own is None or abs(own) <= TOLERANCE_S:
        return own
    peers = await asyncio.gather(
        *(_seconds_ahead_of_us(settings, peer) for peer in settings.fleet.peers(node))
    )
    return own - statistics.median([0.0, *(ahead for ahead in peers if ahead is not None)])


def is_skewed(ahead: float | None) -> str | None:
    """Half a sentence when a clock so many seconds ahead is wrong, else None."""
    if ahead is None or abs(ahead) <= TOLERANCE_S:
        return None
    return f"its clock is {abs(ahead):,.1f} s {'fast' if ahead > 0 else 'slow'}"


def certain_offset(told: float, before: float, after: float) -> float:
    """By how much ``told`` lies outside of the time between question and answer; all in seconds since 1970."""
    return told - min(max(told, before), after)


def time_of(identifier: str) -> float:
    """Seconds since 1970 in a version 1 UUID."""
    return uuid.UUID(identifier).time / 1e7 - _GREGORIAN_S


async def _seconds_ahead_of_us(settings: Settings, node: Node) -> float | None:
    before = time.time()
    told = await _read_clock(settings, node)
    return None if told is None else certain_offset(told, before, time.time())


async def _read_clock(settings: Settings, node: Node) -> float | None:
    """What the clock of the node's service says, in seconds since 1970; None when nobody can say."""
    if node.role is Role.CASSANDRA:
        rows = await ask_peer(node, CASSANDRA_PORT, lambda connection: cql.run_query(connection, _NOW))
        return None if isinstance(rows, str) or not rows else time_of(str(rows[0]["now"]))
    return await _read_clock_over_ssh(settings, node) if node.role is Role.KAFKA else None


async def _read_clock_over_ssh(settings: Settings, node: Node) -> float | None:
    ending = f"kafka\\.Kafka {settings.node_root(node.name)}/etc/kafka/server\\.properties$"
    try:
        done = await asyncio.to_thread(
            ssh.run_over_ssh, settings, node, ["sh", "-c", _DATE, "sh", ending, "end"], _ASK_TIMEOUT_S
        )
        return float(done.stdout)
    except (StepFailed, OSError, ValueError):
        return None
