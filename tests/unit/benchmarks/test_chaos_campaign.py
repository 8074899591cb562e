"""The plan of a campaign, its figures, and that it goes on where it was ended."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import chaos_campaign
from benchmarks.chaos_campaign import (
    GIVEN_UP_AFTER,
    can_be_paired,
    can_run_together,
    has_passed,
    plan_injections,
    summarize_injections,
)
from benchmarks.fault_matrix import SCENARIOS
from benchmarks.scenario_report import NOT_BEGUN, Row, empty_row
from benchmarks.scenarios import Scenario
from kintsugi.chaos.switch import ChaosStopped
from kintsugi.core.errors import StepFailed
from kintsugi.core.fleet import load_fleet
from kintsugi.operations.context import Context
from tests.installations import installation

FLEET = load_fleet()


def by_name(name: str) -> Scenario:
    return next(scenario for scenario in SCENARIOS if scenario.name == name)


# --- the plan ---------------------------------------------------------------------------------------------


def test_a_hundred_injections_have_every_scenario_and_a_quarter_of_them_two() -> None:
    planned = plan_injections(SCENARIOS, FLEET, seed=7)
    assert [one.number for one in planned] == list(range(1, 101))
    assert sum(len(one.scenarios) == 2 for one in planned) == 25
    assert {scenario.name for one in planned for scenario in one.scenarios} == {
        scenario.name for scenario in SCENARIOS
    }


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 150))
def test_any_plan_pairs_only_what_goes_together_and_repeats_nothing_early(seed: int, count: int) -> None:
    planned = plan_injections(SCENARIOS, FLEET, seed, count)
    assert len(planned) == count
    assert planned == plan_injections(SCENARIOS, FLEET, seed, count)
    times = Counter(scenario.name for one in planned for scenario in one.scenarios)
    if sum(times.values()) <= len(SCENARIOS):
        assert set(times.values()) == {1}
    for one in planned:
        nodes = [name for scenario in one.scenarios for name in scenario.nodes]
        assert len(nodes) == len(set(nodes))
        if len(one.scenarios) == 2:
            assert can_run_together(*one.scenarios, FLEET)
            assert not any(scenario.waives for scenario in one.scenarios)


def test_another_seed_gives_another_order() -> None:
    assert plan_injections(SCENARIOS, FLEET, 1) != plan_injections(SCENARIOS, FLEET, 2)


def test_what_concerns_one_cluster_or_the_control_plane_is_made_alone() -> None:
    broker, node = by_name("power_off:kafka-1"), by_name("hung:cassandra-1")
    master, worker = by_name("hung:spark-master-1"), by_name("hung:spark-worker-1")
    assert can_run_together(broker, node, FLEET)
    assert not can_run_together(broker, by_name("hung:kafka-1"), FLEET)
    assert not can_run_together(broker, by_name("paused:kafka-2"), FLEET), "a cluster can spare one node"
    assert not can_run_together(master, worker, FLEET), "a worker registers with the master"
    for alone in ("s3_hangs:kafka-2", "crash_loop:spark-worker-1", "volume_lost_twice:kafka-1"):
        assert not can_be_paired(by_name(alone))
    assert not any(can_be_paired(scenario) for scenario in SCENARIOS if len(scenario.nodes) > 1)


# --- the figures ------------------------------------------------------------------------------------------


def good(scenario: Scenario, **changes: Any) -> Row:
    row = {
        **empty_row(scenario),
        "outcome": "as designed",
        "as_designed": True,
        "healed": True,
        "live_kills": [],
    }
    return {**row, "lost": 0, "doubled": 0, **changes}


def injected(*rows: Row, not_begun: bool = False) -> dict[str, Any]:
    return {"not_begun": not_begun, "cells": list(rows), "number": 1, "name": "x"}


KAFKA, CASSANDRA = by_name("power_off:kafka-1"), by_name("hung:cassandra-1")


def test_a_campaign_without_a_fault_has_passed() -> None:
    figures = summarize_injections([injected(good(KAFKA), good(CASSANDRA))], [KAFKA, CASSANDRA])
    assert has_passed(figures)
    assert (figures["injections"], figures["faults"], figures["two_at_once"]) == (1, 2, 1)
    assert figures["cells_missing"] == []


@pytest.mark.parametrize(
    ("changes", "name", "value"),
    [
        ({"live_kills": ["kafka-1: killed"]}, "live_nodes_killed", 1),
        ({"healed": False}, "unrecovered", 1),
        ({"open": ["kafka-1-1"]}, "incidents_left_open", 1),
        ({"lost": 3}, "lost", 3),
        ({"doubled": 2}, "doubled", 2),
        (
            {"as_designed": False, "outcome": "a person was paged"},
            "not_as_designed",
            ["power_off:kafka-1: a person was paged"],
        ),
    ],
)
def test_each_bar_is_counted_and_fails_the_campaign(changes: dict[str, Any], name: str, value: Any) -> None:
    figures = summarize_injections([injected(good(KAFKA, **changes))], [KAFKA])
    assert figures[name] == value
    assert not has_passed(figures)


def test_what_both_scenarios_of_an_injection_name_is_counted_once() -> None:
    both = {"live_kills": ["spark-master-1: killed"], "lost": 5, "open": ["x"]}
    figures = summarize_injections([injected(good(KAFKA, **both), good(CASSANDRA, **both))], [])
    assert (figures["live_nodes_killed"], figures["lost"], figures["incidents_left_open"]) == (1, 5, 1)


def test_what_was_not_measured_is_not_called_none() -> None:
    assert summarize_injections([injected(good(KAFKA, live_kills=None))], [])["live_nodes_killed"] is None
    assert not has_passed(summarize_injections([injected(good(KAFKA), not_begun=True)], []))


# --- a run ------------------------------------------------------------------------------------------------


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A campaign whose scenarios do nothing; ``ran`` has what was run, ``outcome`` says how."""
    stage = SimpleNamespace(
        ran=[], outcome=lambda scenarios: [good(scenario) for scenario in scenarios], path=tmp_path / "c.json"
    )

    def run_scenarios(_: Any, scenarios: Sequence[Scenario], *__: Any) -> list[Row]:
        stage.ran.append([scenario.name for scenario in scenarios])
        rows: list[Row] = stage.outcome(scenarios)
        return rows

    counted = {"lost": 0, "doubled": 0, "wrong_derived": 0, "stored": 1}
    made = installation(tmp_path, "127.95")
    context = SimpleNamespace(fleet=FLEET, settings=made)
    monkeypatch.setattr(chaos_campaign, "run_scenarios", run_scenarios)
    monkeypatch.setattr(Context, "from_environment", lambda: context)
    monkeypatch.setattr(chaos_campaign, "unpause_dags", lambda _: None)
    monkeypatch.setattr(
        chaos_campaign, "find_unavailable_faults", lambda _: {"slow_disk": "no control group"}
    )
    monkeypatch.setattr(chaos_campaign, "raised_repair_budget", lambda _: nullcontext())
    monkeypatch.setattr(chaos_campaign, "run_recorder", lambda *_: nullcontext())
    monkeypatch.setattr("benchmarks.chaos_campaign.summarize_report", lambda _: counted)
    monkeypatch.setattr("benchmarks.chaos_campaign.reconcile_when_quiet", lambda *_, **__: None)
    stage.run = lambda **more: chaos_campaign.run_campaign(
        made, report=stage.path, **{"injections": 8, **more}
    )
    stage.report = lambda: json.loads(stage.path.read_text())
    return stage


def test_a_campaign_runs_its_plan_and_leaves_out_what_cannot_be_made(stage: Any) -> None:
    assert stage.run(seed=5) == 0
    report = stage.report()
    assert report["finished"]
    assert len(stage.ran) == 8
    assert report["not_run"] == {"slow_disk": "no control group"}
    assert not any("slow_disk" in name for names in stage.ran for name in names)
    assert [row["name"] for row in report["injections"]] == report["planned"]


def test_an_ended_campaign_goes_on_after_the_injection_that_it_was_ended_in(stage: Any) -> None:
    def ends_at_the_fourth(scenarios: Sequence[Scenario]) -> list[Row]:
        if len(stage.ran) == 4:
            raise ChaosStopped("a person stopped it")
        return [good(scenario) for scenario in scenarios]

    stage.outcome = ends_at_the_fourth
    with pytest.raises(ChaosStopped):
        stage.run(seed=5)
    planned = stage.report()["planned"]
    assert not stage.report()["finished"]
    assert len(stage.report()["injections"]) == 3
    stage.ran.clear()
    stage.outcome = lambda scenarios: [good(scenario) for scenario in scenarios]
    assert stage.run() == 0, "without a seed: that of the ended one"
    assert stage.report()["planned"] == planned
    assert len(stage.ran) == 5
    assert [row["number"] for row in stage.report()["injections"]] == list(range(1, 9))


def test_a_finished_campaign_or_one_of_another_seed_or_size_is_begun_anew(stage: Any) -> None:
    stage.run(seed=5)
    stage.ran.clear()
    stage.run(seed=5)
    assert len(stage.ran) == 8
    before = {"finished": False, "count": 8, "seed": 5, "injections": []}
    assert chaos_campaign.begin_report(before, 8, 5)["seed"] == 5
    assert chaos_campaign.begin_report(before, 8, 6)["seed"] == 6
    assert chaos_campaign.begin_report(before, 9, None)["count"] == 9


def test_an_injection_that_cannot_be_judged_ends_no_campaign(stage: Any) -> None:
    def fails_once(scenarios: Sequence[Scenario]) -> list[Row]:
        if len(stage.ran) == 2:
            raise StepFailed("Airflow doesn't answer")
        return [good(scenario) for scenario in scenarios]

    stage.outcome = fails_once
    assert stage.run(seed=5) == 1
    assert len(stage.ran) == 8
    assert [row["number"] for row in stage.report()["injections"] if not row["as_designed"]] == [2]


def test_a_fleet_that_does_not_come_back_ends_it_and_what_was_not_begun_is_tried_again(stage: Any) -> None:
    stage.outcome = lambda scenarios: [
        {**empty_row(scenario), "outcome": f"{NOT_BEGUN}: sick"} for scenario in scenarios
    ]
    with pytest.raises(StepFailed):
        stage.run(seed=5)
    assert len(stage.ran) == GIVEN_UP_AFTER
    stage.outcome = lambda scenarios: [good(scenario) for scenario in scenarios]
    stage.ran.clear()
    assert stage.run() == 0
    assert len(stage.ran) == 8


def test_a_live_node_that_was_killed_fails_the_campaign(stage: Any) -> None:
    stage.outcome = lambda scenarios: [
        good(scenario, live_kills=["kafka-2: killed"]) for scenario in scenarios
    ]
    assert stage.run(seed=5) == 1
    assert stage.report()["summary"]["live_nodes_killed"] == 1
