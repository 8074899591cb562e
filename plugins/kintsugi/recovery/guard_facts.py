"""Gather the facts that the guards need before something is destroyed, from the other nodes and the node itself.

A fact that can't be found out stays None. If a fact is None, the guards refuse (kintsugi.recovery.guards).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from kintsugi.core.fleet import Fleet, Node, Role
from kintsugi.core.observation import NodeView, ProbeResult
from kintsugi.core.settings import KAFKA_PORT, Settings
from kintsugi.probes.master_view import ask_master
from kintsugi.probes.observe import node_view
from kintsugi.probes.peers import PeerView, ask_each, ask_peers, query_cassandra
from kintsugi.probes.protocols import Probe, probe_node, probe_ssh, silent_nodes
from kintsugi.recovery.common_cause import OtherNode
from kintsugi.recovery.guard_model import CassandraFacts, GuardFacts, KafkaFacts, ReplicaCounts
from kintsugi.wire import kafka as kafka_wire

VOTER_BEHIND_S = 3.0
HEARTBEAT_WATCH_S = 2.0
KEYSPACES = "SELECT keyspace_name, replication FROM system_schema.keyspaces"


async def guard_facts(
    fleet: Fleet,
    node: Node,
    *,
    last_seen_at: datetime | None = None,
    first_failed_at: datetime | None = None,
    volume_intact: bool | None = None,
    running: bool | None = None,
    settings: Settings | None = None,
) -> GuardFacts:
    """Return the facts for kintsugi.recovery.guards.evaluate_action, except those of the database and of the platform.

    ``last_seen_at``, ``first_failed_at``, ``volume_intact``: what the confirmation saw. The node is probed again, and
    the newest answer counts. ``running``: the platform's answer. ``settings``: if given, the node itself is asked over
    SSH, and for a Spark master the other nodes too. Takes at most about 8 s. Never raises on network errors.
    """
    (service, ssh, newest, view), silent_names, kafka, cassandra = await asyncio.gather(
        recent_liveness(fleet, node, last_seen_at, running=running, settings=settings),
        silent_nodes(fleet),
        _kafka_if(fleet, node),
        _cassandra_if(fleet, node),
    )
    silent = set(silent_names)
    return GuardFacts(
        node=node.name,
        role=node.role,
        zone=node.zone,
        at=datetime.now(UTC),
        observed_at=service.at,
        service=service.answer,
        ssh=ssh.answer,
        last_seen_at=newest,
        first_failed_at=first_failed_at,
        volume_intact=volume_intact,
        fleet_size=len(fleet.nodes),
        sick=len(silent | {node.name}),
        protected=node.protected,
        kafka=kafka,
        cassandra=cassandra,
        running=running,
        view=view,
        others=tuple(
            OtherNode(other.name, other.role, answers=other.name not in silent, zone=other.zone)
            for other in fleet
            if other.name != node.name
        ),
    )


async def recent_liveness(
    fleet: Fleet,
    node: Node,
    before: datetime | None,
    *,
    running: bool | None = None,
    settings: Settings | None = None,
) -> tuple[Probe, Probe, datetime | None, NodeView]:
    """Return the probes of the service and sshd, when anybody last got an answer (UTC), and the node's own view.

    ``before``: the last known answer. The peers are asked in parallel. If the platform says that the node does not
    run, their answers are not waited for, because they can't have heard a process of it.
    """
    async with asyncio.TaskGroup() as group:
        peers = group.create_task(ask_peers(fleet, node, watch_s=HEARTBEAT_WATCH_S))
        service, ssh = await asyncio.gather(probe_node(node), probe_ssh(node.address, node.ssh_port))
        if running is False and service.answer is not ProbeResult.OK:
            peers.cancel()
        view, masters = NodeView(), list[PeerView]()
        if settings is not None and service.answer is not ProbeResult.OK and running is not False:
            view, masters = await asyncio.gather(
                node_view(settings, node, service, ssh), ask_master(settings, node, ssh)
            )
    times = [before, service.at if service.answer is ProbeResult.OK else None]
    times += [] if peers.cancelled() else [view.last_seen_at for view in peers.result()]
    times += [view.last_seen_at for view in masters]
    return service, ssh, max((time for time in times if time is not None), default=None), view


async def _kafka_if(fleet: Fleet, node: Node) -> KafkaFacts | None:
    return await kafka_facts(fleet, node) if node.role is Role.KAFKA else None


async def _cassandra_if(fleet: Fleet, node: Node) -> CassandraFacts | None:
    return await cassandra_facts(fleet, node) if node.role is Role.CASSANDRA else None


async def kafka_facts(fleet: Fleet, node: Node) -> KafkaFacts:
    """Return what the other brokers know of the partitions of ``node``, and of the quorum."""
    peers = fleet.peers(node)
    answers, quorums = await asyncio.gather(
        ask_each(peers, KAFKA_PORT, kafka_wire.read_partitions),
        ask_each(peers, KAFKA_PORT, kafka_wire.describe_quorum),
    )
    quorum = next(iter(quorums.values()), None)
    return KafkaFacts(
        node_id=node.index,
        partitions=replica_counts(node.index, list(answers.values())),
        live=frozenset(peer.index for peer in peers if peer.name in answers),
        voters=None if quorum is None else len({voter.node_id for voter in quorum.voters}),
        current=None if quorum is None else len(current_voters(quorum) - {node.index}),
    )


def replica_counts(
    node_id: int, answers: Iterable[Mapping[str, kafka_wire.Replicas]]
) -> dict[str, ReplicaCounts] | None:
    """Return who holds the partitions of broker ``node_id``, from the answers of brokers; None without an answer.

    A broker's metadata may be late. A replica counts only if every broker that knows the partition agrees.
    """
    counts: dict[str, ReplicaCounts] | None = None
    for answer in answers:
        counts = {} if counts is None else counts
        for name, replicas in answer.items():
            if node_id not in replicas.assigned:
                continue
            before = counts.get(name, ReplicaCounts(replicas.in_sync, replicas.eligible))
            counts[name] = ReplicaCounts(
                before.in_sync & replicas.in_sync, before.eligible & replicas.eligible
            )
    return counts


def current_voters(quorum: kafka_wire.Quorum) -> set[int]:
    """Return the voters that fetched and were caught up within the last 3 s, the leader included."""
    leader = quorum.leader
    if leader is None:
        return set()
    oldest_ms = leader.fetched_ms - VOTER_BEHIND_S * 1000
    return {
        voter.node_id
        for voter in quorum.voters
        if voter is leader or min(voter.fetched_ms, voter.caught_up_ms) >= oldest_ms
    }


async def cassandra_facts(fleet: Fleet, node: Node) -> CassandraFacts:
    """Return the replication factor by the other Cassandra nodes, and how many of them aren't up and normal."""
    peers = fleet.peers(node)
    answers = await asyncio.gather(*(_status_and_replication(peer) for peer in peers))
    known = [replication for _, replication in answers if replication is not None]
    return CassandraFacts(
        replication=min(known, default=None), others_down=sum(1 for normal, _ in answers if not normal)
    )


async def _status_and_replication(peer: Node) -> tuple[bool, int | None]:
    """Return whether ``peer`` is up and normal, and the smallest replication factor of its keyspaces.

    It is up only if it also reads its schema, which is on its disk: a node whose storage stalls still tells its status,
    which is in memory.
    """
    status, keyspaces = await asyncio.gather(
        query_cassandra(peer, _OWN_STATUS),
        query_cassandra(peer, KEYSPACES),
    )
    normal = not isinstance(status, str) and any(
        row["address"] == peer.address and str(row["status_with_port"]).startswith("NORMAL") for row in status
    )
    if isinstance(keyspaces, str):
        return False, None
    return normal, smallest_replication(keyspaces)


_OWN_STATUS = "SELECT address, status_with_port FROM system_views.gossip_info"


def smallest_replication(keyspaces: Iterable[Mapping[str, Any]]) -> int | None:
    """Return the smallest replication factor of the keyspaces that hold our data; None if there is none."""
    factors = [
        int(factor.partition("/")[0])  # "3/1" means three replicas, one of them transient
        for row in keyspaces
        if not str(row["keyspace_name"]).startswith("system")
        for key, factor in row["replication"].items()
        if key != "class"
    ]
    return min(factors, default=None)
