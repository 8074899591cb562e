from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kintsugi.core.fleet import Role
from kintsugi.core.incident import Action
from kintsugi.recovery.diagnosis import FailureMode
from kintsugi.recovery.escalation import MOST_ATTEMPTS, Decision, decide_action

RESTART, NODE, BOTH, BACK = Action.RESTART, Action.REBUILD_NODE, Action.REBUILD, Action.ROLL_BACK
PAGE = Action.PAGE


def decided(verdict: FailureMode, attempts: list[Action] | None = None, **known: Any) -> Decision:
    return decide_action(verdict, attempts or [], role=Role.CASSANDRA, **known)


def climb(verdict: FailureMode, **known: Any) -> list[Action]:
    """What is tried, in order, when nothing helps."""
    attempts: list[Action] = []
    while (action := decided(verdict, attempts, **known).action).changes:
        attempts.append(action)
    return [*attempts, action]


@pytest.mark.parametrize(
    ("verdict", "action"),
    [
        (FailureMode.FALSE_ALARM, Action.STAND_DOWN),
        (FailureMode.STARTING, Action.WAIT),
        (FailureMode.PARTITIONED, Action.WAIT),
    ],
)
def test_nothing_is_touched_without_need(verdict: FailureMode, action: Action) -> None:
    assert decided(verdict).action is action
    assert decided(verdict, [RESTART, BOTH]).action is Action.WAIT, "its repair was begun"


@pytest.mark.parametrize(("attempts", "unfinished"), [([RESTART], False), ([BOTH], True), ([], True)])
def test_a_repair_that_was_begun_is_finished_on_a_node_that_answers(
    attempts: list[Action], unfinished: bool
) -> None:
    decision = decided(FailureMode.FALSE_ALARM, attempts, unfinished=unfinished)
    assert decision.action is Action.WAIT
    assert "not finished" in decision.reason


def test_who_insists_gets_the_last_action_once_more() -> None:
    tried = [RESTART, NODE, BOTH, BOTH]
    assert decided(FailureMode.HUNG, tried).action is PAGE
    assert decided(FailureMode.HUNG, tried, insisted=True).action is BOTH
    assert decided(FailureMode.HUNG, [RESTART], insisted=True).action is NODE, "a rung is left"


@pytest.mark.parametrize(
    ("verdict", "known", "ladder"),
    [
        (FailureMode.PROCESS_DOWN, {}, [RESTART, NODE, BOTH, BOTH, PAGE]),
        (FailureMode.PROCESS_DOWN, {"volume_intact": False}, [RESTART, BOTH, BOTH, PAGE]),
        (FailureMode.PROCESS_DOWN, {"suspicious_release": True}, [RESTART, NODE, BOTH, BOTH, BACK, PAGE]),
        (FailureMode.HUNG, {"volume_intact": True}, [RESTART, NODE, BOTH, BOTH, PAGE]),
        (FailureMode.MISCONFIGURED, {}, [RESTART, NODE, BOTH, BOTH, PAGE]),
        (FailureMode.MISCONFIGURED, {"suspicious_release": True}, [RESTART, BACK, NODE, BOTH, BOTH, PAGE]),
        (FailureMode.HOST_LOST, {"volume_intact": True}, [NODE, NODE, BOTH, BOTH, PAGE]),
        (FailureMode.HOST_LOST, {"volume_intact": False}, [BOTH, BOTH, PAGE]),
        (FailureMode.HOST_LOST, {"volume_intact": None}, [BOTH, BOTH, PAGE]),
        (FailureMode.DISK_LOST, {"volume_intact": False}, [BOTH, BOTH, PAGE]),
        (FailureMode.DISK_LOST, {}, [BOTH, BOTH, PAGE]),
        (FailureMode.CLOCK_WRONG, {"volume_intact": True}, [RESTART, NODE, PAGE]),
        (FailureMode.CLOCK_WRONG, {"suspicious_release": True}, [RESTART, BACK, NODE, PAGE]),
        (FailureMode.DISK_FULL, {"volume_intact": True}, [BOTH, BOTH, PAGE]),
        (FailureMode.DISK_FULL, {"suspicious_release": True}, [BOTH, BOTH, BACK, PAGE]),
        (FailureMode.DATA_DAMAGED, {"volume_intact": True}, [BOTH, BOTH, PAGE]),
    ],
)
def test_escalation_climbs_the_ladder_and_ends_with_a_person(
    verdict: FailureMode, known: dict[str, Any], ladder: list[Action]
) -> None:
    assert climb(verdict, **known) == ladder


def test_a_node_that_dies_again_while_it_recovers_is_rebuilt_again() -> None:
    assert decided(FailureMode.HOST_LOST, [BOTH], volume_intact=False).action is BOTH
    assert decided(FailureMode.HOST_LOST, [NODE], volume_intact=True).action is NODE


def test_a_rebuilt_node_whose_process_dies_gets_the_cheap_remedy_first() -> None:
    assert decided(FailureMode.PROCESS_DOWN, [BOTH], volume_intact=True).action is RESTART


@pytest.mark.parametrize(
    ("requested", "attempts", "volume_intact", "action", "words"),
    [
        (RESTART, [], None, RESTART, "requested restart"),
        (BOTH, [], True, BOTH, "requested rebuild"),
        (BACK, [], True, BACK, "requested roll_back"),
        (BOTH, [RESTART], True, BOTH, "requested rebuild"),
        (NODE, [], False, BOTH, "volume is gone, so the volume is rebuilt too"),
        (RESTART, [RESTART], None, RESTART, "requested restart"),
        (NODE, [BOTH], False, BOTH, "volume is gone, so the volume is rebuilt too"),
        (Action.STAND_DOWN, [], None, Action.STAND_DOWN, "requested stand_down"),
    ],
)
def test_by_hand_a_person_gets_what_was_asked_for(
    requested: Action, attempts: list[Action], volume_intact: bool | None, action: Action, words: str
) -> None:
    decision = decided(FailureMode.FALSE_ALARM, attempts, requested=requested, volume_intact=volume_intact)
    assert decision.action is action
    assert words in decision.reason


def test_the_reason_says_why_and_what_was_tried() -> None:
    reason = decided(FailureMode.HOST_LOST, [NODE, NODE], volume_intact=True).reason
    assert "Rebuild the cassandra node and its volume" in reason
    assert "Tried before: rebuild_node, rebuild_node" in reason
    assert "host_lost" in reason
    assert "the old volume is full" in decided(FailureMode.DISK_FULL, [], volume_intact=True).reason
    assert (
        "the data on the old volume can't be read"
        in decided(FailureMode.DATA_DAMAGED, [], volume_intact=True).reason
    )
    assert "rebuild, rebuild" in decided(FailureMode.DISK_LOST, [BOTH, BOTH]).reason


@given(
    st.lists(
        st.tuples(st.sampled_from(FailureMode), st.sampled_from([None, True, False]), st.booleans()),
        max_size=40,
    ),
    st.sampled_from(Role),
)
def test_no_sequence_of_verdicts_makes_it_try_for_ever(
    moments: list[tuple[FailureMode, bool | None, bool]], role: Role
) -> None:
    attempts: list[Action] = []
    for verdict, volume_intact, suspicious in moments:
        action = decide_action(
            verdict, attempts, role=role, volume_intact=volume_intact, suspicious_release=suspicious
        ).action
        assert action is not Action.AUTO
        if action.changes:
            attempts.append(action)
    assert len(attempts) <= MOST_ATTEMPTS


@given(st.sampled_from(FailureMode), st.lists(st.sampled_from([RESTART, NODE, BOTH, BACK]), max_size=6))
def test_a_volume_that_may_be_good_is_kept_while_anything_else_is_left(
    verdict: FailureMode, attempts: list[Action]
) -> None:
    decision = decided(verdict, attempts, volume_intact=True)
    if decision.action is BOTH and verdict not in (
        FailureMode.DISK_LOST,
        FailureMode.DISK_FULL,
        FailureMode.DATA_DAMAGED,
    ):
        assert NODE in attempts
