"""Incidents and their journals against a real Postgres: one open incident a node, fenced writes, marks."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest

from kintsugi.core.errors import GuardRefused, IncidentClosed, KintsugiError, StaleTokenError
from kintsugi.core.fleet import Role
from kintsugi.core.incident import Action, Outcome, Phase
from kintsugi.db.store import Store
from tests.integration.db.store_steps import NOW, begin, lapse, opened


def test_a_second_recoverer_continues_the_open_incident(store: Store) -> None:
    incident, _ = opened(store, holder="run-1")
    lapse(store, incident.node)
    continued, _ = opened(store, holder="run-2")
    assert continued.id == incident.id
    assert continued.holder == "run-2"
    assert len(store.read_incidents()) == 1


def test_all_open_incidents_are_read_and_those_that_ended_lately(store: Store) -> None:
    old, token = opened(store, "cassandra-1")
    ended, ended_token = opened(store, "cassandra-2")
    newest = [opened(store, f"kafka-{number}")[0] for number in (1, 2)]
    store.close_incident(ended.id, ended_token, Outcome.HEALED, "it serves")
    closed_at = store.read_incident(ended.id).closed_at
    assert closed_at is not None
    everyone = [one.id for one in (*reversed(newest), ended, old)]
    assert [one.id for one in store.read_incidents(None)] == everyone
    assert [one.id for one in store.read_current_incidents(closed_at)] == everyone
    later = closed_at + timedelta(seconds=1)
    assert [one.id for one in store.read_current_incidents(later)] == [*everyone[:2], old.id]
    store.close_incident(old.id, token, Outcome.HEALED, "it serves")
    later = NOW + timedelta(hours=1)
    assert [one.id for one in store.read_current_incidents(later)] == everyone[:2]
    assert [one.id for one in store.read_current_incidents(later, newest=3)] == everyone[:3]


def test_failures_at_one_time_are_found_by_role_however_many_followed(store: Store) -> None:
    failed, _ = opened(store, "cassandra-1")
    opened(store, "kafka-1")
    at, second = failed.first_failed_at, timedelta(seconds=1)

    def found(start: datetime, end: datetime) -> list[str]:
        return [one.id for one in store.read_failures_between(start, end, role=Role.CASSANDRA)]

    assert found(at - second, at + second) == [failed.id]
    assert found(at, at + second) == found(at - second, at) == []


def test_a_closed_incident_is_not_continued(store: Store) -> None:
    incident, token = opened(store)
    store.close_incident(incident.id, token, Outcome.HEALED, "well again")
    assert store.read_incidents(node=incident.node, open_only=True) == []
    later, _ = opened(store)
    assert later.id != incident.id
    assert [found.id for found in store.read_incidents()] == [later.id, incident.id]
    assert [found.id for found in store.read_incidents(open_only=True)] == [later.id]
    assert store.read_incidents(node="kafka-1") == []


def test_every_open_incident_counts_in_the_first_failures(store: Store) -> None:
    names = [f"kafka-{number}" for number in range(1, 61)]
    for number, name in enumerate(names):
        lease = store.acquire_lease(name, "run-1", 60)
        store.open_incident(
            name,
            lease.token,
            role=Role.KAFKA,
            holder="run-1",
            first_failed_at=NOW + timedelta(seconds=number),
            detected_at=NOW + timedelta(minutes=2),
        )
    (incident,) = store.read_incidents(node="kafka-1")
    store.close_incident(
        incident.id, store.acquire_lease("kafka-1", "run-1", 60).token, Outcome.HEALED, "well"
    )
    expected = {name: NOW + timedelta(seconds=number) for number, name in enumerate(names) if number}
    assert store.first_failures() == expected


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
