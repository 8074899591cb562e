"""Replicas are spread evenly, with few moves, and the result is stable."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kintsugi.scaling.partition_moves import Assignment, Brokers, moves, target_assignment

PRESENT: Assignment = {("trades", n): (n % 3 + 1, (n + 1) % 3 + 1, (n + 2) % 3 + 1) for n in range(6)}


def brokers(*ids: int, zones: str = "") -> Brokers:
    return Brokers(dict(zip(ids, zones or [None] * len(ids), strict=True)))


def loads(target: Assignment) -> Counter[int]:
    return Counter(broker for replicas in target.values() for broker in replicas)


def test_a_balanced_cluster_moves_nothing() -> None:
    assert moves(PRESENT, brokers(1, 2, 3)) == {}


def test_a_new_broker_gets_its_share_and_no_more_than_that_moves() -> None:
    target = target_assignment(PRESENT, brokers(1, 2, 3, 4))
    assert sorted(loads(target).values()) == [4, 4, 5, 5]
    arrived = sum(1 for partition in PRESENT for one in target[partition] if one not in PRESENT[partition])
    assert arrived == loads(target)[4]
    assert set(Counter(replicas[0] for replicas in target.values()).values()) <= {1, 2}


def test_a_broker_that_leaves_keeps_nothing() -> None:
    grown = target_assignment(PRESENT, brokers(1, 2, 3, 4))
    for gone in (1, 2, 3, 4):
        target = target_assignment(grown, brokers(*{1, 2, 3, 4} - {gone}))
        assert gone not in loads(target)
        assert all(len(set(replicas)) == 3 for replicas in target.values())


def test_more_replicas_than_brokers_is_an_error() -> None:
    with pytest.raises(ValueError, match="replicas"):
        target_assignment(PRESENT, brokers(1, 2))


def test_a_pinned_topic_only_leaves_brokers_that_go() -> None:
    present = {**PRESENT, ("verify", 0): (1, 2, 3), ("verify", 1): (1, 2, 4)}
    target = target_assignment(present, brokers(1, 2, 3, 5), pinned=["verify"])
    assert target["verify", 0] == (1, 2, 3)
    assert target["verify", 1] in ((1, 2, 3), (1, 2, 5))


def test_each_replica_keeps_a_rack_of_its_own() -> None:
    present = {("t", n): (1, 2, 3) for n in range(8)}
    target = target_assignment(present, brokers(1, 2, 3, 4, zones="abca"))
    zone = {1: "a", 2: "b", 3: "c", 4: "a"}
    assert all(len({zone[one] for one in replicas}) == 3 for replicas in target.values())
    assert loads(target)[4] == 4


@given(
    st.lists(st.permutations([1, 2, 3, 4]).map(lambda order: tuple(order[:3])), min_size=1, max_size=20),
    st.sets(st.integers(1, 6), min_size=3),
)
def test_what_is_reached_stays_and_is_even(present: list[tuple[int, ...]], ids: set[int]) -> None:
    start = {("t", number): replicas for number, replicas in enumerate(present)}
    target = target_assignment(start, brokers(*ids))
    assert moves(target, brokers(*ids)) == {}
    counts = [loads(target)[one] for one in ids]
    assert sum(counts) == 3 * len(present)
    assert max(counts) - min(counts) <= 1
    assert all(len(set(replicas)) == 3 and set(replicas) <= ids for replicas in target.values())
