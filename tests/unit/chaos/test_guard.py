"""What chaos asks before it breaks something, and when it gives up while a fault is in force."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kintsugi.chaos import guard, switch
from kintsugi.chaos.guard import Aborted, Bystanders, fault_violations, unwatched_reasons
from kintsugi.chaos.registry import FAULTS
from kintsugi.chaos.switch import ChaosStopped
from kintsugi.core.errors import GuardRefused
from kintsugi.core.fleet import Node, load_fleet
from kintsugi.core.incident import Action
from kintsugi.db.flags import Desired
from kintsugi.db.store import StoreUnavailable
from kintsugi.recovery.guard_model import CassandraFacts, Guard, GuardFacts, Limits
from tests.fixtures_guard_facts import UNUSED_BUDGET, cassandra_facts, kafka_facts
from tests.fixtures_incident_table import IncidentTable
from tests.fixtures_incidents import T0, healed

FLEET = load_fleet()
NOW = datetime(2026, 11, 28, 12, 0, tzinfo=UTC)
BEYOND = {Guard.COPIES, Guard.BREAKER}

SERVING = cassandra_facts(NOW, volume_intact=True)
BROKER = kafka_facts(NOW, volume_intact=True)


def with_ledger(facts: GuardFacts, **changes: Any) -> GuardFacts:
    return replace(facts, ledger=replace(UNUSED_BUDGET, **changes))


@pytest.mark.parametrize("cost", [Action.RESTART, Action.REBUILD_NODE, Action.REBUILD])
@pytest.mark.parametrize("facts", [SERVING, BROKER], ids=lambda facts: facts.node)
def test_one_node_of_a_healthy_fleet_may_be_broken_though_it_answers(facts: GuardFacts, cost: Action) -> None:
    assert fault_violations(cost, facts, [], Limits()) == []


def test_no_disk_is_destroyed_while_another_one_lacks_rows() -> None:
    """Seen: with a pending repair of cassandra-1, the disk of cassandra-2 was destroyed."""
    facts = with_ledger(SERVING, pending=frozenset({"cassandra-1"}))
    (reason,) = fault_violations(Action.REBUILD, facts, [], Limits())
    assert "cassandra-1" in reason


@pytest.mark.parametrize(
    ("facts", "cost"),
    [
        (with_ledger(SERVING, maintenance=("the fleet is in maintenance",)), Action.RESTART),
        (with_ledger(SERVING, repairs_of_node=99), Action.REBUILD_NODE),
        (replace(SERVING, protected=True), Action.REBUILD_NODE),
        (replace(SERVING, cassandra=CassandraFacts(replication=3, others_down=1)), Action.RESTART),
        (replace(SERVING, cassandra=CassandraFacts()), Action.RESTART),
        (replace(SERVING, cassandra=CassandraFacts(replication=1, others_down=0)), Action.REBUILD),
        (replace(SERVING, ledger=None), Action.REBUILD_NODE),
        (replace(SERVING, sick=5), Action.REBUILD),
        (replace(BROKER, kafka=None), Action.RESTART),
        (with_ledger(SERVING, role_attempts={"cassandra-3": NOW}), Action.RESTART),
    ],
)
def test_what_refuses_a_recovery_refuses_chaos(facts: GuardFacts, cost: Action) -> None:
    assert fault_violations(cost, facts, [], Limits())


@pytest.mark.parametrize(("facts", "other"), [(SERVING, "cassandra-3"), (BROKER, "kafka-3")])
def test_two_nodes_of_a_role_that_can_spare_one_need_a_waiver(facts: GuardFacts, other: str) -> None:
    others = [FLEET.node(other)]
    assert fault_violations(Action.RESTART, facts, others, Limits())
    assert fault_violations(Action.RESTART, facts, others, Limits(), BEYOND) == []
    assert fault_violations(Action.RESTART, facts, [FLEET.node("spark-worker-1")], Limits()) == []


@given(
    st.sampled_from([Action.RESTART, Action.REBUILD_NODE, Action.REBUILD]), st.sets(st.sampled_from(Guard))
)
def test_a_waiver_only_ever_takes_reasons_away(cost: Action, waived: set[Guard]) -> None:
    facts = replace(with_ledger(SERVING, pending=frozenset({"cassandra-1"})), protected=True)
    others = [FLEET.node("cassandra-3")]
    assert set(fault_violations(cost, facts, others, Limits(), waived)) <= set(
        fault_violations(cost, facts, others, Limits())
    )


# --- watches ----------------------------------------------------------------------------------------------


def test_a_node_is_watched_while_its_dag_is_active_and_its_sensor_beats() -> None:
    dags = [
        {"dag_id": "watch_kafka-1", "is_paused": False},
        {"dag_id": "watch_kafka-2", "is_paused": True},
        {"dag_id": "watch_kafka-3", "is_paused": False},
        {"dag_id": "watch_cassandra-1", "is_paused": False},
    ]
    beats = {"kafka-1": NOW, "kafka-2": NOW, "kafka-3": NOW - timedelta(minutes=5)}
    names = ["kafka-1", "kafka-2", "kafka-3", "cassandra-1", "cassandra-2"]
    reasons = unwatched_reasons(names, beats, NOW, dags)
    assert [next(name for name in names if name in reason) for reason in reasons] == names[1:]


# --- all of it --------------------------------------------------------------------------------------------


@dataclass
class Store:
    """A store with what the guards of chaos ask for."""

    values: dict[str, Any] = field(default_factory=dict)
    pending: dict[str, datetime] = field(default_factory=dict)
    found: list[Any] = field(default_factory=list)
    away: bool = False

    def read_desired(self, key: str) -> Desired | None:
        if self.away:
            raise StoreUnavailable("connection refused")
        return Desired(key, self.values[key], 1) if key in self.values else None

    def set_desired(self, key: str, value: Any) -> None:
        self.values[key] = value

    def read_lease(self, name: str) -> None:
        return None

    def read_maintenance(self, name: str = "*") -> list[str]:
        return []

    def pending_repairs(self) -> dict[str, datetime]:
        return self.pending

    def read_current_incidents(self, since: datetime) -> list[Any]:
        if self.away:
            raise StoreUnavailable("connection refused")
        return IncidentTable(self.found).read_current_incidents(since)

    def read_incidents(self, limit: int) -> list[Any]:
        return IncidentTable(self.found).read_incidents(limit)


@pytest.fixture
def context(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A calm fleet in which every node is redundant and watched, and the guards' facts are those of ``SERVING``."""

    async def facts(fleet: Any, node: Node, **_: Any) -> GuardFacts:
        return replace(SERVING, node=node.name, protected=node.protected)

    monkeypatch.setattr("kintsugi.chaos.guard.guard_facts", facts)
    monkeypatch.setattr(guard, "steady_reasons", lambda _: [])
    monkeypatch.setattr(guard, "watch_reasons", lambda _: [])
    monkeypatch.setattr(guard, "rollout_reasons", lambda _: [])
    return SimpleNamespace(store=Store(), fleet=FLEET)


def test_chaos_is_allowed_where_nothing_speaks_against_it(context: Any) -> None:
    guard.check_guards(context, FAULTS["volume_lost"], ["cassandra-2"])


def test_a_pending_repair_refuses_the_loss_of_a_disk_and_not_of_another_role(context: Any) -> None:
    context.store.pending = {"cassandra-1": NOW}
    with pytest.raises(GuardRefused, match="cassandra-1"):
        guard.check_guards(context, FAULTS["volume_lost"], ["cassandra-2"])
    assert guard.ledger_of(context, FLEET.node("kafka-1")).pending == frozenset()
    assert guard.ledger_of(context, FLEET.node("cassandra-1")).pending == frozenset()


def test_a_protected_node_is_never_a_victim_whatever_the_fault(context: Any) -> None:
    protected = replace(FLEET.node("cassandra-2"), protected=True)
    context.fleet = replace(FLEET, nodes={**FLEET.nodes, "cassandra-2": protected})
    for kind in ("volume_lost", "process_killed"):
        with pytest.raises(GuardRefused, match="protected"):
            guard.check_guards(context, FAULTS[kind], ["cassandra-2"])


@pytest.mark.parametrize("question", ["steady_reasons", "watch_reasons", "rollout_reasons"])
def test_each_question_can_refuse(context: Any, monkeypatch: pytest.MonkeyPatch, question: str) -> None:
    monkeypatch.setattr(guard, question, lambda _: ["something is not well"])
    with pytest.raises(GuardRefused, match="not well"):
        guard.check_guards(context, FAULTS["hung"], ["cassandra-2"])


def test_repairs_of_the_last_hour_count_against_the_budget(context: Any) -> None:
    since = (datetime.now(UTC) - T0).total_seconds()
    context.store.found = [healed("kafka-2", since - 600), healed("kafka-3", since - 7200)]
    ledger = guard.ledger_of(context, FLEET.node("kafka-2"))
    assert (ledger.repairs_of_node, ledger.repairs_of_fleet) == (1, 1)


def test_repairs_count_however_many_incidents_followed(context: Any) -> None:
    since = (datetime.now(UTC) - T0).total_seconds()
    newer = [healed("kafka-3", since - 60, entries=())] * 250
    context.store.found = [*newer, healed("kafka-2", since - 600)]
    assert guard.ledger_of(context, FLEET.node("kafka-2")).repairs_of_fleet == 1


# --- the switch -------------------------------------------------------------------------------------------


def test_one_switch_stops_chaos_and_allows_it_again(context: Any) -> None:
    switch.check_not_stopped(context.store)
    switch.stop_chaos(context.store, user="olga", reason="a customer calls")
    with pytest.raises(ChaosStopped, match=r"olga.*a customer calls"):
        guard.check_guards(context, FAULTS["hung"], ["cassandra-2"])
    switch.resume_chaos(context.store, user="olga")
    guard.check_guards(context, FAULTS["hung"], ["cassandra-2"])


def test_nothing_is_broken_while_the_switch_cannot_be_read(context: Any) -> None:
    context.store.away = True
    with pytest.raises(StoreUnavailable):
        guard.check_guards(context, FAULTS["hung"], ["cassandra-2"])


# --- while a fault is in force ------------------------------------------------------------------------------


@pytest.fixture
def bystanders(context: Any, monkeypatch: pytest.MonkeyPatch) -> Bystanders:
    """The bystanders of a fault on kafka-1, at whom somebody looks at each check."""
    monkeypatch.setattr(guard, "LOOK_EVERY_S", -1.0)
    monkeypatch.setattr(Bystanders, "_silent", lambda _: [])
    return Bystanders(context, ["kafka-1"], T0)


def test_the_switch_ends_a_fault_that_is_in_force(bystanders: Bystanders) -> None:
    bystanders.check()
    switch.stop_chaos(bystanders.context.store, user="olga", reason="enough")
    with pytest.raises(ChaosStopped):
        bystanders.check()


def test_an_act_on_a_bystander_ends_the_fault_and_one_on_the_victim_does_not(bystanders: Bystanders) -> None:
    store: Any = bystanders.context.store
    store.found = [healed("kafka-1"), healed("kafka-3", later=-3600)]
    bystanders.check()
    store.found.append(healed("kafka-3"))
    with pytest.raises(Aborted, match="kafka-3"):
        bystanders.check()


def test_an_act_on_a_bystander_is_seen_behind_many_newer_incidents(bystanders: Bystanders) -> None:
    store: Any = bystanders.context.store
    store.found = [*[healed("kafka-1", later=60)] * 50, healed("kafka-3")]
    with pytest.raises(Aborted, match="kafka-3"):
        bystanders.check()


def test_a_store_that_is_away_ends_no_fault(bystanders: Bystanders) -> None:
    store: Any = bystanders.context.store
    store.away = True
    bystanders.check()


def test_a_bystander_that_stays_silent_ends_the_fault_and_a_pause_does_not(
    bystanders: Bystanders, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1e9]
    silent = ["cassandra-1"]
    monkeypatch.setattr("kintsugi.chaos.guard.time.monotonic", lambda: now[0])
    monkeypatch.setattr(Bystanders, "_silent", lambda _: list(silent))
    bystanders.check()
    now[0] += guard.GRACE_S - 1
    bystanders.check()
    silent.clear()
    bystanders.check()
    silent.append("cassandra-1")
    now[0] += 10
    bystanders.check()
    now[0] += guard.GRACE_S + 1
    with pytest.raises(Aborted, match="cassandra-1"):
        bystanders.check()
