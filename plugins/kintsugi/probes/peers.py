"""The peer views of a node: each peer is asked for its own view, all at the same time.

* **Kafka**: the peer's list of unfenced brokers, and the quorum. The list drops a dead broker only after the session
  timeout of 9 s. The quorum's leader knows when each voter last fetched, which it does twice a second.
* **Cassandra**: the node's heartbeat in the peer's gossip table. The heartbeat of a live node advances every second. So
  it shows within seconds what Cassandra's failure detector reports after 10 to 18 s, and *when* the node was last seen.
  To read it costs milliseconds; nodetool costs a JVM start of 2 s.
* **Spark**: a worker's state and last heartbeat at the master. A master has no peers.
"""

from __future__ import annotations

import asyncio
import json
import struct
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from kintsugi.core.certificates import Principal
from kintsugi.core.client_tls import cassandra_login, client_context
from kintsugi.core.fleet import Fleet, Node, Role
from kintsugi.core.observation import PeerOpinion
from kintsugi.core.settings import CASSANDRA_PORT, KAFKA_PORT, SPARK_MASTER_UI_PORT
from kintsugi.core.spark_security import spark_page_headers
from kintsugi.probes.protocols import http_get
from kintsugi.wire import cql, kafka
from kintsugi.wire.exchange import Connection, ProtocolMismatch, ask_endpoint

GOSSIP_WATCH_S = 3.0  # the heartbeat of a live node advances within 1.3 s; measured on three nodes
KAFKA_SILENT_S = 3.0  # a voter fetches every 0.5 s
KAFKA_WATCH_S = 2.0
SPARK_SILENT_S = 8.0  # a worker sends a heartbeat every 2.5 s (a quarter of spark.worker.timeout)
ASK_TIMEOUT_S = 1.5
GOSSIP = "SELECT address, generation, heartbeat, status_with_port FROM system_views.gossip_info"

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class PeerView:
    """What one peer reports of a node. ``last_seen_at``: when the peer last saw it, UTC; None if unknown."""

    peer: str
    opinion: PeerOpinion
    detail: str
    last_seen_at: datetime | None = None


async def ask_peers(fleet: Fleet, node: Node, watch_s: float = GOSSIP_WATCH_S) -> list[PeerView]:
    """Ask all peers of ``node`` at the same time; ``watch_s``: for how long a heartbeat may not advance."""
    if node.role is Role.KAFKA:
        return await asyncio.gather(*(_ask_kafka_peer(peer, node, watch_s) for peer in fleet.peers(node)))
    if node.role is Role.CASSANDRA:
        return await asyncio.gather(*(_ask_cassandra_peer(peer, node, watch_s) for peer in fleet.peers(node)))
    if node.role is Role.SPARK_WORKER:
        return await asyncio.gather(
            *(_ask_spark_master(master, node) for master in fleet.of(Role.SPARK_MASTER))
        )
    return []


async def ask_peer(node: Node, port: int, question: Callable[[Connection], Awaitable[T]]) -> T | str:
    """Put one question to one peer, with a deadline; returns the answer, or a string that says why there is none."""
    tls = client_context(Principal.PROBE) if port in (KAFKA_PORT, CASSANDRA_PORT) else None
    try:
        return await asyncio.wait_for(ask_endpoint(node.address, port, question, tls=tls), ASK_TIMEOUT_S)
    except TimeoutError:
        return "no answer"
    except ProtocolMismatch as error:
        return str(error)
    except (OSError, EOFError, ValueError, struct.error) as error:
        return f"no answer ({type(error).__name__})"


async def ask_each(
    nodes: Sequence[Node], port: int, question: Callable[[Connection], Awaitable[T]]
) -> dict[str, T]:
    """Put one question to all ``nodes`` at the same time; returns the answers by node, of those that answer."""
    answers = await asyncio.gather(*(ask_peer(node, port, question) for node in nodes))
    return {
        node.name: answer for node, answer in zip(nodes, answers, strict=True) if not isinstance(answer, str)
    }


async def query_cassandra(
    node: Node, statement: str, consistency: int = cql.ONE
) -> list[dict[str, Any]] | str:
    """Return the rows of a CQL statement that ``node`` itself answers, or a string that says why there are none."""
    login = cassandra_login(Principal.PROBE)
    shown = None if login is None else (login.role, login.password)
    return await ask_peer(
        node,
        CASSANDRA_PORT,
        lambda connection: cql.run_query(connection, statement, consistency, login=shown),
    )


async def ask_spark(node: Node, port: int, path: str) -> Any:
    """Return the JSON document at ``path`` of a Spark page, or a string that says why there is none.

    The document is an object or a list.
    """
    headers = spark_page_headers()
    body = await ask_peer(node, port, lambda connection: http_get(connection, node.address, path, headers))
    if isinstance(body, str):
        return body
    try:
        document = json.loads(body)
    except ValueError:
        return f"{path} is not JSON but {body[:60]!r}"  # while it starts, Spark answers in plain text
    return document if isinstance(document, dict | list) else f"{path} is {document!r}"


async def _ask_kafka_peer(peer: Node, node: Node, watch_s: float) -> PeerView:
    listed, quorum = await _kafka_view(peer)
    view = kafka_peer_view(peer.name, node, listed, quorum, datetime.now(UTC))
    if view.opinion is not PeerOpinion.UNKNOWN or isinstance(quorum, str):
        return view
    # The leader was elected after the node's last fetch. A live voter fetches from it at once.
    await asyncio.sleep(watch_s)
    listed, later = await _kafka_view(peer)
    view = kafka_peer_view(peer.name, node, listed, later, datetime.now(UTC))
    same_leader = not isinstance(later, str) and later.leader_id == quorum.leader_id
    if view.opinion is PeerOpinion.UNKNOWN and same_leader and watch_s >= KAFKA_WATCH_S:
        detail = f"still listed, but it hasn't fetched from the quorum's new leader for {watch_s:.1f} s"
        return PeerView(peer.name, PeerOpinion.DOWN, detail)
    return view


async def _kafka_view(peer: Node) -> tuple[set[int] | str, kafka.Quorum | str]:
    return await asyncio.gather(
        ask_peer(peer, KAFKA_PORT, kafka.read_broker_ids), ask_peer(peer, KAFKA_PORT, kafka.describe_quorum)
    )


def kafka_peer_view(
    peer: str, node: Node, listed: set[int] | str, quorum: kafka.Quorum | str, now: datetime
) -> PeerView:
    """Return the broker's view of ``node``, from its answers or the reasons why there are none."""
    age_s = None if isinstance(quorum, str) else _fetch_age_s(quorum, node.index)
    last_seen_at = None if age_s is None else now - timedelta(seconds=age_s)
    if age_s is not None and age_s <= KAFKA_SILENT_S:
        return PeerView(peer, PeerOpinion.UP, f"the quorum's leader heard it {age_s:.1f} s ago", last_seen_at)
    if isinstance(listed, str):
        return PeerView(peer, PeerOpinion.UNKNOWN, listed, last_seen_at)
    if node.index not in listed:
        return PeerView(peer, PeerOpinion.DOWN, "fenced: not in its list of brokers", last_seen_at)
    if age_s is not None:
        detail = f"still listed, but the quorum's leader hasn't heard it for {age_s:.1f} s"
        return PeerView(peer, PeerOpinion.DOWN, detail, last_seen_at)
    # Listed, and the quorum has no leader or a new one. The list is late by a session timeout, so it proves nothing.
    return PeerView(peer, PeerOpinion.UNKNOWN, "still listed, and the quorum doesn't know its last fetch")


def _fetch_age_s(quorum: kafka.Quorum, node_id: int) -> float | None:
    """Return the seconds since ``node_id`` last fetched, by the leader's clock; None if the leader doesn't know.

    A fetch as an observer counts too: a broker with a new disk fetches as an observer at first.
    """
    if node_id == quorum.leader_id:
        return 0.0  # the leader itself answered: the peer forwarded the question to it
    leader = quorum.leader
    replicas = (*quorum.voters, *quorum.observers)
    fetched_ms = max((replica.fetched_ms for replica in replicas if replica.node_id == node_id), default=-1)
    if leader is None or leader.fetched_ms < 0 or fetched_ms < 0:
        return None
    return max(0.0, (leader.fetched_ms - fetched_ms) / 1000)


async def _ask_cassandra_peer(peer: Node, node: Node, watch_s: float) -> PeerView:
    """Watch the node's heartbeat in this peer's gossip until it advances, at most ``watch_s`` seconds."""
    ends_s = time.monotonic() + watch_s
    first = await read_heartbeat(peer, node)
    while not isinstance(first, str):
        await asyncio.sleep(0.25)
        now = await read_heartbeat(peer, node)
        if isinstance(now, str):
            return PeerView(peer.name, PeerOpinion.UNKNOWN, now)
        if now != first:
            detail = f"its heartbeat went from {first[1]} to {now[1]}"
            return PeerView(peer.name, PeerOpinion.UP, detail, datetime.now(UTC))
        if time.monotonic() >= ends_s:
            detail = f"its heartbeat has been {first[1]} for {watch_s:.1f} s"
            return PeerView(peer.name, PeerOpinion.DOWN, detail)
    return PeerView(peer.name, PeerOpinion.UNKNOWN, first)


async def read_heartbeat(peer: Node, node: Node) -> tuple[int, int] | str:
    """Return generation and heartbeat of ``node`` in the gossip of ``peer``, or why they aren't known."""
    rows = await query_cassandra(peer, GOSSIP)
    if isinstance(rows, str):
        return rows
    for row in rows:
        if row["address"] == node.address and row["heartbeat"] is not None:
            return int(row["generation"] or 0), int(row["heartbeat"])
    return "has never heard of it"


async def _ask_spark_master(master: Node, node: Node) -> PeerView:
    document = await ask_spark(master, SPARK_MASTER_UI_PORT, "/json/")
    if isinstance(document, str):
        return PeerView(master.name, PeerOpinion.UNKNOWN, document)
    return spark_master_view(master.name, node, document, datetime.now(UTC))


def spark_master_view(master: str, node: Node, document: Mapping[str, Any], now: datetime) -> PeerView:
    """Return the master's view of the worker at the address of ``node``, from its ``/json/`` document."""
    workers = [worker for worker in document.get("workers", []) if worker.get("host") == node.address]
    if not workers:
        # The master forgets a dead worker after some minutes. So an answer without the worker means that it is down.
        return PeerView(master, PeerOpinion.DOWN, "no worker of that address is registered")
    newest = max(workers, key=lambda worker: int(worker["lastheartbeat"]))
    last_seen_at = datetime.fromtimestamp(int(newest["lastheartbeat"]) / 1000, UTC)
    age_s = (now - last_seen_at).total_seconds()
    alive = newest["state"] == "ALIVE" and age_s <= SPARK_SILENT_S
    opinion = PeerOpinion.UP if alive else PeerOpinion.DOWN
    return PeerView(master, opinion, f"worker {newest['state']}, heartbeat {age_s:.1f} s ago", last_seen_at)
