"""What refuses the replacement of a node that serves, with a fleet that is healthy but for one thing."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from kintsugi.chaos.janitor import FaultRecord
from kintsugi.core.fleet import Node, load_fleet
from kintsugi.core.incident import RepairBudget
from kintsugi.recovery.guard_model import CassandraFacts, GuardFacts, Limits
from kintsugi.releases.steady_state import Steady
from kintsugi.replacement import permission
from kintsugi.wire.kafka import Replicas
from tests.fixtures_guard_facts import UNUSED_BUDGET, cassandra_facts, kafka_facts
from tests.fixtures_incidents import healed

FLEET = load_fleet()
NOW = datetime(2026, 11, 30, 9, 0, tzinfo=UTC)
HOLDER = "replace_node/manual__1"
ALL = frozenset({1, 2, 3})


@dataclass
class World:
    """A healthy fleet; a test changes what it is about. It answers for store, probes and Airflow."""

    rollout: list[str] = field(default_factory=list)
    faults: list[FaultRecord] = field(default_factory=list)
    steady: Steady = field(default_factory=Steady)
    gap: str | None = None
    watches: list[str] = field(default_factory=list)
    incidents: list[Any] = field(default_factory=list)
    flags: list[Any] = field(default_factory=list)
    changes: dict[str, Any] = field(default_factory=dict)
    partitions: list[dict[str, Replicas]] = field(
        default_factory=lambda: [{"trades-0": Replicas(1, ALL, ALL, frozenset())}]
    )
    pending: dict[str, datetime] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)

    def read_incidents(self, limit: int = 50, *, node: str | None = None, **_: Any) -> list[Any]:
        return [one for one in self.incidents if node in (None, one.node)]

    def read_current_incidents(self, since: datetime) -> list[Any]:
        return self.incidents

    def read_maintenance(self, node: str) -> list[Any]:
        return self.flags

    def pending_repairs(self) -> dict[str, datetime]:
        return self.pending

    def read_desired(self, key: str) -> None:
        return None

    def refuses(self, name: str, budget: RepairBudget | None = None) -> list[str]:
        context: Any = SimpleNamespace(store=self, fleet=FLEET, settings=None)
        return permission.refusal_reasons(context, FLEET.node(name), HOLDER, budget)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    found = World()

    async def readiness_gap(*_: Any) -> str | None:
        return found.gap

    async def partitions(*_: Any) -> Any:
        return found.partitions

    async def facts(fleet: Any, node: Node, **_: Any) -> GuardFacts:
        make = kafka_facts if node.name.startswith("kafka") else cassandra_facts
        return replace(make(NOW, volume_intact=True), **{"node": node.name, **found.changes})

    def observe(context: Any, *, but: list[str]) -> Steady:
        found.left_out = but
        return found.steady

    monkeypatch.setattr(permission, "rollout_reasons", lambda _: found.rollout)
    monkeypatch.setattr(permission, "fault_records", lambda _: found.faults)
    monkeypatch.setattr(permission, "watch_reasons", lambda _: found.watches)
    monkeypatch.setattr(permission, "observe_fleet", observe)
    monkeypatch.setattr(permission, "readiness_gap", readiness_gap)
    monkeypatch.setattr(permission, "stream_should_run", lambda _: False)
    monkeypatch.setattr(permission, "describe_partitions_of", partitions)
    monkeypatch.setattr(permission, "guard_facts", facts)
    monkeypatch.setattr(permission, "limits_in_force", lambda _: Limits())
    return found


@pytest.mark.parametrize("name", FLEET.nodes)
def test_each_node_of_a_healthy_fleet_may_be_replaced(world: World, name: str) -> None:
    if name.startswith("spark"):
        world.changes = {"role": FLEET.node(name).role, "cassandra": None}
    assert world.refuses(name) == []
    assert world.left_out == [name]


FAULT = FaultRecord("hung-1", "hung", ("kafka-3",), 7, 7, 0.0)
OTHERS = replace(healed("kafka-2"), closed_at=None, holder="watch_kafka-2/run-1")
REFUSALS: list[tuple[dict[str, Any], str]] = [
    ({"rollout": ["A release is being rolled out."]}, "rolled out"),
    ({"faults": [FAULT]}, "hung on kafka-3"),
    ({"steady": Steady({"kafka-1": "it doesn't answer"})}, "kafka-1"),
    ({"steady": Steady(others=("incident kafka-1-x is open",))}, "kafka-1-x"),
    ({"steady": Steady(others=("the data repair of kafka-1 is not finished",))}, "data repair"),
    ({"gap": "it is out of sync in trades-0"}, "kafka-2 is not ready"),
    ({"watches": ["watch_kafka-1 is paused"]}, "paused"),
    ({"incidents": [OTHERS]}, OTHERS.id),
    ({"partitions": [{"trades-0": Replicas(1, ALL, frozenset({2, 3}), frozenset())}]}, "trades-0"),
    ({"partitions": []}, "unknown"),
    ({"changes": {"kafka": None}}, "unknown"),
    ({"changes": {"sick": 5}}, "5 of 9"),
    ({"flags": [SimpleNamespace(user="ann")]}, "Maintenance"),
    ({"pending": {"kafka-1": NOW}}, "kafka-1"),
]


@pytest.mark.parametrize(("changed", "named"), REFUSALS)
def test_one_thing_that_is_not_well_refuses(world: World, changed: dict[str, Any], named: str) -> None:
    for name, value in changed.items():
        setattr(world, name, value)
    reasons = world.refuses("kafka-2")
    assert reasons
    assert named in " ".join(reasons)


def test_a_peer_that_is_down_refuses_also_where_the_volume_is_kept(world: World) -> None:
    world.changes = {"cassandra": CassandraFacts(replication=3, others_down=1)}
    assert world.refuses("cassandra-2")


def test_the_runs_own_incident_and_flag_are_no_reason(world: World) -> None:
    world.incidents = [replace(healed("kafka-2"), closed_at=None, holder=HOLDER)]
    world.flags = [SimpleNamespace(user=HOLDER)]
    assert world.refuses("kafka-2") == []


def test_the_budget_of_the_incident_counts_when_there_is_one(world: World) -> None:
    assert world.refuses("kafka-2", UNUSED_BUDGET) == []
    assert world.refuses("kafka-2", replace(UNUSED_BUDGET, repairs_of_node=99))
    assert world.refuses("kafka-2", replace(UNUSED_BUDGET, pending=frozenset({"kafka-1"})))


def test_a_protected_node_is_asked_about_and_not_refused_here(world: World) -> None:
    world.changes = {"protected": True}
    assert world.refuses("kafka-2") == []


def test_a_refusal_names_every_reason_and_what_to_do() -> None:
    text = permission.format_refusal("kafka-2", ["One.", "Two."])
    assert all(part in text for part in ("One.", "Two.", "make replace-node NODE=kafka-2"))
