"""Facts of nodes that are dead, hung, stuck or misplaced, from which the tests of the guards start."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from kintsugi.core.fleet import Role
from kintsugi.core.incident import Action
from kintsugi.core.observation import NodeView, ProbeResult, ServiceProcess
from kintsugi.recovery.common_cause import OtherNode
from kintsugi.recovery.guard_model import Guard, GuardFacts, ReplicaCounts
from tests.fixtures_guard_facts import UNUSED_BUDGET, cassandra_facts, kafka_facts, spark_facts

NOW = datetime(2026, 8, 1, 2, 15, tzinfo=UTC)
RESTART, NODE, BOTH, BACK = Action.RESTART, Action.REBUILD_NODE, Action.REBUILD, Action.ROLL_BACK


def ago(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


DEAD: Any = {
    "observed_at": ago(1),
    "service": ProbeResult.REFUSED,
    "ssh": ProbeResult.REFUSED,
    "last_seen_at": ago(6.5),
    "first_failed_at": ago(5.5),
}
CASSANDRA = cassandra_facts(NOW, **DEAD)
KAFKA = kafka_facts(NOW, **DEAD)
SPARK = spark_facts(NOW, **DEAD)
HUNG = replace(CASSANDRA, service=ProbeResult.TIMEOUT, ssh=ProbeResult.OK, running=True)
STUCK = NodeView(ServiceProcess(7, 1), 9.0, listening=True, connected=True, answer=ProbeResult.TIMEOUT)
ENDED = NodeView(None, None, listening=False, connected=False, answer=ProbeResult.REFUSED, ended=True)
UNNAMED = replace(ENDED, ended=False)  # its init, which would know the process, doesn't answer
MISPLACED = NodeView(
    ServiceProcess(7, 1),
    9.0,
    listening=False,
    connected=False,
    answer=ProbeResult.REFUSED,
    elsewhere=("a:1",),
)
WELL = OtherNode("cassandra-3", Role.CASSANDRA, answers=True)


def silent(seconds: float) -> OtherNode:
    return OtherNode("cassandra-1", Role.CASSANDRA, answers=False, running=True, silent_since=ago(seconds))


def kafka(**changes: Any) -> GuardFacts:
    assert KAFKA.kafka is not None
    return replace(KAFKA, kafka=replace(KAFKA.kafka, **changes))


def cassandra(**changes: Any) -> GuardFacts:
    assert CASSANDRA.cassandra is not None
    return replace(CASSANDRA, cassandra=replace(CASSANDRA.cassandra, **changes))


def ledger(facts: GuardFacts = CASSANDRA, **changes: Any) -> GuardFacts:
    return facts.with_ledger(replace(UNUSED_BUDGET, **changes))


ALONE = {"trades-1": ReplicaCounts(frozenset({1}), frozenset())}
EVERY = frozenset(Guard)
