"""What the guards are told of the other replicas and nodes."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from kintsugi.core.fleet import Node
from kintsugi.recovery.guard_facts import (
    KEYSPACES,
    cassandra_facts,
    current_voters,
    guard_facts,
    replica_counts,
    smallest_replication,
)
from kintsugi.recovery.guard_model import CassandraFacts, ReplicaCounts
from kintsugi.wire.kafka import Quorum, Replicas, ReplicaState
from tests.installations import give_zones, installation

OURS = {"keyspace_name": "trades", "replication": {"class": "x", "dc1": "3", "dc2": "3"}}


def replicas(assigned: set[int], in_sync: set[int], eligible: set[int] | None = None) -> Replicas:
    return Replicas(min(in_sync, default=-1), *map(frozenset, (assigned, in_sync, eligible or set())))


def test_only_partitions_of_this_broker_count() -> None:
    told = {"trades-0": replicas({1, 2, 3}, {1, 2, 3}), "trades-1": replicas({2, 3}, {2, 3})}
    assert replica_counts(1, [told]) == {"trades-0": ReplicaCounts(frozenset({1, 2, 3}))}


def test_a_replica_counts_only_where_all_brokers_agree() -> None:
    stale = {"trades-0": replicas({1, 2, 3}, {1, 2, 3})}
    fresh = {"trades-0": replicas({1, 2, 3}, {1, 3}, {2})}
    for told in ([stale, fresh], [fresh, stale]):
        assert replica_counts(1, told) == {"trades-0": ReplicaCounts(frozenset({1, 3}), frozenset())}


def test_nobody_to_ask_is_unknown_and_no_partition_is_not() -> None:
    assert replica_counts(1, []) is None
    assert replica_counts(1, [{}]) == {}


def test_a_voter_is_current_when_it_fetched_and_caught_up_of_late() -> None:
    now = 1_000_000
    disk = uuid4()
    voters = (
        ReplicaState(1, disk, 100, now, now),
        ReplicaState(2, disk, 100, now - 400, now - 400),
        ReplicaState(3, disk, 40, now - 400, now - 9_000),  # fetches, but is far behind
        ReplicaState(4, disk, 90, now - 9_000, now - 9_000),
        ReplicaState(5, disk, 0, -1, -1),
    )
    assert current_voters(Quorum(1, 100, voters)) == {1, 2}
    assert current_voters(Quorum(7, 100, voters)) == set()


def test_smallest_replication_of_our_keyspaces() -> None:
    system = {"keyspace_name": "system_traces", "replication": {"class": "x", "replication_factor": "2"}}
    other = {"keyspace_name": "other", "replication": {"class": "x", "replication_factor": "2/1"}}
    assert smallest_replication([system, OURS]) == 3
    assert smallest_replication([system, OURS, other]) == 2
    assert smallest_replication([system]) is None


async def test_the_zones_of_the_fleet_file_reach_the_guards(tmp_path: Path) -> None:
    settings = installation(tmp_path, "127.34")  # nobody listens there
    give_zones(settings, {"spark-worker-1": "north", "spark-master-1": "south"})
    facts = await guard_facts(settings.fleet, settings.fleet.node("spark-worker-1"), running=False)
    assert facts.zone == "north"
    assert {other.name: other.zone for other in facts.others if other.zone} == {"spark-master-1": "south"}


@pytest.mark.parametrize(
    ("keyspaces", "expected"), [([OURS], CassandraFacts(3, 0)), ("timeout", CassandraFacts(None, 2))]
)
async def test_a_peer_whose_storage_stalls_is_down_although_it_tells_its_status(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, keyspaces: Any, expected: CassandraFacts
) -> None:
    async def answer(peer: Node, query: str) -> Any:
        """Gossip is in memory, the schema on the disk."""
        return (
            keyspaces if query == KEYSPACES else [{"address": peer.address, "status_with_port": "NORMAL,-1"}]
        )

    monkeypatch.setattr("kintsugi.recovery.guard_facts.query_cassandra", answer)
    fleet = installation(tmp_path, "127.34").fleet
    assert await cassandra_facts(fleet, fleet.node("cassandra-1")) == expected
