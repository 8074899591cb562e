"""When the service of a node may be stopped on purpose: the same question before each stop of a roll-out."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from kintsugi.core.observation import NodeView, ProbeResult
from kintsugi.recovery.guard_model import CassandraFacts, GuardFacts, ReplicaCounts
from kintsugi.recovery.planned_stop import judge_stop
from tests.fixtures_guard_facts import cassandra_facts, kafka_facts, spark_facts

NOW = datetime(2026, 8, 1, 2, 15, tzinfo=UTC)
SILENT = NodeView(answer=ProbeResult.REFUSED)
SERVES_ITSELF = NodeView(answer=ProbeResult.OK)


def cassandra(down: int | None) -> GuardFacts:
    return cassandra_facts(NOW, cassandra=CassandraFacts(replication=3, others_down=down))


def kafka(current: int, in_sync: set[int]) -> GuardFacts:
    facts = kafka_facts(NOW)
    assert facts.kafka is not None
    partitions = {"trades-0": ReplicaCounts(frozenset(in_sync))}
    return replace(facts, kafka=replace(facts.kafka, current=current, partitions=partitions))


@pytest.mark.parametrize(
    "facts", [cassandra(0), kafka(2, {1, 2}), spark_facts(NOW)], ids=["cassandra", "kafka", "spark"]
)
def test_a_node_that_its_peers_can_do_without_may_be_stopped(facts: GuardFacts) -> None:
    assert judge_stop(facts) == []


NEEDED = [cassandra(1), cassandra(None), kafka(1, {1, 2}), kafka(2, {1})]
IDS = ["a peer is down", "a peer is unknown", "no quorum without it", "the last copy"]


@pytest.mark.parametrize("facts", NEEDED, ids=IDS)
def test_a_node_that_its_peers_need_is_not_stopped(facts: GuardFacts) -> None:
    assert judge_stop(facts)
    # A firewall hides it from us, but it answers itself.
    assert judge_stop(replace(facts, service=ProbeResult.REFUSED, view=SERVES_ITSELF))


@pytest.mark.parametrize("facts", NEEDED, ids=IDS)
def test_a_node_that_serves_nobody_may_be_stopped_whatever_its_peers_do(facts: GuardFacts) -> None:
    assert judge_stop(replace(facts, service=ProbeResult.TIMEOUT, view=SILENT)) == []
