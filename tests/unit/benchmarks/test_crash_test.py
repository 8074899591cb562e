"""Which killings `make crash-test` tries, and what it accepts as finished once."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from benchmarks.crash_test import has_begun, keep_rows
from benchmarks.crash_test_plan import (
    COMPONENTS,
    NODES,
    REBOOTS_AT,
    STEPS,
    Killing,
    Victim,
    judge_killing,
    plan_killings,
)
from kintsugi.core.fleet import load_fleet
from kintsugi.core.incident import Incident, JournalEntry, Outcome
from tests.fixtures_incidents import at, healed

KILLING = Killing("provision", Victim.WORKER, "kafka-2")


def on_its_disk(**changes: Any) -> Incident:
    """A rebuild on the volume that the node had."""
    story = healed()
    lines = tuple(
        replace(line, data={"action": "rebuild_node"}) if line.step == "attempt" else line
        for line in story.entries
    )
    return replace(story, **{"entries": lines, **changes})


def test_the_worker_and_all_of_airflow_are_killed_at_every_step_and_the_others_in_turn() -> None:
    chosen = plan_killings()
    at_step = {step: {one.victim for one in chosen if one.step == step} for step in STEPS}
    assert all({Victim.WORKER, Victim.AIRFLOW} <= victims for victims in at_step.values())
    times = Counter(one.victim for one in chosen)
    assert [times[component] for component in COMPONENTS] == [4, 4, 4]
    assert {one.step for one in chosen if one.victim is Victim.EVERYTHING} == set(REBOOTS_AT)
    assert set(NODES) <= set(load_fleet().nodes)


def test_all_of_them_and_a_choice() -> None:
    assert {(one.step, one.victim) for one in plan_killings(all_=True)} == {
        (step, victim) for step in STEPS for victim in Victim
    }
    assert [one.name for one in plan_killings(steps=["rejoin"], victims=[Victim.WORKER])] == [
        next(one.name for one in plan_killings() if (one.step, one.victim) == ("rejoin", Victim.WORKER))
    ]


def test_a_walk_that_was_ended_goes_on_and_one_of_other_killings_begins() -> None:
    asked = plan_killings(steps=["rejoin"])
    rows = [{"name": one.name, "outcome": "as designed"} for one in asked[:2]]
    report = {"asked": [one.name for one in asked], "finished": False, "killings": rows}
    assert list(keep_rows(report, asked)) == [one.name for one in asked[:2]]
    assert keep_rows(report, plan_killings(steps=["fence"])) == {}
    assert keep_rows({**report, "finished": True}, asked) == {}
    assert keep_rows({}, asked) == {}


def test_a_step_has_begun_with_its_first_line() -> None:
    story = healed()
    assert has_begun(story, "provision")
    assert not has_begun(replace(story, entries=story.entries[:3]), "provision")


def test_one_healed_incident_with_one_rebuild_is_as_designed() -> None:
    assert judge_killing(KILLING, [on_its_disk()]) is None


TWICE = JournalEntry(at(30), "attempt", "again", {"action": "rebuild_node"})


@pytest.mark.parametrize(
    ("incidents", "said"),
    [
        ([], "it has: none"),
        ([on_its_disk(), on_its_disk(id="second")], "should have one incident"),
        ([on_its_disk(outcome=Outcome.FAILED)], "failed"),
        ([on_its_disk(entries=(*on_its_disk().entries, TWICE))], "rebuild_node, rebuild_node"),
        ([healed()], "it got: rebuild"),
        ([on_its_disk(), healed("kafka-1")], "kafka-1 was acted upon"),
    ],
)  # fmt: skip
def test_what_is_not_as_designed_is_named(incidents: list[Incident], said: str) -> None:
    assert said in str(judge_killing(KILLING, incidents))


def test_after_a_reboot_every_node_may_have_an_incident_but_none_may_stay_sick() -> None:
    reboot = Killing("fence", Victim.EVERYTHING, "kafka-2")
    assert (
        judge_killing(
            reboot, [on_its_disk(), healed("kafka-1"), healed("kafka-3", outcome=Outcome.FALSE_ALARM)]
        )
        is None
    )
    assert "not healed: kafka-9" in str(
        judge_killing(reboot, [healed("kafka-1", id="kafka-9", outcome=Outcome.FAILED)])
    )
