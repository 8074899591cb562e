"""What do the others say of a node? Each peer is asked for its own view, all at once.

* **Kafka**: the peer's list of unfenced brokers (which drops a dead one only after the session timeout of 9
  s), sharpened by the quorum: its leader knows to the millisecond when each voter last fetched, twice a
  second.
* **Cassandra**: the node's heartbeat in the peer's gossip table. A living node's heartbeat advances every
  second; so watching it says within seconds what the failure detector says after 10 to 18, and says *when*
  the node was last heard. Reading it costs milliseconds, nodetool a JVM start of 2 s.
* **Spark**: a worker's state and last heartbeat at the master. A master has no peers.
"""

from __future__ import annotations

import asyncio
import json
import struct
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from kintsugi.core.fleet import Fleet, Node, Role
from kintsugi.core.observation import PeerOpinion
from kintsugi.core.settings import CASSANDRA_PORT, KAFKA_PORT, SPARK_MASTER_UI_PORT
from kintsugi.core.spark_security import spark_page_headers
from kintsugi.probes.protocols import http_get
from kintsugi.wire import cql, kafka
from kintsugi.wire.exchange import Connection, ProtocolMismatch, converse

GOSSIP_WATCH_S = 3.0  # a living node's heartbeat is seen to advance within 1.3 s; measured on three nodes
KAFKA_SILENT_S = 3.0  # a voter fetches every 0.5 s
KAFKA_WATCH_S = 2.0
SPARK_SILENT_S = 8.0  # a worker sends a heartbeat every 2.5 s (a quarter of spark.worker.timeout)
ASK_TIMEOUT_S = 1.5
GOSSIP = "SELECT address, generation, heartbeat, status_with_port FROM system_views.gossip_info"

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class PeerView:
    """What one peer says of a node. ``last_seen_at``: when the peer last heard of it, UTC, where it knows."""

    peer: str
    opinion: PeerOpinion
    detail: str
    last_seen_at: datetime | None = None


async def ask_peers(fleet: Fleet, node: Node, watch_s: float = GOSSIP_WATCH_S) -> list[PeerView]:
    """Ask every peer of ``node`` at once; ``watch_s``: how long a heartbeat may stand still."""
    if node.role is Role.KAFKA:
        return await asyncio.gather(*(_kafka(peer, node, watch_s) for peer in fleet.peers(node)))
    if node.role is Role.CASSANDRA:
        return await asyncio.gather(*(_cassandra(peer, node, watch_s) for peer in fleet.peers(node)))
    if node.role is Role.SPARK_WORKER:
        return await asyncio.gather(*(_spark(master, node) for master in fleet.of(Role.SPARK_MASTER)))
    return []


async def ask_peer(node: Node, port: int, question: Callable[[Connection], Awaitable[T]]) -> T | str:
    """One question to one peer, bounded; its answer, or a string that says why there is none."""
    try:
        return await asyncio.wait_for(converse(node.address, port, question), ASK_TIMEOUT_S)
    except TimeoutError:
        return "no answer"
    except ProtocolMismatch as error:
        return str(error)
    except (OSError, EOFError, ValueError, struct.error) as error:
        return f"no answer ({type(error).__name__})"


async def ask_spark(node: Node, port: int, path: str) -> Any:
    """The JSON document (an object or a list) at ``path`` of a Spark page, or a string that says why there is none."""
    headers = spark_page_headers()
    body = await ask_peer(node, port, lambda connection: http_get(connection, node.address, path, headers))
    if isinstance(body, str):
        return body
    try:
        document = json.loads(body)
    except ValueError:
        return f"{path} is not JSON but {body[:60]!r}"  # Spark says so in plain text while it starts
    return document if isinstance(document, dict | list) else f"{path} is {document!r}"


async def _kafka(peer: Node, node: Node, watch_s: float) -> PeerView:
    listed, quorum = await _kafka_view(peer)
    witness = judge_kafka(peer.name, node, listed, quorum, datetime.now(UTC))
    if witness.opinion is not PeerOpinion.UNKNOWN or isinstance(quorum, str):
        return witness
    # The leader has been elected since it last heard the node. A living voter makes itself heard at once.
    await asyncio.sleep(watch_s)
    listed, later = await _kafka_view(peer)
    witness = judge_kafka(peer.name, node, listed, later, datetime.now(UTC))
    same_leader = not isinstance(later, str) and later.leader_id == quorum.leader_id
    if witness.opinion is PeerOpinion.UNKNOWN and same_leader and watch_s >= KAFKA_WATCH_S:
        said = f"still listed, but it hasn't fetched from the quorum's new leader for {watch_s:.1f} s"
        return PeerView(peer.name, PeerOpinion.DOWN, said)
    return witness


async def _kafka_view(peer: Node) -> tuple[set[int] | str, kafka.Quorum | str]:
    return await asyncio.gather(
        ask_peer(peer, KAFKA_PORT, kafka.broker_ids), ask_peer(peer, KAFKA_PORT, kafka.describe_quorum)
    )


def judge_kafka(
    peer: str, node: Node, listed: set[int] | str, quorum: kafka.Quorum | str, now: datetime
) -> PeerView:
    """From a broker's answers (or the reason why there is none) to its opinion on ``node``."""
    age_s = None if isinstance(quorum, str) else _fetch_age_s(quorum, node.index)
    last_seen_at = None if age_s is None else now - timedelta(seconds=age_s)
    if age_s is not None and age_s <= KAFKA_SILENT_S:
        return PeerView(peer, PeerOpinion.UP, f"the quorum's leader heard it {age_s:.1f} s ago", last_seen_at)
    if isinstance(listed, str):
        return PeerView(peer, PeerOpinion.UNKNOWN, listed, last_seen_at)
    if node.index not in listed:
        return PeerView(peer, PeerOpinion.DOWN, "fenced: not in its list of brokers", last_seen_at)
    if age_s is not None:
        said = f"still listed, but the quorum's leader hasn't heard it for {age_s:.1f} s"
        return PeerView(peer, PeerOpinion.DOWN, said, last_seen_at)
    # Listed, and the quorum has no leader or a new one: the list lags by a session timeout, so it proves
    # nothing.
    return PeerView(peer, PeerOpinion.UNKNOWN, "still listed, and the quorum can't say more")


def _fetch_age_s(quorum: kafka.Quorum, node_id: int) -> float | None:
    """Seconds since ``node_id`` last fetched, by the leader's clock; None where the leader doesn't know.

    As a voter or as an observer: a broker with a new disk fetches as an observer at first.
    """
    if node_id == quorum.leader_id:
        return 0.0  # the answer itself is the leader's: the peer passed our question on to it
    leader = quorum.voters.get(quorum.leader_id)
    entries = [members.get(node_id) for members in (quorum.voters, quorum.observers)]
    fetched_ms = max((entry.fetched_ms for entry in entries if entry is not None), default=-1)
    if leader is None or leader.fetched_ms < 0 or fetched_ms < 0:
        return None
    return max(0.0, (leader.fetched_ms - fetched_ms) / 1000)


async def _cassandra(peer: Node, node: Node, watch_s: float) -> PeerView:
    """Watch the node's heartbeat in this peer's gossip until it advances, at most ``watch_s`` seconds."""
    ends_s = time.monotonic() + watch_s
    first = await heartbeat(peer, node)
    while not isinstance(first, str):
        await asyncio.sleep(0.25)
        now = await heartbeat(peer, node)
        if isinstance(now, str):
            return PeerView(peer.name, PeerOpinion.UNKNOWN, now)
        if now != first:
            said = f"its heartbeat went from {first[1]} to {now[1]}"
            return PeerView(peer.name, PeerOpinion.UP, said, datetime.now(UTC))
        if time.monotonic() >= ends_s:
            said = f"its heartbeat has stood at {first[1]} for {watch_s:.1f} s"
            return PeerView(peer.name, PeerOpinion.DOWN, said)
    return PeerView(peer.name, PeerOpinion.UNKNOWN, first)


async def heartbeat(peer: Node, node: Node) -> tuple[int, int] | str:
    """Generation and heartbeat of ``node`` in the gossip of ``peer``, or why they aren't known."""
    rows = await ask_peer(peer, CASSANDRA_PORT, lambda connection: cql.query(connection, GOSSIP))
    if isinstance(rows, str):
        return rows
    for row in rows:
        if row["address"] == node.address and row["heartbeat"] is not None:
            return int(row["generation"] or 0), int(row["heartbeat"])
    return "has never heard of it"


async def _spark(master: Node, node: Node) -> PeerView:
    document = await ask_spark(master, SPARK_MASTER_UI_PORT, "/json/")
    if isinstance(document, str):
        return PeerView(master.name, PeerOpinion.UNKNOWN, document)
    return judge_spark(master.name, node, document, datetime.now(UTC))


def judge_spark(master: str, node: Node, document: Mapping[str, Any], now: datetime) -> PeerView:
    """From the master's ``/json/`` document to its opinion on the worker at ``node``'s address."""
    workers = [worker for worker in document.get("workers", []) if worker.get("host") == node.address]
    if not workers:
        # The master forgets a dead worker after some minutes. It was asked and hears none, so that is an opinion.
        return PeerView(master, PeerOpinion.DOWN, "no worker of that address is registered")
    newest = max(workers, key=lambda worker: int(worker["lastheartbeat"]))
    last_seen_at = datetime.fromtimestamp(int(newest["lastheartbeat"]) / 1000, UTC)
    age_s = (now - last_seen_at).total_seconds()
    alive = newest["state"] == "ALIVE" and age_s <= SPARK_SILENT_S
    opinion = PeerOpinion.UP if alive else PeerOpinion.DOWN
    return PeerView(master, opinion, f"worker {newest['state']}, heartbeat {age_s:.1f} s ago", last_seen_at)
