"""The judgement over a scenario of the table of faults, and the table's own consistency."""

from __future__ import annotations

import pytest

from benchmarks.fault_matrix import NOT_MADE, NOT_MADE_ANYWHERE, SCENARIOS
from benchmarks.scenarios import (
    ExpectedPages,
    IncidentContent,
    Scenario,
    judge_pages,
    judge_scenario,
    victims_without_action,
)
from kintsugi.chaos.registry import FAULTS
from kintsugi.core.fleet import Role, load_fleet
from kintsugi.core.incident import Action
from kintsugi.recovery.diagnosis import FailureMode

LOST = Scenario(
    "power_off",
    ("kafka-1",),
    frozenset({FailureMode.HOST_LOST}),
    actions=frozenset({Action.REBUILD_NODE}),
    must=frozenset({Action.REBUILD_NODE}),
)
LEFT_ALONE = Scenario("paused", ("kafka-1",), frozenset({FailureMode.FALSE_ALARM}), incident=False)
GOOD = IncidentContent("kafka-1", ["host_lost"], ["rebuild_node"])


def test_a_repair_as_expected_passes() -> None:
    assert judge_scenario(LOST, [GOOD], healed=True) is None


@pytest.mark.parametrize(
    ("incidents", "healed", "said"),
    [
        ([GOOD], False, "not healed; its journals stood still for 240 s"),
        ([], True, "kafka-1 should have got rebuild_node"),
        ([IncidentContent("kafka-1", ["hung"], ["rebuild_node"])], True, "kafka-1 was taken for hung"),
        (
            [IncidentContent("kafka-1", ["host_lost"], ["rebuild_node", "rebuild"])],
            True,
            "kafka-1 got rebuild",
        ),
        (
            [GOOD, IncidentContent("kafka-2", ["host_lost"], ["restart"])],
            True,
            "kafka-2 was acted upon (restart)",
        ),
    ],
)
def test_what_is_not_as_designed_is_named(incidents: list[IncidentContent], healed: bool, said: str) -> None:
    why = judge_scenario(LOST, incidents, healed)
    assert why is not None
    assert why.startswith(said)


def test_a_bystander_that_was_only_looked_at_is_no_failure() -> None:
    assert judge_scenario(LOST, [GOOD, IncidentContent("kafka-2", ["false_alarm"], [])], healed=True) is None


def test_a_pause_may_be_noticed_but_not_acted_upon() -> None:
    assert judge_scenario(LEFT_ALONE, [IncidentContent("kafka-1", ["false_alarm"], [])], healed=True) is None
    why = judge_scenario(LEFT_ALONE, [IncidentContent("kafka-1", ["hung"], ["restart"])], healed=True)
    assert why == "kafka-1 was acted upon (restart), though it should have been left alone"


def test_a_victim_whose_first_incident_was_only_the_start_is_still_owed_its_action() -> None:
    start = IncidentContent("kafka-1", ["starting"], [])
    assert victims_without_action(LOST, []) == victims_without_action(LOST, [start]) == ["kafka-1"]
    assert victims_without_action(
        LOST, [start, IncidentContent("kafka-2", ["host_lost"], ["rebuild_node"])]
    ) == ["kafka-1"]
    assert victims_without_action(LOST, [start, GOOD]) == []
    assert victims_without_action(LEFT_ALONE, []) == []


def test_every_scenario_names_a_fault_that_can_be_made_and_nodes_of_the_fleet() -> None:
    nodes = load_fleet().nodes
    for scenario in SCENARIOS:
        assert scenario.fault in FAULTS
        assert set(scenario.nodes) <= set(nodes)
        assert scenario.must <= scenario.actions
    assert len({scenario.name for scenario in SCENARIOS}) == len(SCENARIOS)


def test_every_fault_has_a_scenario_for_every_role_or_a_reason_why_not() -> None:
    fleet = load_fleet()
    made = {(scenario.fault, fleet.node(name).role) for scenario in SCENARIOS for name in scenario.nodes}
    assert made.isdisjoint(NOT_MADE)
    assert made | NOT_MADE.keys() == {(fault, role) for fault in FAULTS for role in Role}


def test_a_scenario_that_wants_a_word_of_it_is_not_content_with_a_node_that_serves() -> None:
    wants = Scenario("corrupt_entry", ("kafka-1",), frozenset({FailureMode.STARTING}), says="was compared")
    silent, other = (
        IncidentContent("kafka-1", ["starting"], []),
        IncidentContent("kafka-2", ["starting"], [], "it was compared"),
    )
    assert (
        judge_scenario(wants, [silent, other], healed=True)
        == "nothing in the journal of kafka-1 says: was compared"
    )
    assert judge_scenario(wants, [], healed=True) is not None
    assert (
        judge_scenario(
            wants, [silent, IncidentContent("kafka-1", ["starting"], [], "x\nit was compared")], healed=True
        )
        is None
    )


@pytest.mark.parametrize(
    ("designed", "pages", "as_designed"),
    [
        (ExpectedPages.NONE, [], True),
        (ExpectedPages.NONE, ["kafka-1 needs a person"], False),
        (ExpectedPages.MAY, [], True),
        (ExpectedPages.MAY, ["kafka-1 needs a person"], True),
        (ExpectedPages.MUST, [], False),
        (ExpectedPages.MUST, ["kafka-1 needs a person"], True),
    ],
)
def test_a_person_is_paged_where_that_is_designed_and_nowhere_else(
    designed: ExpectedPages, pages: list[str], as_designed: bool
) -> None:
    scenario = Scenario("power_off", ("kafka-1",), frozenset(), pages=designed)
    assert (judge_pages(scenario, pages) is None) == as_designed


def test_gray_faults_are_never_repaired_and_an_unmounted_disk_never_replaced() -> None:
    by_fault = {
        scenario.fault: [one for one in SCENARIOS if one.fault == scenario.fault] for scenario in SCENARIOS
    }
    healthy = ("network_reject", "network_drop", "network_one_way", "network_delay", "network_loss", "slow_disk",
               "stalled", "hosts_stalled", "starved")  # fmt: skip
    for fault in healthy:
        assert not any(
            scenario.incident or scenario.actions or scenario.must for scenario in by_fault[fault]
        ), fault
    for fault in ("volume_unmounted", "control_disk_full"):
        assert not any(Action.REBUILD in scenario.actions for scenario in by_fault[fault]), fault


def test_a_fault_on_more_nodes_than_a_role_can_spare_says_so() -> None:
    fleet = load_fleet()
    for scenario in SCENARIOS:
        roles = [fleet.node(name).role for name in scenario.nodes]
        assert bool(scenario.waives) == (len(roles) != len(set(roles))), scenario.name


def test_what_can_be_made_nowhere_is_no_fault_of_the_registry() -> None:
    assert NOT_MADE_ANYWHERE.keys().isdisjoint(FAULTS)
    assert all(NOT_MADE_ANYWHERE.values())
