from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kintsugi.chaos.victim_choice import pick_victims, seed_of, shuffle_nodes
from kintsugi.core.errors import GuardRefused
from kintsugi.core.fleet import REPOSITORY, load_fleet

NODES = list(load_fleet(REPOSITORY / "fleet.yaml"))
seeds = st.integers(0, 2**63)


def test_a_logged_seed_picks_the_same_node_for_ever() -> None:
    assert [pick_victims(seed, NODES).name for seed in range(5)] == [
        "cassandra-2",
        "spark-master-1",
        "kafka-2",
        "cassandra-2",
        "kafka-1",
    ]
    assert seed_of("chaos_nightly/2026-08-01") == 2596749488341671078


@given(seeds, st.permutations(NODES))
def test_the_order_of_the_fleet_file_does_not_matter(seed: int, shuffled: list) -> None:  # type: ignore[type-arg]
    assert pick_victims(seed, shuffled) == pick_victims(seed, NODES)
    assert shuffle_nodes(seed, shuffled) == shuffle_nodes(seed, NODES)


@given(seeds)
def test_a_round_hits_every_node_once(seed: int) -> None:
    assert sorted(node.name for node in shuffle_nodes(seed, NODES)) == sorted(node.name for node in NODES)


@given(seeds, st.sets(st.sampled_from([node.name for node in NODES]), max_size=8))
def test_who_was_hit_recently_is_spared(seed: int, recent: set[str]) -> None:
    assert pick_victims(seed, NODES, recent).name not in recent


@given(seeds)
def test_sparing_another_node_does_not_change_the_choice(seed: int) -> None:
    first, second, *_ = shuffle_nodes(seed, NODES)
    assert pick_victims(seed, NODES, {second.name}) == first
    assert pick_victims(seed, [node for node in NODES if node != second]) == first
    assert pick_victims(seed, NODES, {first.name}) == second


@given(seeds)
def test_when_all_were_hit_all_are_candidates_again(seed: int) -> None:
    assert pick_victims(seed, NODES, {node.name for node in NODES}) == pick_victims(seed, NODES)


def test_without_candidates_chaos_is_refused() -> None:
    with pytest.raises(GuardRefused, match="no node that chaos may break"):
        pick_victims(1, [])


def test_every_node_has_its_turn_about_as_often() -> None:
    hits = Counter(pick_victims(seed, NODES).name for seed in range(1800))
    assert len(hits) == len(NODES)
    assert all(140 < count < 260 for count in hits.values())


@given(st.text())
def test_a_seed_is_a_number_that_a_form_can_carry(text: str) -> None:
    assert 0 <= seed_of(text) < 2**63
