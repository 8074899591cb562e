"""What `make mttr` breaks, which start by hand a repair is divided by, and what its figures say."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.harness import load_report
from benchmarks.mttr import begin_report, count_bytes, find_wrong_actions
from benchmarks.mttr_figures import (
    FAULTS,
    KINDS,
    MODES,
    HandStart,
    Repair,
    acted_until_s,
    add_hand_starts,
    can_continue,
    compute_quantiles,
    phase_shares,
    plan_steps,
    remaining_steps,
    row_of,
    select_other_roles,
    serves_again_s,
    summarize_rows,
)
from benchmarks.mttr_plot import draw_repairs
from kintsugi.chaos.registry import FAULTS as MADE
from kintsugi.core.errors import InputError
from kintsugi.core.fleet import Role, load_fleet
from kintsugi.core.incident import Outcome
from tests.fixtures_incidents import T0, at, entry, healed

FLEET = load_fleet()
PLANNED = Repair(Role.KAFKA, "kafka-2", "lost_volume", "reset", 1)


def repairs_of(role: Role, steps: list[Repair | HandStart]) -> list[Repair]:
    return [step for step in steps if isinstance(step, Repair) and step.role is role]


# --- the schedule


@pytest.mark.parametrize("role", Role)
def test_each_role_gets_every_fault_in_every_mode_twice_and_its_nodes_take_turns(role: Role) -> None:
    planned = repairs_of(role, plan_steps(FLEET, 7))
    assert Counter((one.fault, one.mode) for one in planned) == {(f, m): 2 for f in FAULTS for m in MODES}
    hits = Counter(one.node for one in planned)
    assert set(hits) == {node.name for node in FLEET.of(role)}
    assert len(set(hits.values())) == 1


@pytest.mark.parametrize("role", [Role.KAFKA, Role.CASSANDRA, Role.SPARK_WORKER])
def test_the_second_time_a_fault_hits_another_node(role: Role) -> None:
    nodes: dict[str, set[str]] = {}
    for one in repairs_of(role, plan_steps(FLEET, 7)):
        nodes.setdefault(one.kind, set()).add(one.node)
    assert all(len(hit) == 2 for hit in nodes.values())


def test_the_seed_decides_the_order_and_nothing_else_does() -> None:
    assert plan_steps(FLEET, 7) == plan_steps(FLEET, 7)
    assert len({tuple(plan_steps(FLEET, seed)) for seed in range(20)}) > 1


def test_a_hand_starts_only_what_the_recovery_has_repaired_after_the_same_fault() -> None:
    steps = plan_steps(FLEET, 7)
    repaired: set[tuple[str, str]] = set()
    for step in steps:
        if isinstance(step, Repair):
            repaired.add((step.node, step.fault))
        else:
            assert (step.node, step.fault) in repaired
    samples = Counter((step.role, step.fault) for step in steps if isinstance(step, HandStart))
    assert samples == {(role, fault): 2 for role in Role for fault in FAULTS}


def test_fewer_repairs_are_the_first_ones_and_bring_fewer_hand_starts() -> None:
    steps = plan_steps(FLEET, 7, repairs=3, roles=[Role.KAFKA])
    assert [step.kind for step in steps if isinstance(step, Repair)] == [
        "process_killed",
        "hung",
        "power_off",
    ]
    assert [step.fault for step in steps if isinstance(step, HandStart)] == ["process_death", "power_off"]


def test_every_planned_fault_can_be_made_in_the_mode_that_it_stands_for() -> None:
    assert {kind: MADE[kind].mode for kind in KINDS.values()} == {
        kind: mode for (_, mode), kind in KINDS.items()
    }


# --- other nodes


def test_a_node_acted_upon_beside_the_broken_one_is_named() -> None:
    report = {
        "repairs": [row("kafka-1"), {**row("kafka-2"), "acted_elsewhere": ["kafka-3"]}],
        "by_hand": [{"node": "spark-worker-1", "acted_elsewhere": ["cassandra-1", "kafka-3"]}],
    }
    assert find_wrong_actions(report) == ["cassandra-1", "kafka-3"]
    assert find_wrong_actions({"repairs": [row("kafka-1")], "by_hand": []}) == []


# --- going on, and runs of some roles


def test_a_killed_run_goes_on_with_what_has_no_row_yet() -> None:
    steps = plan_steps(FLEET, 7)
    document = {
        "repairs": [asdict(step) for step in steps[:30] if isinstance(step, Repair)],
        "by_hand": [asdict(step) for step in steps[:30] if isinstance(step, HandStart)],
    }
    assert remaining_steps(steps, document) == steps[30:]
    assert remaining_steps(steps, {}) == steps


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({}, True),
        ({"seed": 7}, True),
        ({"seed": 8}, False),
        ({"repairs": 3}, False),
        ({"rate": 300}, False),
        ({"roles": [Role.CASSANDRA]}, False),
    ],
)
def test_only_the_same_run_is_gone_on_with(asked: dict[str, Any], expected: bool) -> None:
    run: dict[str, Any] = {"roles": ["kafka"], "repairs": 12, "finished": False}
    document = {"seed": 7, "trades_per_s": 1000, "run": run}
    wanted = {"roles": [Role.KAFKA], "repairs": 12, "rate": 1000, "seed": None, **asked}
    assert can_continue(document, **wanted) is expected
    run["finished"] = True
    assert not can_continue(document, **wanted)
    assert not can_continue({}, **wanted)


def test_a_run_of_some_roles_keeps_the_rows_of_the_others() -> None:
    rows = [row("kafka-1", role="kafka"), row("cassandra-1", role="cassandra")]
    assert select_other_roles(rows, [Role.KAFKA]) == rows[1:]
    assert select_other_roles(rows, list(Role)) == []


def test_the_report_of_a_killed_run_is_taken_as_it_is(tmp_path: Path) -> None:
    before = {
        "seed": 7,
        "trades_per_s": 1000,
        "run": {"roles": ["kafka"], "repairs": 12, "finished": False},
        "repairs": [{"role": "kafka"}],
    }
    assert begin_report(before, {}, roles=[Role.KAFKA], repairs=12, rate=1000, seed=None) is before
    assert begin_report(before, {}, roles=[Role.KAFKA], repairs=3, rate=1000, seed=9)["repairs"] == []
    (tmp_path / "torn.json").write_text('{"seed":')
    assert load_report(tmp_path / "torn.json") == load_report(tmp_path / "nowhere.json") == {}


def test_rows_of_different_loads_never_stand_side_by_side() -> None:
    before = {"trades_per_s": 1000, "repairs": [row("kafka-1", role="kafka")], "by_hand": []}
    with pytest.raises(InputError, match=r"at 1000 trades a second, and 300 were .*--report"):
        begin_report(before, {}, roles=[Role.CASSANDRA], repairs=12, rate=300, seed=None)
    assert (
        len(begin_report(before, {}, roles=[Role.CASSANDRA], repairs=12, rate=1000, seed=None)["repairs"])
        == 1
    )
    assert (
        begin_report(before, {}, roles=[Role.KAFKA], repairs=12, rate=300, seed=None)["trades_per_s"] == 300
    )


# --- one repair


def test_a_node_serves_again_at_the_first_good_look_after_it_was_seen_to_be_sick() -> None:
    assert serves_again_s([(0.2, True), (0.9, False), (20.1, False), (20.6, True), (21.1, True)]) == 20.6
    assert serves_again_s([(0.2, True), (0.7, True)]) is None
    assert serves_again_s([(0.2, False)]) is None


def test_a_node_that_came_back_and_was_then_restarted_serves_after_the_restart() -> None:
    looks = [(0.2, False), (6.0, True), (15.0, False), (25.0, False), (31.0, True)]
    assert serves_again_s(looks, acted_until_s=24.0) == 31.0


def test_an_act_ends_where_the_journal_says_so() -> None:
    assert acted_until_s([healed()], T0) == 24.0
    waited = healed(entries=(entry(5.0, "confirm", verdict="starting"), entry(9.0, "rejoin", mark="end")))
    assert acted_until_s([waited], T0) == 0.0


def test_a_row_tells_detection_by_the_first_incident_and_phases_by_the_one_that_acted() -> None:
    glimpse = healed(
        entries=(entry(2.5, "confirm", verdict="false_alarm"),),
        detected_at=at(2), outcome=Outcome.FALSE_ALARM, redundant_at=None, consistent_at=None,
    )  # fmt: skip
    found = row_of(PLANNED, T0, [glimpse, healed()], [(1.0, False), (38.0, True)], None)
    assert (found["detect_s"], found["repair_s"], found["consistent_s"]) == (2.0, 38.0, 44.0)
    assert (found["kind"], found["by"], found["outcome"]) == ("volume_lost", "rebuild", "healed")
    assert found["phases"]["detect"] == 3.0
    assert found["phases"]["rejoin"] == 16.0


def test_a_node_that_its_init_brought_back_has_no_detection_and_counts_all_the_same() -> None:
    found = row_of(replace(PLANNED, fault="process_death"), T0, [], [(0.5, False), (5.5, True)], None)
    assert (found["by"], found["detect_s"], found["consistent_s"]) == ("init", None, None)
    assert (found["repair_s"], found["phases"], found["outcome"]) == (5.5, {}, "healed")


def test_what_went_wrong_is_the_outcome() -> None:
    looks = [(1.0, False), (600.5, False)]
    over = row_of(PLANNED, T0, [healed()], looks, "not over after 600 s: kafka-1 still has it fenced")
    assert (over["repair_s"], over["outcome"]) == (None, "not over after 600 s: kafka-1 still has it fenced")
    failed = healed(outcome=Outcome.FAILED, reason="verify failed: no leader")
    assert row_of(PLANNED, T0, [failed], [(1.0, False), (38.0, True)], None)["outcome"] == (
        "failed: verify failed: no leader"
    )


# --- the start by hand that a repair is divided by


def row(
    node: str, repair_s: float | None = 30.0, *, role: str = "kafka", fault: str = "power_off", **more: Any
) -> dict[str, Any]:
    return {
        "node": node, "role": role, "fault": fault, "mode": "reset", "detect_s": 3.0, "repair_s": repair_s,
        "consistent_s": repair_s, "ratio": None, "ratio_since_detected": None, "phases": {}, "outcome": "healed",
        **more,
    }  # fmt: skip


def hand(
    node: str, by_hand_s: float | None, *, role: str = "kafka", fault: str = "power_off"
) -> dict[str, Any]:
    return {"node": node, "role": role, "fault": fault, "by_hand_s": by_hand_s}


def test_a_repair_is_divided_by_the_hand_start_of_its_own_node_and_fault() -> None:
    started = [hand("kafka-1", 15.0), hand("kafka-2", 20.0), hand("kafka-1", 10.0, fault="lost_volume")]
    found = add_hand_starts([row("kafka-1")], started)
    assert [(one["by_hand_s"], one["ratio"]) for one in found] == [(15.0, 2.0)]
    assert found[0]["ratio_since_detected"] == 1.8


def test_without_one_it_is_the_median_of_role_and_fault() -> None:
    started = [
        hand("kafka-1", 15.0), hand("kafka-2", 25.0), hand("kafka-2", 99.0, fault="lost_volume"),
        hand("cassandra-3", 99.0, role="cassandra"), hand("kafka-3", None),
    ]  # fmt: skip
    found = add_hand_starts([row("kafka-3")], started)
    assert [(one["by_hand_s"], one["ratio"]) for one in found] == [(20.0, 1.5)]


def test_what_was_never_measured_has_no_ratio() -> None:
    for rows, started in (([row("kafka-1", None)], [hand("kafka-1", 15.0)]), ([row("kafka-1")], [])):
        assert add_hand_starts(rows, started)[0]["ratio"] is None


# --- the figures


def test_quantiles_are_measured_values_and_say_how_many_there_were() -> None:
    values = [float(value) for value in range(1, 13)]
    assert compute_quantiles([*values, None]) == {"n": 12, "p50": 6.0, "p95": 12.0, "max": 12.0}
    assert compute_quantiles([None]) == {"n": 0, "p50": None, "p95": None, "max": None}


def test_a_repair_that_failed_counts_and_has_no_seconds() -> None:
    rows = [row("kafka-1", 30.0), row("kafka-2", None, outcome="not over after 600 s", detect_s=None)]
    found = summarize_rows(add_hand_starts(rows, [hand("kafka-1", 20.0)]), [hand("kafka-1", 20.0)])["kafka"]
    assert (found["n"], found["healed"]) == (2, 1)
    assert (found["repair"]["n"], found["detect"]["n"], found["by_hand"]["p50"]) == (1, 1, 20.0)
    assert found["aims"]["ratio_max"] == {"wanted": 2.0, "measured": 1.5, "met": True}


def test_an_aim_is_missed_by_one_bad_value_and_by_none_at_all() -> None:
    rows = add_hand_starts(
        [row("kafka-1", 30.0), row("kafka-2", 61.0)], [hand("kafka-1", 30.0), hand("kafka-2", 30.0)]
    )
    aims = summarize_rows(rows, [])["kafka"]["aims"]
    assert {name: aim["met"] for name, aim in aims.items()} == {
        "detect_p95_s": True, "ratio_max": False, "repair_p50_s": True, "repair_p95_s": False,
    }  # fmt: skip
    assert (
        summarize_rows([row("kafka-1", None, detect_s=None)], [])["kafka"]["aims"]["detect_p95_s"]["met"]
        is False
    )


def test_detection_is_judged_where_the_node_refuses_and_both_modes_are_told() -> None:
    rows = add_hand_starts(
        [row("kafka-1"), row("kafka-2", 50.0, mode="silent", detect_s=10.0)], [hand("kafka-1", 20.0)]
    )
    found = summarize_rows(rows, [])["kafka"]
    assert found["aims"]["detect_p95_s"] == {"wanted": 9.0, "measured": 3.0, "met": True}
    assert found["detect"]["max"] == 10.0
    assert {mode: of["ratio_since_detected"]["max"] for mode, of in found["modes"].items()} == {
        "reset": 1.35,
        "silent": 2.0,
    }


def test_only_roles_that_were_measured_are_summed_up_each_by_its_own_rows() -> None:
    found = summarize_rows([row("kafka-1", 30.0), row("cassandra-1", 70.0, role="cassandra")], [])
    assert {role: of["repair"]["p50"] for role, of in found.items()} == {"kafka": 30.0, "cassandra": 70.0}


def test_the_largest_phase_is_named_by_its_share_of_all_seconds() -> None:
    rows = [row("kafka-1", phases={"detect": 3.0, "rejoin": 10.0}), row("kafka-2", phases={"configure": 7.0})]
    assert phase_shares(rows) == {"detect": 0.15, "rejoin": 0.5, "configure": 0.35}
    assert summarize_rows(rows, [])["kafka"]["largest_phase"] == "rejoin"
    assert phase_shares([row("kafka-1")]) == {}


# --- how much data there is, and the picture


def test_bytes_are_those_on_the_disk_and_a_file_of_two_names_counts_once(tmp_path: Path) -> None:
    (tmp_path / "segment").write_bytes(os.urandom(1 << 20))
    alone = count_bytes(tmp_path)
    assert alone >= 1 << 20
    (tmp_path / "snapshot").mkdir()
    os.link(tmp_path / "segment", tmp_path / "snapshot" / "segment")
    with (tmp_path / "index").open("wb") as sparse:
        sparse.truncate(1 << 30)
    assert alone <= count_bytes(tmp_path) < alone + (1 << 20)
    assert count_bytes(tmp_path / "nowhere") == 0


def test_the_picture_shows_a_report_with_failed_and_missing_repairs(tmp_path: Path) -> None:
    rows = add_hand_starts(
        [row("kafka-1"), row("kafka-2", None), row("kafka-1", mode="silent")], [hand("kafka-1", 20.0)]
    )
    started = [hand("kafka-1", 20.0), hand("kafka-2", None)]
    report = {
        "machine": "2 cores", "trades_per_s": 1000.0, "repairs": rows, "by_hand": started,
        "summary": summarize_rows(rows, started),
    }  # fmt: skip
    draw_repairs(report, tmp_path / "mttr.png")
    assert (tmp_path / "mttr.png").read_bytes().startswith(b"\x89PNG")
