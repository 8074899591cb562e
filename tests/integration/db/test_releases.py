"""Releases, deployments and drift in a real Postgres."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from kintsugi.core.errors import GuardRefused, KintsugiError
from kintsugi.core.rollout_state import NodeState
from kintsugi.db.store import Store
from kintsugi.releases import assignment
from kintsugi.releases.assignment import has_unproven_release, recorded_release

A, B, C = ("a" * 64, "b" * 64, "c" * 64)


@pytest.fixture
def known(store: Store) -> Store:
    """A store that knows three releases, of which the first is known-good and on every node."""
    for digest in (A, B, C):
        store.add_release(digest, "test")
    store.mark_known_good(A)
    store.set_node_releases(["kafka-1", "kafka-2"], A)
    return store


def test_a_release_is_put_on_record_once(store: Store) -> None:
    assert store.add_release(A, "first")
    assert not store.add_release(A, "second")
    assert store.release_record(A[:6]).origin == "first"


def test_a_prefix_must_name_one_release(known: Store) -> None:
    known.add_release("a1" + "0" * 62, "test")
    with pytest.raises(KintsugiError, match="more than one release begins with 'a'"):
        known.release_record("a")
    with pytest.raises(KintsugiError, match="no release begins with 'f'"):
        known.release_record("f")


def test_the_last_known_good_is_the_one_that_held_last(known: Store) -> None:
    known.mark_known_good(B)
    good = known.last_known_good()
    assert good is not None
    assert good.digest == B
    known.mark_known_good(A)  # somebody went back to it, and it held again
    good = known.last_known_good()
    assert good is not None
    assert good.digest == A


def test_a_bad_release_is_told_and_one_that_was_proven_stays_good(known: Store) -> None:
    assert known.mark_bad(B, "its listener is wrong")
    assert known.release_record(B).verdict == "bad"
    assert not known.mark_bad(A, "the machine was too slow")
    assert known.release_record(A).verdict == "known-good"
    known.mark_known_good(B)  # tried again, and it held
    assert known.release_record(B).bad_reason is None


@pytest.fixture(autouse=True)
def _every_release_has_every_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assignment, "_declares", lambda *_: True)


def digest_to_configure_from(store: Store, node: str, *, roll_back: bool = False) -> str | None:
    context: Any = SimpleNamespace(store=store)
    return assignment.digest_to_configure_from(context, node, roll_back=roll_back)


def test_what_recovery_asks(known: Store) -> None:
    assert recorded_release(known, "kafka-3") is None
    assert digest_to_configure_from(known, "kafka-3") == A  # nobody knows what it ran: what is proven then
    assert not has_unproven_release(known, "kafka-1")
    known.set_node_releases(["kafka-1"], B)
    assert has_unproven_release(known, "kafka-1")
    assert digest_to_configure_from(known, "kafka-1") == B
    assert digest_to_configure_from(known, "kafka-1", roll_back=True) == A
    known.mark_bad(B, "its listener is wrong")
    assert digest_to_configure_from(known, "kafka-1") == A


def test_without_a_known_good_release_nothing_is_suspicious(store: Store) -> None:
    store.add_release(A, "test")
    assert digest_to_configure_from(store, "kafka-1", roll_back=True) is None
    store.set_node_releases(["kafka-1"], A)
    assert not has_unproven_release(store, "kafka-1")
    assert digest_to_configure_from(store, "kafka-1", roll_back=True) == A


def test_one_roll_out_at_a_time(known: Store) -> None:
    known.open_deployment("run-1", B, A)
    with pytest.raises(GuardRefused, match="run-1 is still running"):
        known.open_deployment("run-2", C, A)
    known.end_deployment("run-1", "returned", "bad")
    assert known.open_deployment("run-2", C, A).state == "running"


def test_a_deployment_that_is_opened_again_goes_on_as_it_began(known: Store) -> None:
    known.open_deployment("run-1", B, A)
    known.mark_known_good(C)
    assert known.open_deployment("run-1", B, C).back_to == A


def test_a_plan_made_again_forgets_nothing(known: Store) -> None:
    known.open_deployment("run-1", B, A)
    known.plan_deployment("run-1", {"kafka-1": ["/etc/x"], "kafka-2": []})
    known.set_deployment_node("run-1", "kafka-1", NodeState.TOUCHED, "touched")
    again = known.plan_deployment("run-1", {"kafka-1": [], "kafka-2": []})
    assert [(step.node, step.changes, step.state) for step in again.steps] == [
        ("kafka-1", ("/etc/x",), NodeState.TOUCHED),
        ("kafka-2", (), NodeState.WAITING),
    ]


def test_only_the_first_bad_probe_is_told(known: Store) -> None:
    known.open_deployment("run-1", B, A)
    known.break_deployment("run-1", "the first")
    known.break_deployment("run-1", "the second")
    found = known.read_deployment("run-1")
    assert found.broken == "the first"
    assert [entry.message for entry in found.entries] == ["the roll-back begins: the first"]


def test_an_ended_deployment_stays_as_it_ended(known: Store) -> None:
    known.open_deployment("run-1", B, A)
    known.end_deployment("run-1", "returned", "bad")
    assert known.end_deployment("run-1", "held", "no, good").state == "returned"


def test_drift_is_told_once_and_over_when_it_is_gone(known: Store) -> None:
    assert known.record_drift("kafka-1", A, ["/etc/x", "/etc/y"]) == ["/etc/x", "/etc/y"]
    assert known.record_drift("kafka-1", A, ["/etc/x", "/etc/y"]) == []
    assert known.record_drift("kafka-1", A, ["/etc/y", "/etc/z"]) == ["/etc/z"]
    assert known.read_drift() == {"kafka-1": ["/etc/y", "/etc/z"]}
    assert known.record_drift("kafka-1", A, [], put_right=True) == []
    assert known.read_drift() == {}
    assert known.record_drift("kafka-1", A, ["/etc/x"]) == ["/etc/x"]  # once more is news again
