from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kintsugi.core.incident import Incident, JournalEntry, Outcome
from kintsugi.notify.paging_rules import Page, incident_pages
from tests.fixtures_incidents import at, healed, refused


def test_a_healed_incident_wakes_nobody() -> None:
    assert incident_pages([healed()], at(60)) == []


@pytest.mark.parametrize("outcome", [Outcome.FALSE_ALARM, Outcome.DRY_RUN])
def test_nor_does_one_that_was_none(outcome: Outcome) -> None:
    assert incident_pages([replace(healed(), outcome=outcome)], at(60)) == []


def test_a_refusal_calls_at_once_with_its_reason_while_the_incident_is_open() -> None:
    (page,) = incident_pages([refused(is_open=True)], at(17))
    assert page.key.startswith("page/refused/")
    assert "kafka-2" in page.title
    assert page.text.splitlines()[0] == "2 of 3 are sick"


def test_it_is_the_same_call_when_the_incident_closes() -> None:
    assert (
        incident_pages([refused(is_open=True)], at(17))[0].key == incident_pages([refused()], at(1900))[0].key
    )


def test_a_node_that_is_refused_again_and_again_is_one_call_every_two_hours() -> None:
    story = [refused(later=2000.0 * number) for number in range(9)]  # each begins minutes after the last
    keys = {page.key for page in incident_pages(story, at(18000))}
    assert len(keys) == 3  # 0, 2 and 4 hours


def test_a_node_that_healed_in_between_is_a_new_call() -> None:
    story = [refused(), healed(later=2000), refused(later=4000)]
    assert len({page.key for page in incident_pages(story, at(6000))}) == 2


def test_nodes_that_fail_apart_are_calls_of_their_own() -> None:
    assert len(incident_pages([refused("kafka-1"), refused("kafka-2", later=61)], at(1900))) == 2


def waited_for(*, seconds: float, still: bool = True) -> Incident:
    """A partition: the guards' answer was to wait; ``still``: the newest one too."""
    opened = refused(is_open=True)
    first, confirmed, *_ = opened.entries
    told = JournalEntry(at(seconds), "guard", "Nothing is touched.", {"waiting": True})
    later = JournalEntry(at(seconds + 1), "guard", "Nothing is wrong with the node.", {"waiting": False})
    return replace(opened, entries=(first, confirmed, told, *(() if still else (later,))))


def test_a_node_that_is_waited_for_in_vain_calls_once() -> None:
    assert incident_pages([waited_for(seconds=60)], at(230)) == []
    (page,) = incident_pages([waited_for(seconds=250)], at(270))
    assert page.key.startswith("page/waiting/")
    assert incident_pages([waited_for(seconds=900)], at(910))[0].key == page.key
    assert incident_pages([waited_for(seconds=250, still=False)], at(270)) == []
    closed = replace(waited_for(seconds=250), closed_at=at(260), outcome=Outcome.FALSE_ALARM)
    assert incident_pages([closed], at(270)) == []


def with_verdict(incident: Incident, verdict: str, **data: Any) -> Incident:
    first, confirmed, *rest = incident.entries
    return replace(incident, entries=(first, replace(confirmed, data={"verdict": verdict} | data), *rest))


def test_nodes_with_one_symptom_at_one_time_are_one_call() -> None:
    story = [refused(f"kafka-{number}", later=10.0 * number, is_open=True) for number in (1, 2, 3)]
    (page,) = incident_pages(story, at(60))
    assert all(incident.node in page.title for incident in story)
    assert len(incident_pages([with_verdict(story[0], "hung"), *story[1:]], at(60))) == 2, (
        "the symptom differs"
    )


def test_nodes_of_which_a_common_cause_was_named_are_one_call() -> None:
    stall = {"cause": "fleet", "nodes": ["cassandra-1", "kafka-1"]}
    story = [
        with_verdict(refused("kafka-1"), "hung", common_cause=stall),
        with_verdict(refused("cassandra-1", later=5), "host_lost", common_cause=None),
        with_verdict(refused("kafka-3", later=5), "wrong"),
    ]
    assert len(incident_pages(story, at(2400))) == 2
    long_after = with_verdict(refused("cassandra-1", later=700), "host_lost")
    assert len(incident_pages([story[0], long_after], at(2600))) == 2


def test_a_zone_that_fails_is_one_page_that_names_it() -> None:
    zone = {"cause": "zone", "zone": "north", "nodes": ["cassandra-1", "kafka-1", "spark-worker-1"]}
    story = [
        with_verdict(refused("kafka-1"), "hung", common_cause=zone),
        with_verdict(refused("cassandra-1", later=5), "host_lost", common_cause=zone),
        with_verdict(refused("spark-worker-1", later=7), "partitioned", common_cause=None),
    ]
    (page,) = incident_pages(story, at(2400))
    assert all(incident.node in page.title for incident in story)
    assert "zone north" in page.text
    stall = {**zone, "cause": "fleet", "zone": None}
    others = [with_verdict(incident, "hung", common_cause=stall) for incident in story]
    (page,) = incident_pages(others, at(2400))
    assert "zone" not in page.text


def test_a_page_does_not_blame_a_zone_for_a_node_outside_of_it() -> None:
    zone = {"cause": "zone", "zone": "north", "nodes": ["cassandra-1", "kafka-1"]}
    story = [
        with_verdict(refused("kafka-1"), "hung", common_cause=zone),
        with_verdict(refused("kafka-3", later=5), "hung"),
    ]
    (page,) = incident_pages(story, at(2400))
    assert "kafka-3" in page.title
    assert "north" not in page.text


@given(st.lists(st.integers(0, 50), min_size=1, max_size=6))
def test_who_joins_a_call_later_is_one_more_call_and_nobody_is_left_out(seconds: list[int]) -> None:
    """Whatever the moments at which they are looked at, one cause is at most two pages, and names every node."""
    story = [
        refused(f"node-{number}", later=float(later), is_open=True)
        for number, later in enumerate(sorted(seconds))
    ]
    sent: dict[str, Page] = {}
    for moment in range(0, 160, 2):
        known = [one for one in story if one.entries[-1].at <= at(moment)]
        for page in incident_pages(known, at(moment)):
            sent.setdefault(page.key, page)
    assert len(sent) <= 2
    told = " ".join(page.title for page in sent.values())
    assert all(incident.node in told for incident in story)


def test_nodes_with_one_cause_are_called_again_together_after_two_hours() -> None:
    story = [refused(f"kafka-{node}", later=2000.0 * number + node) for number in range(9) for node in (1, 2)]
    sent = incident_pages(story, at(18000))
    assert len({page.key for page in sent}) == 3  # 0, 2 and 4 hours
    assert all("kafka-1" in page.title and "kafka-2" in page.title for page in sent)
    assert all(page.key.startswith("page/refused/") for page in sent)


def test_a_call_waits_for_those_with_its_cause_but_not_for_long() -> None:
    story = [refused(f"node-{number}", later=float(9 * number), is_open=True) for number in range(6)]
    assert incident_pages(story[:1], at(15)) == []
    assert len(incident_pages(story[:1], at(16))) == 1
    assert len(incident_pages(story[:4], at(36))) == 1, "they keep coming, and the first has waited for 30 s"


def _maintained(**changes: Any) -> Incident:
    story = refused(is_open=True)
    gates = {"refused": ["it is in maintenance"], "gates": ["maintenance"]} | changes
    return replace(story, entries=(*story.entries[:-1], replace(story.entries[-1], data=gates)))


def test_a_planned_stop_calls_nobody_until_it_has_lasted_for_half_a_day() -> None:
    assert incident_pages([_maintained()], at(600)) == []
    assert len(incident_pages([_maintained(gates=["budget", "maintenance"])], at(600))) == 1
    assert len(incident_pages([_maintained()], at(12 * 3600 + 60))) == 1


def test_a_refused_node_that_recovered_without_action_calls_nobody() -> None:
    assert incident_pages([replace(refused(), outcome=Outcome.HEALED)], at(1900)) == []


def _control_plane(name: str, *, later: float = 0, **changes: Any) -> Incident:
    story = healed(name, later)
    line = replace(story.entries[2], step="provision", message="no space left", data={"control_plane": True})
    return replace(story, entries=(*story.entries[:2], line), closed_at=None, outcome=None, **changes)


def test_a_control_plane_that_fails_is_one_call_however_many_nodes_it_cannot_repair() -> None:
    story = [_control_plane("kafka-1"), _control_plane("cassandra-2", later=600)]
    (page,) = incident_pages(story, at(700))
    assert page.key.startswith("page/control-plane/")
    assert "no space left" in page.text
    assert incident_pages([replace(story[0], closed_at=at(700), outcome=Outcome.HEALED)], at(720)) == []


def test_an_incident_that_the_sweep_took_over_is_overdue_too() -> None:
    begun = replace(_under_way(), holder="recover_node/sweep__i-1__1")
    busy = replace(begun, entries=(*begun.entries, replace(begun.entries[-1], at=at(1795))))
    assert [page.key for page in incident_pages([busy], at(1900))] == [f"page/overdue/{busy.id}"]


def test_a_repair_that_failed_for_good_calls() -> None:
    (page,) = incident_pages([replace(healed(), outcome=Outcome.FAILED, reason="canary failed")], at(70))
    assert page.key.startswith("page/failed/")
    assert "kafka-2" in page.title
    assert "canary failed" in page.text


def _under_way() -> Incident:
    return replace(healed(), closed_at=None, outcome=None, reason=None)


def test_a_repair_that_goes_on_for_too_long_calls_once_when_a_watch_began_it() -> None:
    begun = _under_way()
    busy = replace(
        begun, entries=(*begun.entries, replace(begun.entries[-1], at=at(1795), message="still joining"))
    )
    assert incident_pages([replace(busy, holder="watch_kafka-2/run")], at(1790)) == []
    story = [
        incident_pages([replace(busy, holder="watch_kafka-2/run")], at(seconds)) for seconds in (1830, 2400)
    ]
    assert len({page.key for found in story for page in found}) == 1
    assert story[0][0].key.startswith("page/overdue/")
    assert "still joining" in story[0][0].text
    assert incident_pages([replace(busy, holder="recover_node/run")], at(1830)) == []


def test_a_repair_under_way_does_not_call_until_it_stands_still() -> None:
    assert incident_pages([_under_way()], at(51 + 20 * 60)) == []
    (page,) = incident_pages([_under_way()], at(52 + 20 * 60))
    assert page.key.startswith("page/stuck/")


def test_what_is_older_than_a_day_is_history() -> None:
    assert incident_pages([refused()], at(1806 + 86400)) == []


def _false_alarm(minute: float, holder: str = "watch_kafka-2/run-1") -> Incident:
    return replace(healed(later=60 * minute), outcome=Outcome.FALSE_ALARM, reason="a pause", holder=holder)


def test_a_watch_that_cries_again_and_again_and_nothing_is_found_calls() -> None:
    alarms = [_false_alarm(5 * number) for number in range(6)]
    assert incident_pages(alarms[:5], at(1600)) == []
    (page,) = incident_pages(alarms, at(1600))
    assert page.key.startswith("page/unfounded/kafka-2/")
    assert "6" in page.text.split()
    assert "a pause" in page.text
    assert incident_pages(alarms, at(5000)) == [], "an hour later some of them no longer count"
    assert incident_pages([_false_alarm(minute, "recover_node/x") for minute in range(6)], at(600)) == [], (
        "a person looked"
    )
