"""From what peers answer to what they hold of a node."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from kintsugi.core.fleet import Node, Role
from kintsugi.core.observation import PeerOpinion
from kintsugi.probes.peers import kafka_peer_view, spark_master_view
from kintsugi.wire.kafka import Quorum, ReplicaState

NOW = datetime(2026, 1, 5, 15, 0, tzinfo=UTC)
NOW_MS = int(NOW.timestamp() * 1000)
KAFKA = Node("kafka-2", Role.KAFKA, "127.35.1.2", 2222)
WORKER = Node("spark-worker-1", Role.SPARK_WORKER, "127.35.3.2", 2222)


def member(node_id: int, age_s: float | None) -> ReplicaState:
    fetched = -1 if age_s is None else NOW_MS - int(age_s * 1000)
    return ReplicaState(node_id, uuid4(), 100, fetched, fetched)


def quorum(
    leader: int, ages: dict[int, float | None], observers: dict[int, float | None] | None = None
) -> Quorum:
    return Quorum(
        leader,
        100,
        tuple(member(node_id, age) for node_id, age in ages.items()),
        tuple(member(node_id, age) for node_id, age in (observers or {}).items()),
    )


@pytest.mark.parametrize(
    ("listed", "seen", "opinion"),
    [
        ({1, 2, 3}, quorum(1, {1: 0, 2: 0.4, 3: 0.3}), PeerOpinion.UP),
        ({1, 2, 3}, quorum(1, {1: 0, 2: 4.0, 3: 0.3}), PeerOpinion.DOWN),  # listed until its session ends
        ({1, 3}, quorum(1, {1: 0, 2: 12.0, 3: 0.3}), PeerOpinion.DOWN),
        (
            {1, 3},
            quorum(1, {1: 0, 2: 0.2, 3: 0.3}),
            PeerOpinion.UP,
        ),  # fenced, but alive: it speaks to the leader
        ({1, 2, 3}, quorum(2, {1: 0.3, 2: 0, 3: 0.3}), PeerOpinion.UP),  # the leader answered the question
        ({1, 2, 3}, quorum(3, {1: None, 2: None, 3: 0}), PeerOpinion.UNKNOWN),  # elected a moment ago
        ({1, 2, 3}, "no answer", PeerOpinion.UNKNOWN),
        ({1, 3}, "no answer", PeerOpinion.DOWN),
        ("no answer", "no answer", PeerOpinion.UNKNOWN),
        # With a new disk it listens as an observer, while the voter of its id is dead.
        ({1, 2, 3}, quorum(1, {1: 0, 2: 60.0, 3: 0.3}, {2: 0.3}), PeerOpinion.UP),
    ],
)
def test_kafka_opinion(listed: set[int] | str, seen: Quorum | str, opinion: PeerOpinion) -> None:
    assert kafka_peer_view("kafka-1", KAFKA, listed, seen, NOW).opinion is opinion


def test_kafka_knows_when_a_broker_was_last_heard() -> None:
    witness = kafka_peer_view("kafka-1", KAFKA, {1, 3}, quorum(1, {1: 0, 2: 12.0, 3: 0.3}), NOW)
    assert witness.last_seen_at == NOW - timedelta(seconds=12)


@pytest.mark.parametrize(
    ("workers", "opinion"),
    [
        ([("ALIVE", 1.0)], PeerOpinion.UP),
        ([("ALIVE", 9.0)], PeerOpinion.DOWN),  # the master hasn't noticed yet
        ([("DEAD", 12.0)], PeerOpinion.DOWN),
        ([("DEAD", 60.0), ("ALIVE", 0.5)], PeerOpinion.UP),  # its successor registered anew
        ([], PeerOpinion.DOWN),  # it was asked, and has forgotten it: it hears none,
    ],
)
def test_spark_opinion(workers: list[tuple[str, float]], opinion: PeerOpinion) -> None:
    document: dict[str, Any] = {
        "workers": [
            {"host": WORKER.address, "state": state, "lastheartbeat": NOW_MS - int(age * 1000)}
            for state, age in workers
        ]
        + [{"host": "127.35.3.3", "state": "ALIVE", "lastheartbeat": NOW_MS}]
    }
    assert spark_master_view("spark-master-1", WORKER, document, NOW).opinion is opinion
