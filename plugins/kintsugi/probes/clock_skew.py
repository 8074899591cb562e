"""How far the clock of a node's service is off.

Kafka deletes messages by the clock, and Cassandra expires rows by it. A Cassandra node whose clock is fast also drops
messages of its peers as too old. Both still answer their protocol, so no other probe notices a wrong clock.

* **Cassandra** returns its time in CQL.
* **Kafka**'s protocol has no such question. So a program runs on the node, in the environment of the broker's process.
"""

from __future__ import annotations

import asyncio
import statistics
import time
import uuid

from kintsugi.core.errors import StepFailed
from kintsugi.core.fleet import Node, Role
from kintsugi.core.settings import Settings
from kintsugi.infra import ssh
from kintsugi.probes.peers import query_cassandra

EVERY_S = {Role.CASSANDRA: 10.0, Role.KAFKA: 60.0}
"""Seconds between two checks of a watch: a query in CQL costs a millisecond, a session over SSH 0.1 s."""

TOLERANCE_S = 2.0
"""Tolerated seconds beyond the round trip. NTP keeps a healthy node within milliseconds."""

_ASK_TIMEOUT_S = 3.0
_GREGORIAN_S = 12_219_292_800  # from 1582-10-15, where the time of a UUID begins, to 1970
_NOW = "SELECT now() AS now FROM system.local"
# $1 is the end of the broker's command line. The argument after it keeps pgrep from finding this shell.
_DATE = """
pid=$(pgrep -o -f -- "$1") || exit 1
exec xargs -0 -a "/proc/$pid/environ" sh -c 'exec env -i "$@" date +%s.%N' sh
"""


async def seconds_ahead(settings: Settings, node: Node) -> float | None:
    """Return by how many seconds the service's clock is at least ahead (negative: behind); None if unknown.

    The right time is the median of the clocks of this process and of the node's peers. The peers are asked only if the
    node and this process disagree. So a watch whose own clock is wrong reports no node.
    """
    own = await _seconds_ahead_of_us(settings, node)
    if own is None or abs(own) <= TOLERANCE_S:
        return own
    peers = await asyncio.gather(
        *(_seconds_ahead_of_us(settings, peer) for peer in settings.fleet.peers(node))
    )
    return own - statistics.median([0.0, *(ahead for ahead in peers if ahead is not None)])


def describe_skew(ahead: float | None) -> str | None:
    """Return half a sentence if a clock that is ``ahead`` by so many seconds is wrong, else None."""
    if ahead is None or abs(ahead) <= TOLERANCE_S:
        return None
    return f"its clock is {abs(ahead):,.1f} s {'fast' if ahead > 0 else 'slow'}"


def certain_offset(clock_time: float, before: float, after: float) -> float:
    """Return how far ``clock_time`` lies outside the time between question and answer; all in seconds since 1970."""
    return clock_time - min(max(clock_time, before), after)


def time_of(identifier: str) -> float:
    """Return the seconds since 1970 in a version 1 UUID."""
    return uuid.UUID(identifier).time / 1e7 - _GREGORIAN_S


async def _seconds_ahead_of_us(settings: Settings, node: Node) -> float | None:
    before = time.time()
    clock_time = await _read_clock(settings, node)
    return None if clock_time is None else certain_offset(clock_time, before, time.time())


async def _read_clock(settings: Settings, node: Node) -> float | None:
    """Return the time of the node's service in seconds since 1970; None if it can't be read."""
    if node.role is Role.CASSANDRA:
        rows = await query_cassandra(node, _NOW)
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
