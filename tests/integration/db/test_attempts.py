"""The one transaction before an act, against a real Postgres: guards, budget, pending repairs, withdrawals."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from kintsugi.core.errors import GuardRefused, IncidentClosed, LeaseHeld, StaleTokenError
from kintsugi.core.incident import Action, Incident, Outcome, RepairBudget
from kintsugi.db.store import Store
from kintsugi.recovery.guard_model import GuardFacts
from kintsugi.recovery.guards import evaluate_action
from tests.integration.db.store_steps import NOW, at_once, attempts_since, begin, lapse, opened


def test_an_attempt_begun_twice_is_one_attempt(store: Store) -> None:
    incident, token = opened(store)
    assert begin(store, incident, token, Action.REBUILD, "1")
    assert not begin(store, incident, token, Action.REBUILD, "1")
    assert store.read_incident(incident.id).attempts() == [Action.REBUILD]
    assert attempts_since(store, "cassandra-1", NOW - timedelta(hours=1)) == 1
    assert attempts_since(store, None, NOW - timedelta(hours=1)) == 1
    assert attempts_since(store, "kafka-1", NOW - timedelta(hours=1)) == 0


def test_a_refused_attempt_leaves_no_trace(store: Store) -> None:
    incident, token = opened(store)
    with pytest.raises(GuardRefused, match="It is protected"):
        begin(store, incident, token, Action.REBUILD, refusals=lambda ledger: ["It is protected."])
    assert store.read_incident(incident.id).attempts() == []
    assert store.pending_repairs() == {}


def test_an_attempt_holds_the_lease_long_enough(store: Store) -> None:
    incident, token = opened(store)
    lapse(store, incident.node)
    begin(store, incident, token, Action.RESTART, ttl_s=120)
    with pytest.raises(LeaseHeld):
        store.acquire_lease(incident.node, "run-2", 60)


def test_a_new_attempt_takes_back_what_the_one_before_had_reached(store: Store) -> None:
    incident, token = opened(store)
    begin(store, incident, token, Action.RESTART, "1")
    store.set_mark(incident.id, token, "redundant_at")
    begin(store, incident, token, Action.RESTART, "1")  # the same one, run again
    assert store.read_incident(incident.id).redundant_at is not None
    begin(store, incident, token, Action.REBUILD, "2")
    assert store.read_incident(incident.id).redundant_at is None


def test_the_guards_see_flags_budget_and_pending_repairs(store: Store) -> None:
    first, first_token = opened(store, "cassandra-1")
    begin(store, first, first_token, Action.REBUILD)
    kafka, kafka_token = opened(store, "kafka-1")
    begin(store, kafka, kafka_token, Action.REBUILD)
    store.set_maintenance("cassandra-2", reason="new disks", user="ada")
    store.set_maintenance("*", reason="over", user="ada", until=NOW - timedelta(hours=1))
    second, second_token = opened(store, "cassandra-2")
    begin(store, second, second_token, Action.RESTART)
    seen: list[RepairBudget] = []

    def watch(ledger: RepairBudget) -> list[str]:
        seen.append(ledger)
        return []

    begin(store, second, second_token, Action.REBUILD, "2", refusals=watch)
    assert [list(ledger.role_attempts) for ledger in seen] == [["cassandra-1"]]
    assert [replace(ledger, role_attempts={}) for ledger in seen] == [
        RepairBudget(
            maintenance=("cassandra-2 is in maintenance until it is cleared: new disks (set by ada).",),
            repairs_of_node=1,
            repairs_of_fleet=3,
            pending=frozenset({"cassandra-1"}),
        )
    ]
    assert store.repair_budget(second.id).pending == {"cassandra-1"}


def test_the_run_of_an_incident_is_not_refused_by_its_own_flag(store: Store) -> None:
    incident, token = opened(store, "kafka-1", holder="replace_node/manual__1")
    store.set_maintenance("kafka-1", reason="it is replaced", user="replace_node/manual__1")
    store.set_maintenance("kafka-1", reason="new disks", user="ada")
    seen: list[RepairBudget] = []

    def watch(ledger: RepairBudget) -> list[str]:
        seen.append(ledger)
        return []

    begin(store, incident, token, Action.REBUILD_NODE, refusals=watch)
    (flag,) = store.repair_budget(incident.id).maintenance
    assert "ada" in flag
    assert [ledger.maintenance for ledger in seen] == [(flag,)]


def test_a_repair_stays_pending_until_the_data_is_consistent(store: Store) -> None:
    incident, token = opened(store)
    begin(store, incident, token, Action.REBUILD)
    store.set_mark(incident.id, token, "redundant_at")
    assert list(store.pending_repairs()) == ["cassandra-1"]
    store.set_mark(incident.id, token, "consistent_at")
    assert store.pending_repairs() == {}


@pytest.mark.parametrize(
    ("node", "action", "pending"),
    [
        ("cassandra-1", Action.RESTART, []),
        ("cassandra-1", Action.REBUILD_NODE, ["cassandra-1"]),  # its commit log's tail was never on the disk
        ("kafka-1", Action.REBUILD_NODE, []),
        ("kafka-1", Action.REBUILD, ["kafka-1"]),
        ("spark-worker-1", Action.REBUILD, []),
    ],
)
def test_a_repair_is_pending_where_rows_may_be_lacking(
    store: Store, node: str, action: Action, pending: list[str]
) -> None:
    incident, token = opened(store, node)
    begin(store, incident, token, action)
    assert list(store.pending_repairs()) == pending


def test_a_node_that_left_rows_out_is_pending_without_an_attempt(store: Store) -> None:
    incident, token = opened(store)
    store.expect_repair(incident.id, token)
    store.expect_repair(incident.id, token)  # the step is run again
    assert list(store.pending_repairs()) == ["cassandra-1"]
    store.set_mark(incident.id, token, "consistent_at")
    assert store.pending_repairs() == {}
    with pytest.raises(StaleTokenError):
        store.expect_repair(incident.id, token - 1)


def test_of_two_rebuilds_at_once_of_one_role_only_one_begins(store: Store) -> None:
    cases = [opened(store, f"cassandra-{n}", f"run-{n}") for n in (1, 2, 3)]

    def rebuild(incident: Incident, token: int) -> bool:
        def refusals(ledger: RepairBudget) -> list[str]:
            return [f"{other} isn't whole." for other in ledger.pending]

        return begin(store, incident, token, Action.REBUILD, refusals=refusals)

    results = at_once(*[lambda case=case: rebuild(*case) for case in cases])
    assert sorted(type(result).__name__ for result in results) == ["GuardRefused", "GuardRefused", "bool"]


def test_the_real_guards_stop_a_loop_at_the_budget(store: Store) -> None:
    incident, token = opened(store, "spark-worker-1")
    facts = GuardFacts(node=incident.node, role=incident.role, at=NOW, planned=True)
    for number in range(6):
        begin(
            store,
            incident,
            token,
            Action.RESTART,
            str(number),
            refusals=lambda ledger: evaluate_action(Action.RESTART, facts.with_ledger(ledger)).reasons,
        )
    with pytest.raises(GuardRefused, match="recovered 6 times in the last hour"):
        begin(
            store,
            incident,
            token,
            Action.RESTART,
            "6",
            refusals=lambda ledger: evaluate_action(Action.RESTART, facts.with_ledger(ledger)).reasons,
        )


def test_nothing_is_begun_on_a_closed_incident(store: Store) -> None:
    incident, token = opened(store)
    store.close_incident(incident.id, token, Outcome.FALSE_ALARM, "well")
    with pytest.raises(GuardRefused, match="closed"):
        begin(store, incident, token, Action.REBUILD)


def test_a_withdrawn_attempt_uses_up_nothing(store: Store) -> None:
    incident, token = opened(store)
    begin(store, incident, token, Action.REBUILD, "run-1")
    store.withdraw_attempt(incident.id, token, "run-1", "it answers again")
    store.withdraw_attempt(incident.id, token, "run-1", "it answers again")  # the step is run again
    assert store.read_incident(incident.id).attempts() == []
    assert store.pending_repairs() == {}
    assert attempts_since(store, incident.node, NOW - timedelta(days=1)) == 0


def test_a_withdrawn_attempt_leaves_what_an_earlier_one_destroyed_pending(store: Store) -> None:
    incident, token = opened(store)
    begin(store, incident, token, Action.REBUILD, "run-1")
    begin(store, incident, token, Action.REBUILD, "run-2")
    store.withdraw_attempt(incident.id, token, "run-2", "it answers again")
    assert store.read_incident(incident.id).attempts() == [Action.REBUILD]
    assert list(store.pending_repairs()) == [incident.node]


def test_the_guards_see_which_nodes_of_the_role_are_being_repaired(store: Store) -> None:
    first, token = opened(store, "cassandra-1", "run-1")
    second, _ = opened(store, "cassandra-2", "run-2")
    begin(store, first, token, Action.RESTART, "run-1")
    assert list(store.repair_budget(second.id).role_attempts) == ["cassandra-1"]
    assert store.repair_budget(first.id).role_attempts == {}
    store.set_mark(first.id, token, "redundant_at")  # it serves again
    assert store.repair_budget(second.id).role_attempts == {}


def test_one_recovery_kills_at_a_time(store: Store) -> None:
    with store.kill_lock(), pytest.raises(GuardRefused), store.kill_lock(deadline_s=0.3):
        pass
    with store.kill_lock(deadline_s=0.3):
        pass


def test_an_attempt_that_did_nothing_is_taken_back_with_its_pending_repair(store: Store) -> None:
    incident, token = opened(store)
    assert begin(store, incident, token, Action.REBUILD, key="run-1")
    assert set(store.pending_repairs()) == {"cassandra-1"}
    for _ in range(2):
        store.withdraw_attempt(incident.id, token, "run-1", "it answers")
    assert store.pending_repairs() == {}
    assert store.read_incident(incident.id).attempts() == []
    assert not store.read_incident(incident.id).acted


def test_what_was_pending_before_or_was_destroyed_stays_pending(store: Store) -> None:
    incident, token = opened(store)
    store.expect_repair(incident.id, token)
    begin(store, incident, token, Action.REBUILD, key="run-1")
    store.withdraw_attempt(incident.id, token, "run-1", "it answers")
    assert set(store.pending_repairs()) == {"cassandra-1"}
    other, token = opened(store, "cassandra-2")
    begin(store, other, token, Action.REBUILD, key="run-2")
    store.withdraw_attempt(other.id, token, "run-2", "our disk is full", untouched=False)
    assert set(store.pending_repairs()) == {"cassandra-1", "cassandra-2"}


@pytest.mark.parametrize("counts", [True, False])
def test_what_the_control_plane_failed_at_is_bounded_by_the_budget(store: Store, counts: bool) -> None:
    incident, token = opened(store)
    begin(store, incident, token, Action.REBUILD, key="run-1")
    store.withdraw_attempt(incident.id, token, "run-1", "our disk is full", counts=counts)
    assert store.repair_budget(incident.id).repairs_of_node == int(counts)
    assert store.read_incident(incident.id).attempts() == []


def test_a_run_whose_attempt_was_taken_back_does_not_go_on_with_it(store: Store) -> None:
    incident, token = opened(store)
    begin(store, incident, token, Action.REBUILD, key="run-1")
    store.withdraw_attempt(incident.id, token, "run-1", "it answers")
    with pytest.raises(GuardRefused, match="withdrawn"):
        begin(store, incident, token, Action.REBUILD, key="run-1")
    assert begin(store, incident, token, Action.REBUILD, key="run-2")
    with pytest.raises(StaleTokenError):
        store.withdraw_attempt(incident.id, token - 1, "run-2", "it answers")
    store.close_incident(incident.id, token, Outcome.HEALED, "it serves")
    with pytest.raises(IncidentClosed):
        store.withdraw_attempt(incident.id, token, "run-2", "it answers")
