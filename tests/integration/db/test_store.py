"""The store against a real Postgres: fencing, idempotence, races, and a database that goes away."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from kintsugi.core.errors import GuardRefused, IncidentClosed, KintsugiError, LeaseHeld, StaleTokenError
from kintsugi.core.fleet import Role
from kintsugi.core.incident import Action, Incident, Outcome, Phase, RepairBudget
from kintsugi.db.attempts import count_attempts
from kintsugi.db.migrations import MIGRATIONS
from kintsugi.db.patience import Patience
from kintsugi.db.store import Store, StoreUnavailable
from kintsugi.recovery.guard_model import GuardFacts
from kintsugi.recovery.guards import evaluate_action

NOW = datetime.now(UTC)


def lapse(store: Store, node: str) -> None:
    """Let the lease on ``node`` run out, without waiting for it."""
    with store.transaction() as connection:
        connection.execute(
            "UPDATE lease SET expires_at = clock_timestamp() - interval '1s' WHERE node = %s", (node,)
        )


def opened(store: Store, node: str = "cassandra-1", holder: str = "run-1") -> tuple[Incident, int]:
    token = store.acquire_lease(node, holder, 60).token
    role = Role(node.rpartition("-")[0].replace("-", "_"))
    incident = store.open_incident(
        node,
        token,
        role=role,
        holder=holder,
        first_failed_at=NOW - timedelta(seconds=4),
        detected_at=NOW - timedelta(seconds=1),
    )
    return incident, token


def begin(store: Store, incident: Incident, token: int, action: Action, key: str = "1", **kw: Any) -> bool:
    kw.setdefault("refusals", lambda ledger: ())
    return store.begin_attempt(incident.id, token, action, key=key, reason="because", **kw)


def attempts_since(store: Store, node: str | None, since: datetime) -> int:
    with store.transaction() as connection:
        return count_attempts(connection, node, since)


def at_once(*calls: Callable[[], Any]) -> list[Any]:
    """Run the calls in threads that start together; results or exceptions in order."""
    gate = threading.Barrier(len(calls))

    def run(call: Callable[[], Any]) -> Any:
        gate.wait(10)
        try:
            return call()
        except KintsugiError as error:
            return error

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls))


# --- tables


def test_migrating_at_once_makes_the_tables_once(fresh_store: Store) -> None:
    results = at_once(*[fresh_store.migrate] * 6)
    assert results == [None] * 6
    fresh_store.migrate()
    with fresh_store.transaction() as connection:
        applied = connection.execute("SELECT version FROM kintsugi_schema ORDER BY version").fetchall()
    assert [row["version"] for row in applied] == list(range(1, len(MIGRATIONS) + 1))


# --- leases


def test_the_same_holder_renews_with_the_same_token(store: Store) -> None:
    first = store.acquire_lease("kafka-1", "run-1", 5)
    again = store.acquire_lease("kafka-1", "run-1", 60)
    assert again.token == first.token
    assert again.expires_at - first.expires_at > timedelta(seconds=50)


def test_another_holder_is_told_who_holds_it_and_until_when(store: Store) -> None:
    lease = store.acquire_lease("kafka-1", "run-1", 60)
    with pytest.raises(
        LeaseHeld, match=f"the lease on kafka-1 is held by run-1 until {lease.expires_at:%Y-%m}"
    ):
        store.acquire_lease("kafka-1", "run-2", 60)
    assert store.acquire_lease("kafka-2", "run-2", 60).token == 1


def test_an_expired_lease_goes_to_another_with_a_higher_token_and_fences_the_old(store: Store) -> None:
    old = store.acquire_lease("kafka-1", "run-1", 60)
    lapse(store, "kafka-1")
    new = store.acquire_lease("kafka-1", "run-2", 60)
    assert new.token > old.token
    with pytest.raises(StaleTokenError, match="no longer the newest"):
        store.check_lease("kafka-1", old.token)
    with pytest.raises(StaleTokenError):
        store.renew_lease("kafka-1", old.token, 60)
    store.release_lease("kafka-1", old.token)  # a stale release must not end the new holder's lease
    store.check_lease("kafka-1", new.token)


def test_a_lapsed_lease_must_be_renewed_before_acting(store: Store) -> None:
    lease = store.acquire_lease("kafka-1", "run-1", 60)
    lapse(store, "kafka-1")
    with pytest.raises(StaleTokenError, match="expired"):
        store.check_lease("kafka-1", lease.token)
    assert store.renew_lease("kafka-1", lease.token, 60).token == lease.token
    store.check_lease("kafka-1", lease.token)


def test_a_fresh_token_fences_an_older_process_of_the_same_holder(store: Store) -> None:
    orphan = store.acquire_lease("kafka-1", "run-1", 60)
    retry = store.acquire_lease("kafka-1", "run-1", 60, fresh_token=True)
    assert retry.token > orphan.token
    with pytest.raises(StaleTokenError):
        store.check_lease("kafka-1", orphan.token)


def test_a_lease_is_given_back_by_its_holder_only(store: Store) -> None:
    lease = store.acquire_lease("kafka-1", "run-1", 60)
    store.give_back("kafka-1", "run-2")
    assert store.read_lease("kafka-1") == lease
    store.give_back("kafka-1", "run-1")
    assert store.read_lease("kafka-1") is None
    assert store.acquire_lease("kafka-1", "run-2", 60).token > lease.token


def test_a_released_lease_is_free_and_its_token_is_never_given_again(store: Store) -> None:
    first = store.acquire_lease("kafka-1", "run-1", 60)
    store.release_lease("kafka-1", first.token)
    assert store.read_lease("kafka-1") is None
    with pytest.raises(StaleTokenError, match="released"):
        store.check_lease("kafka-1", first.token)
    assert store.acquire_lease("kafka-1", "run-1", 60).token > first.token


def test_of_many_holders_at_once_exactly_one_gets_the_lease(store: Store) -> None:
    for node in ("kafka-1", "kafka-2", "kafka-3"):
        results = at_once(
            *[lambda n=n, node=node: store.acquire_lease(node, f"run-{n}", 60) for n in range(8)]
        )
        assert len([result for result in results if not isinstance(result, LeaseHeld)]) == 1


# --- incidents


def test_a_second_recoverer_continues_the_open_incident(store: Store) -> None:
    incident, _ = opened(store, holder="run-1")
    lapse(store, incident.node)
    continued, _ = opened(store, holder="run-2")
    assert continued.id == incident.id
    assert continued.holder == "run-2"
    assert len(store.read_incidents()) == 1


def test_a_closed_incident_is_not_continued(store: Store) -> None:
    incident, token = opened(store)
    store.close_incident(incident.id, token, Outcome.HEALED, "well again")
    assert store.read_incidents(node=incident.node, open_only=True) == []
    later, _ = opened(store)
    assert later.id != incident.id
    assert [found.id for found in store.read_incidents()] == [later.id, incident.id]
    assert [found.id for found in store.read_incidents(open_only=True)] == [later.id]
    assert store.read_incidents(node="kafka-1") == []


def test_the_journal_keeps_order_and_writes_a_key_once(store: Store) -> None:
    incident, token = opened(store)
    assert store.append_entry(incident.id, token, "confirm", "gone", {"verdict": "host_lost"}, key="confirm")
    assert not store.append_entry(incident.id, token, "confirm", "gone, said twice", key="confirm")
    assert store.append_entry(incident.id, token, "plan", "planned")
    entries = store.read_incident(incident.id).entries
    assert [(entry.step, entry.message, entry.data) for entry in entries] == [
        ("confirm", "gone", {"verdict": "host_lost"}),
        ("plan", "planned", {}),
    ]


def test_a_stale_token_writes_nothing(store: Store) -> None:
    incident, stale = opened(store)
    lapse(store, incident.node)
    store.acquire_lease(incident.node, "run-2", 60)
    writes: list[Callable[[], Any]] = [
        lambda: store.append_entry(incident.id, stale, "plan", "planned"),
        lambda: store.set_mark(incident.id, stale, "redundant_at"),
        lambda: store.close_incident(incident.id, stale, Outcome.HEALED, "well"),
        lambda: begin(store, incident, stale, Action.REBUILD),
        lambda: store.open_incident(
            incident.node, stale, role=Role.CASSANDRA, holder="run-1", first_failed_at=NOW, detected_at=NOW
        ),
    ]
    for write in writes:
        with pytest.raises(StaleTokenError):
            write()
    assert store.read_incident(incident.id) == incident


def test_marks_are_set_once_and_lead_to_durations(store: Store) -> None:
    incident, token = opened(store)
    redundant = NOW + timedelta(seconds=20)
    store.set_mark(incident.id, token, "t0", NOW - timedelta(seconds=5))
    store.set_mark(incident.id, token, "redundant_at", redundant)
    store.set_mark(incident.id, token, "redundant_at", NOW + timedelta(seconds=99))
    found = store.read_incident(incident.id)
    assert (found.redundant_at, found.repair_s, found.detect_s) == (redundant, 25.0, 4.0)
    assert Phase.DETECT in found.phases()


def test_closing_twice_is_once_and_another_outcome_is_refused(store: Store) -> None:
    incident, token = opened(store)
    closed = store.close_incident(incident.id, token, Outcome.HEALED, "well again")
    store.release_lease(incident.node, token)
    assert store.close_incident(incident.id, token, Outcome.HEALED, "said twice") == closed
    with pytest.raises(GuardRefused, match="closed as healed"):
        store.close_incident(incident.id, token, Outcome.FAILED, "no")


def test_an_unknown_incident_is_named(store: Store) -> None:
    with pytest.raises(KintsugiError, match="no incident kafka-9-x"):
        store.read_incident("kafka-9-x")


def test_journals_of_many_incidents_are_not_mixed_up(store: Store) -> None:
    for node in ("kafka-1", "cassandra-1"):
        incident, token = opened(store, node)
        store.append_entry(incident.id, token, "confirm", f"about {node}")
    assert [(found.node, found.entries[0].message) for found in store.read_incidents()] == [
        ("cassandra-1", "about cassandra-1"),
        ("kafka-1", "about kafka-1"),
    ]


# --- the one transaction before an act


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


# --- faults, flags, what is desired


def test_the_last_fault_before_a_moment_is_found(store: Store) -> None:
    early, late = NOW - timedelta(minutes=5), NOW
    for t0 in (early, late, late):
        store.record_fault("kafka-1", kind="power_off", t0=t0, run="night-1", mode="silent")
    assert len(store.read_faults()) == 2
    found = store.last_fault("kafka-1", before=NOW - timedelta(seconds=1))
    assert found is not None
    assert (found.t0, found.kind, found.mode, found.run) == (early, "power_off", "silent", "night-1")
    assert store.last_fault("kafka-1", before=NOW, after=NOW + timedelta(minutes=1)) is None
    assert store.last_fault("kafka-2", before=NOW) is None


def test_a_maintenance_flag_covers_its_node_or_the_fleet_until_it_ends(store: Store) -> None:
    store.set_maintenance("kafka-1", reason="upgrade", user="ada", until=NOW + timedelta(hours=1))
    assert [flag.reason for flag in store.read_maintenance("kafka-1")] == ["upgrade"]
    assert store.read_maintenance("kafka-2") == []
    store.set_maintenance("*", reason="moving house", user="bob")
    assert [flag.scope for flag in store.read_maintenance("kafka-2")] == ["*"]
    store.clear_maintenance("*")
    store.set_maintenance("kafka-1", reason="upgrade", user="ada", until=NOW - timedelta(seconds=1))
    assert store.read_maintenance("kafka-1") == []


def test_nobody_takes_back_what_another_said(store: Store) -> None:
    store.set_maintenance("kafka-1", reason="a roll-out restarts it", user="deploy_release/1")
    store.set_maintenance("kafka-1", reason="new disk", user="ann")
    store.set_maintenance("kafka-1", reason="a roll-out restarts it again", user="deploy_release/1")
    store.clear_maintenance("kafka-1", user="deploy_release/1")
    assert [(flag.user, flag.reason) for flag in store.read_maintenance("kafka-1")] == [("ann", "new disk")]
    store.clear_maintenance("kafka-1")
    assert store.read_maintenance("kafka-1") == []


def test_what_is_desired_changes_by_compare_and_set(store: Store) -> None:
    assert store.read_desired("stream_trades") is None
    first = store.set_desired("stream_trades", {"state": "running"}, expected=0)
    assert store.read_desired("stream_trades") == first
    second = store.set_desired("stream_trades", {"state": "stopped"}, expected=first.version)
    with pytest.raises(GuardRefused, match="changed by another"):
        store.set_desired("stream_trades", {"state": "running"}, expected=first.version)
    assert store.set_desired("stream_trades", 7).version == second.version + 1


def test_of_two_first_writers_one_wins(store: Store) -> None:
    results = at_once(*[lambda n=n: store.set_desired("stream_trades", n, expected=0) for n in range(4)])
    assert len([result for result in results if isinstance(result, GuardRefused)]) == 3


def test_a_refused_first_write_leaves_nothing(store: Store) -> None:
    with pytest.raises(GuardRefused):
        store.set_desired("stream_trades", 1, expected=5)
    assert store.read_desired("stream_trades") is None


# --- the database goes away


def test_a_dead_database_is_said_in_one_line_and_quickly(postgres: Any, store: Store) -> None:
    lease = store.acquire_lease("kafka-1", "run-1", 60)
    postgres.stop(signal.SIGQUIT)
    began = time.monotonic()
    with pytest.raises(StoreUnavailable) as caught:
        store.check_lease("kafka-1", lease.token)
    assert time.monotonic() - began < 5
    assert "\n" not in str(caught.value)
    postgres.start()
    store.check_lease("kafka-1", lease.token)  # nothing stale is kept, and the lease outlived the crash


def test_a_patient_store_waits_for_a_database_that_is_started_again(postgres: Any, store: Store) -> None:
    patient = Store(store._dsn, patience=Patience(late_s=60.0, away_s=60.0))
    lease = patient.acquire_lease("kafka-1", "run-1", 60)
    postgres.stop(signal.SIGQUIT)
    with ThreadPoolExecutor(1) as pool:
        checked = pool.submit(patient.check_lease, "kafka-1", lease.token)
        postgres.start()  # in this thread: the server dies with the one that starts it
        checked.result(60)


def test_what_was_asked_when_the_connection_broke_is_asked_again(store: Store) -> None:
    patient = Store(store._dsn, patience=Patience(late_s=60.0, away_s=60.0))
    incident, _ = opened(store)
    broken: list[int] = []

    class Breaks(Store):
        @contextmanager
        def transaction(self) -> Any:
            with super().transaction() as connection:
                if not broken:
                    broken.append(connection.info.backend_pid)
                    with store.transaction() as other:
                        other.execute("SELECT pg_terminate_backend(%s)", (broken[0],))
                yield connection

    breaks = Breaks(patient._dsn, patience=patient.patience)
    assert breaks.read_incident(incident.id).id == incident.id
    broken.clear()
    with pytest.raises(StoreUnavailable):
        Breaks(store._dsn).read_incident(incident.id)


def test_a_password_is_never_part_of_an_error() -> None:
    with pytest.raises(StoreUnavailable) as caught:
        Store("postgresql://kintsugi:hush-hush@127.34.0.1:1/kintsugi").migrate()
    assert "hush" not in str(caught.value)


# --- a closed incident


def test_no_act_is_allowed_for_an_incident_that_is_closed(store: Store) -> None:
    incident, token = opened(store)
    store.check_lease("cassandra-1", token, incident=incident.id)
    store.close_incident(incident.id, token, Outcome.HEALED, "it serves")
    with pytest.raises(IncidentClosed, match=incident.id):
        store.check_lease("cassandra-1", token, incident=incident.id)
    with pytest.raises(IncidentClosed):
        begin(store, incident, token, Action.REBUILD)
    assert store.pending_repairs() == {}


def test_a_task_cleared_long_after_its_run_does_not_even_take_the_lease(store: Store) -> None:
    incident, token = opened(store, holder="watch/1")
    store.close_incident(incident.id, token, Outcome.HEALED, "it serves")
    store.release_lease("cassandra-1", token)
    with pytest.raises(IncidentClosed):
        store.acquire_lease("cassandra-1", "watch/1", 60, fresh_token=True, incident=incident.id)
    assert store.read_lease("cassandra-1") is None
    assert store.acquire_lease("cassandra-1", "watch/2", 60).token == token + 1


# --- an attempt that is taken back


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
