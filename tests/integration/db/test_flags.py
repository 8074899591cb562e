"""Faults, maintenance flags and desired states against a real Postgres."""

from __future__ import annotations

from datetime import timedelta

import pytest

from kintsugi.core.dag_ids import REPLACE_DAG
from kintsugi.core.errors import GuardRefused
from kintsugi.db.store import Store
from tests.integration.db.store_steps import NOW, at_once, lapse


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


def test_the_flag_of_a_replacement_ends_with_its_lease(store: Store) -> None:
    run = f"{REPLACE_DAG}/manual__1"
    store.acquire_lease("kafka-1", run, 60)
    store.set_maintenance("kafka-1", reason="it is replaced", user=run, until=NOW + timedelta(hours=6))
    assert [flag.user for flag in store.read_maintenance("kafka-1")] == [run]
    lapse(store, "kafka-1")
    assert store.read_maintenance("kafka-1") == []
    store.acquire_lease("kafka-1", "watch_kafka-1/run-1", 60)
    assert store.read_maintenance("kafka-1") == []
    store.give_back("kafka-1", "watch_kafka-1/run-1")
    store.acquire_lease("kafka-1", run, 60)  # its cleared task goes on
    assert [flag.user for flag in store.read_maintenance("kafka-1")] == [run]
