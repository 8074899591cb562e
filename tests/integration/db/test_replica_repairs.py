"""What is on record of comparisons of replicas: the last that was whole, and the newest that failed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from kintsugi.db.dashboard import Listing
from kintsugi.db.replica_repairs import ReplicaRepair
from kintsugi.db.store import Store


def test_the_last_whole_one_is_kept_in_sight_whatever_came_after(store: Store) -> None:
    before = datetime.now(UTC)
    store.end_comparison(store.begin_comparison("cassandra-1", "night/1"), 4)
    whole = store.replica_repairs()["cassandra-1"]
    assert whole.whole_at is not None
    assert timedelta(0) <= whole.whole_at - before < timedelta(minutes=1)
    assert (whole.differed, whole.failed_at, whole.failure) == (4, None, None)

    store.begin_comparison("cassandra-1", "night/2")  # broken off with its process, or under way
    assert store.replica_repairs()["cassandra-1"] == whole

    store.end_comparison(store.begin_comparison("cassandra-1", "night/3"), failure="no room")
    failed = store.replica_repairs()["cassandra-1"]
    assert (failed.whole_at, failed.differed, failed.failure) == (whole.whole_at, 4, "no room")
    assert failed.failed_at is not None

    store.end_comparison(store.begin_comparison("cassandra-1", "night/4"), 0)
    again = store.replica_repairs()["cassandra-1"]
    assert again.whole_at is not None
    assert again.whole_at > whole.whole_at
    assert (again.differed, again.failure) == (0, None)


def test_nodes_are_told_apart_and_the_page_sees_the_same(store: Store) -> None:
    assert store.replica_repairs() == {}
    store.end_comparison(store.begin_comparison("cassandra-1", "night/1"), 0)
    store.end_comparison(store.begin_comparison("cassandra-2", "night/1"), failure="away")
    found = store.replica_repairs()
    assert set(found) == {"cassandra-1", "cassandra-2"}
    assert (found["cassandra-2"].whole_at, found["cassandra-2"].failure) == (None, "away")
    assert Listing(store._dsn).read_summary().replica_repairs == found
    assert ReplicaRepair().to_json() == {
        "whole_at": None,
        "differed": None,
        "failed_at": None,
        "failure": None,
    }
