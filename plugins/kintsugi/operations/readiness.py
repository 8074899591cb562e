"""Decide when a recovered node is ready, by its role, and wait for it.

* **Kafka**: the broker answers, no other broker has it fenced, and no partition is under-replicated.
* **Cassandra**: every node, asked one by one, reports the recovered node as NORMAL and can read its range from all
  replicas. A coordinator refuses that read at once if its failure detector marks one replica as down. So one answer
  shows both "up/normal" and "serves", without the JVM start of nodetool.
* **Spark master**: ALIVE, with all workers; **worker**: ALIVE at the master. If the stream should run, its
  application holds a core on the recovered worker (for the master: on all workers).

Each condition is a coroutine that returns None if it holds, else what is missing, as a sentence.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from kintsugi.core.connections import store_dsn
from kintsugi.core.errors import KintsugiError, StepFailed
from kintsugi.core.fleet import Fleet, Node, Role
from kintsugi.core.observation import PeerOpinion, ProbeResult
from kintsugi.core.settings import KAFKA_PORT, SPARK_MASTER_UI_PORT, Settings
from kintsugi.db.store import Store
from kintsugi.operations import stream_driver
from kintsugi.probes.peers import ask_each, ask_peers, ask_spark, query_cassandra
from kintsugi.probes.protocols import probe_node, silent_nodes
from kintsugi.probes.stream import stream_apps
from kintsugi.wire import cql, kafka

log = logging.getLogger(__name__)

Condition = Callable[[], Awaitable[str | None]]
POLL_S = 0.5
GOSSIP = 'SELECT address, generation, "schema", status_with_port FROM system_views.gossip_info'
# This table has three replicas in every cluster. The token selects the range, and so the replicas that must answer.
READ_RANGE = (
    "SELECT parent_id FROM system_distributed.parent_repair_history WHERE token(parent_id) = {token} LIMIT 1"
)


def wait_until_ready(settings: Settings, fleet: Fleet, node: Node, deadline_s: float) -> str:
    """Wait until ``node`` is ready; returns a sentence. Raises StepFailed with what is missing."""
    stream = node.role in (Role.SPARK_MASTER, Role.SPARK_WORKER) and stream_should_run(settings)
    seconds = asyncio.run(
        poll_until(lambda: readiness_gap(fleet, node, stream), deadline_s, f"{node.name} is not ready")
    )
    return f"{node.name} is ready ({_CLAIM[node.role]}) after a wait of {seconds:.1f} s"


_CLAIM = {
    Role.KAFKA: "no partition is under-replicated",
    Role.CASSANDRA: "up and normal for every peer, and its range is served by all replicas",
    Role.SPARK_MASTER: "alive with all its workers",
    Role.SPARK_WORKER: "alive at the master with its cores",
}


async def readiness_gap(fleet: Fleet, node: Node, stream: bool = False) -> str | None:
    """Return what is missing until ``node`` is ready, or None. ``stream``: whether the stream should run."""
    probe = await probe_node(node)
    if probe.answer is not ProbeResult.OK:
        return f"it doesn't answer its own protocol ({probe.detail})"
    if node.role is Role.KAFKA:
        return await _kafka_gap(fleet, node)
    if node.role is Role.CASSANDRA:
        return await _cassandra_gap(fleet, node)
    return await _spark_gap(fleet, node, stream)


async def poll_until(condition: Condition, deadline_s: float, what: str) -> float:
    """Poll ``condition`` until nothing is missing; returns the seconds. Raises StepFailed at the deadline."""
    started, logged = time.monotonic(), None
    while (lacks := await condition()) is not None:
        waited_s = time.monotonic() - started
        if lacks != logged:
            logged = lacks
            log.info("%s: %s (%.1f s)", what, lacks, waited_s)
        if waited_s > deadline_s:
            raise StepFailed(f"{what} after {waited_s:.0f} s: {lacks}; read the log of that service")
        await asyncio.sleep(POLL_S)
    return time.monotonic() - started


async def _kafka_gap(fleet: Fleet, node: Node) -> str | None:
    """Ask the node and its peers: each has its own copy of the metadata, and all copies must be current."""
    brokers = fleet.of(Role.KAFKA)
    for broker, ids in (await ask_each(brokers, KAFKA_PORT, kafka.read_broker_ids)).items():
        if node.index not in ids:
            return f"{broker} still has it fenced"
    known = await ask_each(brokers, KAFKA_PORT, kafka.read_partitions)
    behind = {
        name
        for answer in known.values()
        for name, replicas in answer.items()
        if node.index in replicas.assigned and node.index not in replicas.in_sync
    }
    if node.name not in known:
        return "it does not describe its partitions yet"
    return f"it is out of sync in {_list_some(behind)}" if behind else None


def _list_some(names: set[str]) -> str:
    shown = ", ".join(sorted(names)[:3])
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown


async def _cassandra_gap(fleet: Fleet, node: Node) -> str | None:
    """Ask every node of the ring for its view of the node.

    While another node of the ring is dead, no range can be read from all replicas. Then it is enough that every live
    peer receives the node's heartbeat by gossip.
    """
    if dead := await silent_nodes(fleet.peers(node)):
        views_of_peers = await ask_peers(fleet, node)
        without_heartbeat = [
            w.peer for w in views_of_peers if w.peer not in dead and w.opinion is not PeerOpinion.UP
        ]
        return (
            f"{' and '.join(without_heartbeat)} did not receive its heartbeat" if without_heartbeat else None
        )
    ring = fleet.of(Role.CASSANDRA)
    views = dict(zip(ring, await asyncio.gather(*(_view_of(other, node) for other in ring)), strict=True))
    for coordinator, view in views.items():
        if view.lacks is not None:
            outdated = is_older_generation(node, coordinator, view.generation, views[node].generation)
            return outdated or f"{coordinator.name} reports: {view.lacks}"
    if len({view.schema for view in views.values()}) > 1:
        return "the nodes have different schema versions"
    return None


@dataclass(frozen=True, slots=True)
class _View:
    """A coordinator's view of a node: what is missing, its schema version, its gossip generation."""

    lacks: str | None
    schema: object = None
    generation: int | None = None


async def _view_of(coordinator: Node, node: Node) -> _View:
    rows = await query_cassandra(coordinator, GOSSIP)
    if isinstance(rows, str):
        return _View(rows)
    row = next((row for row in rows if row["address"] == node.address), {})
    status, _, token = str(row.get("status_with_port")).partition(",")
    if status != "NORMAL":
        return _View(f"{node.name} is {status} in its gossip", generation=row.get("generation"))
    answer = await query_cassandra(coordinator, READ_RANGE.format(token=int(token)), cql.ALL)
    return _View(answer if isinstance(answer, str) else None, row.get("schema"), row.get("generation"))


def is_older_generation(node: Node, peer: Node, held: int | None, own: int | None) -> str | None:
    """Return that ``peer`` knows a newer generation of ``node`` than the current one, and what to do; else None.

    ``held``, ``own``: the generation of ``node`` in the gossip of each, in seconds since 1970. Peers ignore one that is
    smaller than the one they know; see `kintsugi.operations.gossip_generation`.
    """
    if held is None or own is None or held <= own:
        return None
    return (
        f"{peer.name} ignores {node.name}: it knows a gossip generation of it that is {held - own} s newer, from a "
        f"clock that was ahead; a recovery starts it with a newer one (recover_node, action restart)"
    )


async def _spark_gap(fleet: Fleet, node: Node, stream: bool) -> str | None:
    """Ask the master; there is only one."""
    master = fleet.of(Role.SPARK_MASTER)[0]
    document = await master_state(master)
    if isinstance(document, str):
        return f"{master.name} reports: {document}"
    wanted = [node] if node.role is Role.SPARK_WORKER else fleet.of(Role.SPARK_WORKER)
    return spark_readiness_gap(document, wanted, stream)


async def master_state(master: Node) -> Mapping[str, Any] | str:
    """Return the master's ``/json/`` document, or why there is none."""
    document: Mapping[str, Any] | str = await ask_spark(master, SPARK_MASTER_UI_PORT, "/json/")
    return document


def spark_readiness_gap(document: Mapping[str, Any], wanted: list[Node], stream: bool) -> str | None:
    """Return what is missing of the workers ``wanted``. ``stream``: each of them must give the stream a core."""
    if document.get("status") != "ALIVE":
        return f"the master is {document.get('status')}"
    workers = {w["host"]: w for w in document.get("workers", []) if w.get("state") == "ALIVE"}
    for node in wanted:
        if node.address not in workers:
            return f"no worker of {node.name} is alive at the master"
        if stream and int(workers[node.address].get("coresused", 0)) < 1:
            return f"the stream holds no core on {node.name}"
    if stream and not stream_apps(document):
        return "the streaming application is not registered"
    return None


def stream_should_run(settings: Settings) -> bool:
    """Whether the stream is submitted; False if the database can't tell, so the stream is not waited for then."""
    try:
        return stream_driver.desired_state(Store(store_dsn(settings)))
    except (KintsugiError, OSError) as error:
        log.warning("it is unknown whether the stream should run: %s", error)
        return False
