"""When `make false-positive-test` pauses which node, and what it takes for a repair."""

from __future__ import annotations

from itertools import islice

from benchmarks.false_positive_test import EVERY_S, PAUSES_S, plan_pauses, select_repairs
from kintsugi.core.fleet import load_fleet
from kintsugi.core.incident import Outcome
from tests.fixtures_incidents import healed, refused

FLEET = load_fleet()


def test_the_same_seed_pauses_the_same_nodes_for_as_long() -> None:
    first = list(islice(plan_pauses(FLEET, 7), 50))
    assert first == list(islice(plan_pauses(FLEET, 7), 50))
    assert first != list(islice(plan_pauses(FLEET, 8), 50))


def test_every_node_gets_its_turn_and_no_pause_is_longer_than_five_seconds() -> None:
    hour = list(islice(plan_pauses(FLEET, 7), 180))
    assert {pause.node for pause in hour} == set(FLEET.nodes)
    assert all(PAUSES_S[0] <= pause.seconds <= 5.0 for pause in hour)
    assert [pause.at_s for pause in hour[:3]] == [EVERY_S, 2 * EVERY_S, 3 * EVERY_S]


def test_a_false_alarm_and_a_refusal_are_no_repairs() -> None:
    seen = healed("cassandra-1")
    alarm = healed("cassandra-1", outcome=Outcome.FALSE_ALARM, entries=seen.entries[:2])
    assert select_repairs([alarm, refused("kafka-1"), healed("kafka-2")]) == [healed("kafka-2")]
