"""After a restore the database says nothing about the present that a recovery could act upon."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from kintsugi.chaos.switch import resume_chaos, stop_reason
from kintsugi.core.errors import StaleTokenError
from kintsugi.core.fleet import Role
from kintsugi.core.incident import Action, Incident, Outcome
from kintsugi.db.outbox import MessageKind, Outbox
from kintsugi.db.restored_facts import RestoredFacts
from kintsugi.db.store import Store
from kintsugi.recovery.sweep_rules import is_abandoned

NODE, RUN = "cassandra-1", "watch_cassandra-1/run-1"
BACKUP = "20261129T030000.000Z"


def under_repair(store: Store) -> tuple[Incident, int]:
    """An incident in the middle of its second attempt: its node and volume are being rebuilt."""
    now = datetime.now(UTC)
    token = store.acquire_lease(NODE, RUN, 3600).token
    incident = store.open_incident(
        NODE, token, role=Role.CASSANDRA, holder=RUN, first_failed_at=now, detected_at=now
    )
    for key, action in (("one", Action.RESTART), ("two", Action.REBUILD)):
        store.begin_attempt(incident.id, token, action, key=key, reason="down", refusals=lambda _: ())
    store.set_mark(incident.id, token, "redundant_at")
    return store.read_incident(incident.id), token


def correct(store: Store) -> list[str]:
    return RestoredFacts(store._dsn).correct_facts(BACKUP)


def test_a_late_process_of_before_is_refused_and_anybody_can_take_the_lease(store: Store) -> None:
    incident, token = under_repair(store)
    correct(store)
    with pytest.raises(StaleTokenError):
        store.append_entry(incident.id, token, "fence", "too late")
    with pytest.raises(StaleTokenError):
        store.renew_lease(NODE, token, 60)
    assert store.acquire_lease(NODE, "watch_cassandra-1/run-2", 60).token > token + 1000


def test_an_open_incident_is_judged_again_from_the_first_escalation_step(store: Store) -> None:
    incident, _ = under_repair(store)
    assert incident.attempts() == [Action.RESTART, Action.REBUILD]
    assert correct(store) == [incident.id]
    after = store.read_incident(incident.id)
    assert (after.attempts(), after.closed_at, after.redundant_at) == ([], None, None)
    budget = store.repair_budget(incident.id)
    assert budget.repairs_of_node == 2
    assert set(store.pending_repairs()) == {NODE}
    ended, now = after.runs(), datetime.now(UTC)
    assert not is_abandoned(after, ended=ended, lease_holder=None, sweeps=0, now=now)  # 45 s later it is
    assert RUN in ended


def test_a_closed_incident_stays_as_it_was(store: Store) -> None:
    incident, token = under_repair(store)
    store.close_incident(incident.id, token, Outcome.HEALED, "it serves")
    before = store.read_incident(incident.id)
    assert correct(store) == []
    assert store.read_incident(incident.id) == before


def test_a_roll_out_under_way_is_stopped_and_nodes_keep_their_release(store: Store) -> None:
    digest = "a" * 64
    store.add_release(digest, "test")
    store.set_node_releases([NODE], digest)
    store.open_deployment("roll-out", digest, None)
    correct(store)
    assert store.read_deployment("roll-out").state == "stopped"
    assert store.node_releases()[NODE].digest == digest


def test_old_requests_for_a_recovery_are_given_up_and_pages_are_delivered(store: Store) -> None:
    outbox = Outbox(store._dsn)
    outbox.add_message("recovery", MessageKind.RECOVERY, {})
    outbox.add_message("page", MessageKind.PAGE, {})
    correct(store)
    assert outbox.find_due_kinds() == {MessageKind.PAGE}


def test_fault_injection_is_stopped(store: Store) -> None:
    resume_chaos(store, user="ana")
    correct(store)
    assert BACKUP in (stop_reason(store) or "")


def test_it_may_be_repeated(store: Store) -> None:
    incident, _ = under_repair(store)
    correct(store)
    entries = store.read_incident(incident.id).entries
    assert correct(store) == [incident.id]
    assert store.read_incident(incident.id).entries == entries
