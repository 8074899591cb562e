"""Which rows a Cassandra node must hold itself: with more nodes than copies not every row."""

from __future__ import annotations

import itertools

import pytest

from kintsugi.core.errors import StepFailed
from kintsugi.operations.verification_cassandra import FIRST_TOKEN, LAST_TOKEN, choose_key, primary_ranges


@pytest.mark.parametrize(
    ("own", "others", "expected"),
    [
        ([0], [-100, 100], [(-100, 0)]),
        ([-100], [0, 100], [(FIRST_TOKEN, -100), (100, LAST_TOKEN)]),
        ([100], [-100, 0], [(0, 100)]),
        ([-50, 50], [0], [(FIRST_TOKEN, -50), (0, 50), (50, LAST_TOKEN)]),
        ([0], [], [(FIRST_TOKEN, 0), (0, LAST_TOKEN)]),
        ([], [0], []),
    ],
)
def test_a_node_owns_what_lies_between_the_token_before_and_its_own(
    own: list[int], others: list[int], expected: list[tuple[int, int]]
) -> None:
    assert primary_ranges(own, others) == expected


def test_the_ranges_of_all_nodes_are_the_whole_ring() -> None:
    tokens = {"a": [-(2**62), 5], "b": [-7, 2**61], "c": [0]}
    ranges = sorted(
        one
        for name, own in tokens.items()
        for one in primary_ranges(own, [t for other, ts in tokens.items() if other != name for t in ts])
    )
    assert ranges[0][0] == FIRST_TOKEN
    assert ranges[-1][1] == LAST_TOKEN
    assert all(before[1] == after[0] for before, after in itertools.pairwise(ranges))


def test_a_key_lies_in_the_ranges_and_begins_with_the_name() -> None:
    from cassandra.metadata import Murmur3Token

    ranges = [(0, 2**61)]
    key = choose_key("cassandra-4", ranges)
    assert key.startswith("cassandra-4")
    assert 0 < Murmur3Token.hash_fn(key.encode()) <= 2**61


def test_a_node_without_a_range_is_not_verified() -> None:
    with pytest.raises(StepFailed):
        choose_key("cassandra-4", [])
