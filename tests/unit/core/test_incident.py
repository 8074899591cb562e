from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kintsugi.core.fleet import Role
from kintsugi.core.incident import (
    PHASE_OF_STEP,
    Action,
    Incident,
    JournalEntry,
    Outcome,
    Phase,
    acted_on_others,
    incident_id,
)
from tests.fixtures_incidents import healed

T0 = datetime(2026, 8, 1, 2, 15, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return T0 + timedelta(seconds=seconds)


def entry(moment: float, step: str, **data: Any) -> JournalEntry:
    return JournalEntry(at(moment), step, f"{step} is done", data)


INCIDENT = Incident(
    id="cassandra-2-20260801T021504Z-9f3c",
    node="cassandra-2",
    role=Role.CASSANDRA,
    opened_at=at(4),
    t0=at(0),
    first_failed_at=at(1),
    detected_at=at(3.5),
    holder="watch/run-7",
)

REBUILT = replace(
    INCIDENT,
    entries=(
        entry(5, "confirm"),
        entry(5.5, "guard"),
        entry(6, "attempt", action="rebuild"),
        entry(7, "fence"),
        entry(8, "plan"),
        entry(9, "provision"),
        entry(9.5, "archive_logs", seconds=2.5),
        entry(14, "configure"),
        entry(30, "rejoin.bootstrap"),
        entry(31, "rejoin"),
        entry(40, "repair"),
        entry(42, "verify"),
        entry(44, "canary"),
        entry(99, "record"),
    ),
    redundant_at=at(31),
    consistent_at=at(40),
    closed_at=at(99),
    outcome=Outcome.HEALED,
    reason="serves again",
)


def test_a_refused_repair_waits_for_a_decision_until_somebody_decides() -> None:
    asked = (
        entry(1, "confirm"), entry(2, "guard", mark="start"), entry(3, "guard", refused=["no"], gates=["budget"]),
        entry(4, "guard", mark="end"), entry(5, "archive"),
    )  # fmt: skip
    assert replace(INCIDENT, entries=asked).awaits_decision
    assert not replace(INCIDENT, entries=asked[:2]).awaits_decision
    assert not replace(INCIDENT, entries=(*asked, entry(6, "decide", mark="start"))).awaits_decision
    assert not replace(INCIDENT, entries=(*asked, entry(6, "confirm"))).awaits_decision
    closed = replace(INCIDENT, entries=asked, closed_at=at(9), outcome=Outcome.REFUSED)
    assert not closed.awaits_decision
    assert not INCIDENT.awaits_decision


def test_each_phase_has_the_time_that_its_steps_took() -> None:
    assert REBUILT.phases() == {
        Phase.DETECT: 3.5,
        Phase.CONFIRM: 2.0,
        Phase.ARCHIVE: 2.5,  # beside the repair: measured by itself, taken from nobody
        Phase.PROVISION: 3.5,
        Phase.CONFIGURE: 5.0,
        Phase.REJOIN: 17.0,
        Phase.VERIFY: 4.0,
    }
    assert list(REBUILT.phases()) == list(Phase)


def test_durations_count_from_the_injectors_timestamp() -> None:
    assert (REBUILT.detect_s, REBUILT.repair_s, REBUILT.consistent_s) == (3.5, 31.0, 40.0)


def test_without_one_they_count_from_the_first_failed_probe() -> None:
    unknown = replace(REBUILT, t0=None)
    assert (unknown.detect_s, unknown.repair_s, unknown.consistent_s) == (2.5, 30.0, 39.0)


def test_what_has_not_happened_has_no_duration() -> None:
    assert (INCIDENT.repair_s, INCIDENT.consistent_s) == (None, None)
    assert INCIDENT.phases() == {Phase.DETECT: 3.5}


def test_a_phase_gone_through_twice_carries_the_sum() -> None:
    twice = replace(INCIDENT, entries=(entry(5, "plan"), entry(6, "configure"), entry(8, "plan")))
    assert twice.phases() == {Phase.DETECT: 3.5, Phase.PROVISION: 3.5, Phase.CONFIGURE: 1.0}


def test_clocks_that_differ_never_give_a_negative_duration() -> None:
    odd = replace(INCIDENT, t0=at(4), entries=(entry(2, "confirm"),), redundant_at=at(3))
    assert (odd.detect_s, odd.repair_s, odd.phases()[Phase.CONFIRM]) == (0.0, 0.0, 0.0)


def test_attempts_are_the_actions_begun_in_order() -> None:
    incident = replace(
        INCIDENT,
        entries=(
            entry(5, "decide", action="page"),
            entry(6, "attempt", action="restart"),
            entry(20, "attempt", action="rebuild_node"),
        ),
    )
    assert incident.attempts() == [Action.RESTART, Action.REBUILD_NODE]
    assert incident.attempt == 2


def test_only_a_node_that_wasnt_broken_was_wrongly_acted_upon() -> None:
    looked_at = replace(healed("spark-worker-1"), entries=(entry(4, "attempt", action="wait"),))
    told = [healed("kafka-2"), looked_at, healed("kafka-1"), healed("cassandra-3"), healed("kafka-1")]
    assert acted_on_others(told, ["kafka-2"]) == ["cassandra-3", "kafka-1"]
    assert acted_on_others(told, ["kafka-2", "kafka-1", "cassandra-3"]) == []


def test_the_story_survives_json() -> None:
    story = json.loads(json.dumps(REBUILT.to_json()))
    assert story["outcome"] == "healed"
    assert story["t0"] == "2026-08-01T02:15:00+00:00"
    assert story["repair_s"] == 31.0
    assert story["phases"]["rejoin"] == 17.0
    assert story["attempts"] == ["rebuild"]
    assert story["entries"][2] == {
        "at": "2026-08-01T02:15:06+00:00",
        "step": "attempt",
        "message": "attempt is done",
        "data": {"action": "rebuild"},
    }
    assert json.loads(json.dumps(INCIDENT.to_json()))["outcome"] is None


def test_an_id_says_which_node_and_when_and_is_unique() -> None:
    first, second = incident_id("kafka-2", T0), incident_id("kafka-2", T0)
    assert re.fullmatch(r"kafka-2-20260801T021500Z-[0-9a-f]{4}", first)
    assert first != second or incident_id("kafka-2", T0) != first


@pytest.mark.parametrize(
    ("action", "changes", "destroys", "destroys_volume"),
    [
        (Action.AUTO, False, False, False),
        (Action.RESTART, True, False, False),
        (Action.ROLL_BACK, True, False, False),
        (Action.REBUILD_NODE, True, True, False),
        (Action.REBUILD, True, True, True),
        (Action.WAIT, False, False, False),
        (Action.STAND_DOWN, False, False, False),
        (Action.PAGE, False, False, False),
    ],
)
def test_what_an_action_costs(action: Action, changes: bool, destroys: bool, destroys_volume: bool) -> None:
    assert (action.changes, action.destroys, action.destroys_volume) == (changes, destroys, destroys_volume)


@given(st.lists(st.tuples(st.floats(0, 1000), st.sampled_from(sorted(PHASE_OF_STEP)))))
def test_phases_never_add_up_to_more_than_the_incident(steps: list[tuple[float, str]]) -> None:
    incident = replace(INCIDENT, entries=tuple(entry(seconds, step) for seconds, step in steps))
    end = max([3.5, *(seconds for seconds, _ in steps)])
    assert sum(incident.phases().values()) <= end + 0.01
    assert all(seconds >= 0 for seconds in incident.phases().values())
