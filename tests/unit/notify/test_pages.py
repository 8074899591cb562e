from __future__ import annotations

from dataclasses import replace

import pytest

from kintsugi.incident import Incident, Outcome
from kintsugi.notify.pages import pages
from tests.stories import at, healed, refused


def test_a_healed_incident_wakes_nobody() -> None:
    assert pages([healed()], at(60)) == []


@pytest.mark.parametrize("outcome", [Outcome.FALSE_ALARM, Outcome.DRY_RUN])
def test_nor_does_one_that_was_none(outcome: Outcome) -> None:
    assert pages([replace(healed(), outcome=outcome)], at(60)) == []


def test_a_refusal_calls_at_once_with_its_reason_while_the_incident_is_open() -> None:
    (page,) = pages([refused(is_open=True)], at(7))
    assert page.title == "kafka-2 needs a person: its repair was refused"
    assert page.text.startswith("2 of 3 are sick\n")


def test_it_is_the_same_call_when_the_incident_closes() -> None:
    assert pages([refused(is_open=True)], at(7))[0].key == pages([refused()], at(1900))[0].key


def test_a_node_that_is_refused_again_and_again_is_one_call_every_two_hours() -> None:
    story = [refused(later=2000.0 * number) for number in range(9)]  # each begins minutes after the last
    keys = {page.key for page in pages(story, at(18000))}
    assert len(keys) == 3  # 0, 2 and 4 hours


def test_a_node_that_healed_in_between_is_a_new_call() -> None:
    story = [refused(), healed(later=2000), refused(later=4000)]
    assert len({page.key for page in pages(story, at(6000))}) == 2


def test_every_node_is_a_call_of_its_own() -> None:
    assert len(pages([refused("kafka-1"), refused("kafka-2")], at(1900))) == 2


def test_a_repair_that_failed_for_good_calls() -> None:
    (page,) = pages([replace(healed(), outcome=Outcome.FAILED, reason="canary failed")], at(60))
    assert page.title == "kafka-2 needs a person: its repair failed"
    assert "canary failed" in page.text


def _under_way() -> Incident:
    return replace(healed(), closed_at=None, outcome=None, reason=None)


def test_a_repair_that_goes_on_for_too_long_calls_once_when_a_watch_began_it() -> None:
    begun = _under_way()
    busy = replace(
        begun, entries=(*begun.entries, replace(begun.entries[-1], at=at(1795), message="still joining"))
    )
    assert pages([replace(busy, holder="watch_kafka-2/run")], at(1790)) == []
    story = [pages([replace(busy, holder="watch_kafka-2/run")], at(seconds)) for seconds in (1830, 2400)]
    assert len({page.key for found in story for page in found}) == 1
    assert story[0][0].title == "kafka-2 is not healed after 30 minutes"
    assert "still joining" in story[0][0].text
    assert pages([replace(busy, holder="recover_node/run")], at(1830)) == []


def test_a_repair_under_way_does_not_call_until_it_stands_still() -> None:
    assert pages([_under_way()], at(51 + 20 * 60)) == []
    (page,) = pages([_under_way()], at(52 + 20 * 60))
    assert "stands still" in page.title


def test_what_is_older_than_a_day_is_history() -> None:
    assert pages([refused()], at(1806 + 86400)) == []


def _false_alarm(minute: float, holder: str = "watch_kafka-2/run-1") -> Incident:
    return replace(healed(later=60 * minute), outcome=Outcome.FALSE_ALARM, reason="a pause", holder=holder)


def test_a_watch_that_cries_again_and_again_and_nothing_is_found_calls() -> None:
    alarms = [_false_alarm(5 * number) for number in range(6)]
    assert pages(alarms[:5], at(1600)) == []
    (page,) = pages(alarms, at(1600))
    assert page.title == "kafka-2 needs a person: its watch finds it sick again and again"
    assert "6 times within the hour" in page.text
    assert "a pause" in page.text
    assert pages(alarms, at(5000)) == [], "an hour later some of them no longer count"
    assert pages([_false_alarm(minute, "recover_node/x") for minute in range(6)], at(600)) == [], (
        "a person looked"
    )
