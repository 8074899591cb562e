"""Which stalls are made, what is expected of each, and which rows a test that was ended keeps."""

from __future__ import annotations

from benchmarks.scenario_report import NOT_BEGUN
from benchmarks.stall_test import LEFT_ALONE_S, SECONDS, keep_rows, plan_stalls
from kintsugi.core.fleet import Role, load_fleet

FLEET = load_fleet()


def test_every_role_and_the_fleet_stand_still_for_every_time() -> None:
    planned = plan_stalls(FLEET)
    assert len(planned) == len(SECONDS) * (len(Role) + 1)
    assert len({scenario.name for scenario in planned}) == len(planned)
    groups = {scenario.nodes for scenario in planned}
    assert tuple(FLEET.nodes) in groups
    for role in Role:
        assert tuple(node.name for node in FLEET.of(role)) in groups
    assert [scenario.hold_s for scenario in planned] == sorted(scenario.hold_s or 0 for scenario in planned)


def test_all_but_the_longest_must_end_without_a_kill() -> None:
    for scenario in plan_stalls(FLEET):
        assert scenario.hold_s is not None
        assert scenario.incident == bool(scenario.actions) == (scenario.hold_s > LEFT_ALONE_S)


def test_chosen_times_alone() -> None:
    assert {scenario.hold_s for scenario in plan_stalls(FLEET, [17, 6])} == {6, 17}


def test_an_ended_test_keeps_the_rows_of_the_same_stalls_that_were_begun() -> None:
    planned = plan_stalls(FLEET)
    done, not_begun = (
        {"fault": planned[0].name, "outcome": "as designed"},
        {
            "fault": planned[1].name,
            "outcome": f"{NOT_BEGUN}: sick",
        },
    )
    report = {
        "finished": False,
        "planned": [scenario.name for scenario in planned],
        "stalls": [done, not_begun],
    }
    assert keep_rows(report, planned) == {planned[0].name: done}
    assert keep_rows({**report, "finished": True}, planned) == {}
    assert keep_rows(report, planned[1:]) == {}
    assert keep_rows({}, planned) == {}
