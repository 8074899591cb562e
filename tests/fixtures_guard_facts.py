"""What the guards know of one node of a healthy fleet; tests change what they are about."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Any

from kintsugi.core.fleet import Role
from kintsugi.core.incident import RepairBudget
from kintsugi.core.observation import ProbeResult
from kintsugi.recovery.guard_model import CassandraFacts, GuardFacts, KafkaFacts, ReplicaCounts

UNUSED_BUDGET = RepairBudget(maintenance=(), repairs_of_node=0, repairs_of_fleet=0, pending=frozenset())


def cassandra_facts(at: datetime, **changes: Any) -> GuardFacts:
    """The facts on ``cassandra-2``, which serves at ``at``, with ``changes``."""
    facts = GuardFacts(
        node="cassandra-2",
        role=Role.CASSANDRA,
        at=at,
        observed_at=at,
        service=ProbeResult.OK,
        ssh=ProbeResult.OK,
        last_seen_at=at,
        fleet_size=9,
        sick=1,
        protected=False,
        ledger=UNUSED_BUDGET,
        cassandra=CassandraFacts(replication=3, others_down=0),
    )
    return replace(facts, **changes)


def kafka_facts(at: datetime, **changes: Any) -> GuardFacts:
    """The facts on ``kafka-1``, which serves at ``at`` and shares both of its partitions, with ``changes``."""
    partitions = {
        "trades-0": ReplicaCounts(frozenset({1, 2, 3})),
        "trades-1": ReplicaCounts(frozenset({2, 3})),
    }
    kafka = KafkaFacts(node_id=1, partitions=partitions, live=frozenset({2, 3}), voters=3, current=2)
    return cassandra_facts(at, node="kafka-1", role=Role.KAFKA, cassandra=None, kafka=kafka, **changes)


def spark_facts(at: datetime, **changes: Any) -> GuardFacts:
    """The facts on ``spark-worker-1``, which serves at ``at``, with ``changes``."""
    return cassandra_facts(at, node="spark-worker-1", role=Role.SPARK_WORKER, cassandra=None, **changes)
