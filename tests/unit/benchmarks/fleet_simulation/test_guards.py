"""The world around the guards: what the simulation counts as a kill of a live node, and when a node is asked about."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from benchmarks.fleet_simulation import guards
from benchmarks.fleet_simulation.guards import (
    SCENARIOS,
    Failure,
    Simulation,
    most_in_a_window,
    simulate_scenario,
)
from benchmarks.fleet_simulation.simulated_fleet import simulated_fleet
from kintsugi.core.fleet import Fleet, Role
from kintsugi.core.observation import ProbeResult
from kintsugi.recovery.diagnosis import FailureMode
from kintsugi.recovery.guard_model import GuardResult

FLEET = simulated_fleet(30, mutual_tls=False)


def hung(fleet: Fleet, name: str, at_s: float = 0.0, returns_s: float | None = None) -> Failure:
    return Failure(
        fleet.node(name), at_s, FailureMode.HUNG, ProbeResult.TIMEOUT, running=True, returns_s=returns_s
    )


@pytest.mark.parametrize("name", SCENARIOS)
def test_no_live_node_is_killed_and_the_budget_holds(name: str) -> None:
    figures = simulate_scenario(name, FLEET, seed=7)
    assert figures["failed"] == figures["allowed"] + figures["returned"] > 0
    assert figures["live_kills"] == 0
    assert figures["most_in_an_hour"] <= figures["budget_an_hour"]


def test_the_same_seed_gives_the_same_failures() -> None:
    scenario = SCENARIOS["independent"]
    first, again, other = (scenario(FLEET, random.Random(seed)) for seed in (7, 7, 8))
    assert first == again != other


def test_a_guard_that_allows_all_is_caught_in_a_stall(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guards, "evaluate_action", lambda action, facts: GuardResult(True))
    failure = hung(FLEET, "kafka-1", returns_s=10.0)  # it answers again when it is judged, after 11 s
    simulation = Simulation(FLEET, [failure, replace(failure, node=FLEET.node("kafka-2"), returns_s=20.0)])
    simulation.run()
    assert simulation.live_kills == ["kafka-1"]
    assert simulation.killed_in_a_stall == ["kafka-2"]


def test_nodes_that_hang_together_are_recovered_one_after_another() -> None:
    together = Simulation(FLEET, [hung(FLEET, f"kafka-{number}") for number in (1, 2, 3)])
    together.run()
    first, second, third = sorted(together.allowed_s.values())
    assert first == pytest.approx(45, abs=1)
    assert second - first == pytest.approx(60, abs=1)
    assert third - second == pytest.approx(60, abs=1)
    assert together.most_at_once == 1


def test_a_zone_without_power_waits_for_nothing_but_the_budget() -> None:
    figures = simulate_scenario("zone_power", simulated_fleet(120, mutual_tls=False), seed=7)
    above_budget = figures["failed"] - figures["budget_an_hour"]
    assert above_budget > 0
    assert figures["wait_s"]["p50"] == 5.0
    assert figures["asked_a_person"] == above_budget
    assert figures["refused_by"].keys() == {"budget"}


def test_the_fullest_hour_is_counted() -> None:
    assert most_in_a_window([], 10) == 0
    assert most_in_a_window([0, 1, 9, 10, 25], 10) == 3


def test_a_simulated_fleet_has_one_master_and_three_zones() -> None:
    roles = [node.role for node in FLEET]
    assert (roles.count(Role.KAFKA), roles.count(Role.CASSANDRA), roles.count(Role.SPARK_MASTER)) == (
        10,
        10,
        1,
    )
    assert {node.zone for node in FLEET.of(Role.KAFKA)} == {"a", "b", "c"}
