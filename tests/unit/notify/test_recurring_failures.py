"""What fails again and again calls a person, by tables."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kintsugi.core.incident import Incident, Outcome
from kintsugi.db.flags import RecordedFault
from kintsugi.notify.recurring_failures import exits_in, pattern_pages
from tests.fixtures_incidents import T0, at, healed

MINUTE, HOUR = 60.0, 3600.0


def failure(after: float, node: str = "kafka-2", **changes: Any) -> Incident:
    """A failure that nobody caused on purpose, and that was healed."""
    found = healed(node, after, t0=None, holder=f"watch_{node}/run-1")
    return replace(found, id=f"{node}-{after}", **changes)


@pytest.mark.parametrize(
    ("every", "count", "calls"),
    [
        (3 * MINUTE, 3, False),
        (3 * MINUTE, 4, True),
        (14 * MINUTE, 4, True),
        (2 * HOUR, 3, False),
        (2 * HOUR, 4, True),  # the same failure, four times a day
        (12 * HOUR, 10, False),
    ],
)
def test_a_service_that_fails_and_is_healed_again_and_again_calls(
    every: float, count: int, calls: bool
) -> None:
    story = [failure(every * number) for number in range(count)]
    now = story[-1].last_word + timedelta(seconds=5)
    assert bool(pattern_pages(story, now)) is calls


@pytest.mark.parametrize(
    "changes",
    [
        {"t0": T0},  # chaos
        {"outcome": Outcome.FALSE_ALARM},  # a rule of their own
        {"outcome": Outcome.DRY_RUN},
        {"outcome": Outcome.REFUSED},  # has called already
        {"holder": "recover_node/manual-1"},
    ],
)
def test_what_has_a_reason_or_a_call_of_its_own_does_not_count(changes: dict[str, Any]) -> None:
    story = [failure(3 * MINUTE * number, **changes) for number in range(20)]
    assert pattern_pages(story, at(HOUR)) == []


def test_different_failures_hours_apart_are_no_pattern() -> None:
    story = [failure(5 * HOUR * number) for number in range(4)]
    story = [
        replace(one, entries=tuple(
            replace(entry, data={"verdict": f"verdict-{number}"}) if "verdict" in entry.data else entry
            for entry in one.entries
        ))
        for number, one in enumerate(story)
    ]  # fmt: skip
    assert pattern_pages(story, at(16 * HOUR)) == []


def exits(*minutes: float) -> list[datetime]:
    return [at(60 * minute) for minute in minutes]


def test_exits_that_no_watch_saw_call_too() -> None:
    now = at(HOUR)
    assert pattern_pages([], now, exits={"kafka-2": exits(5, 10, 15, 20, 25)}) == []
    (page,) = pattern_pages([], now, exits={"kafka-2": exits(5, 10, 15, 20, 25, 30)})
    assert "kafka-2" in page.title
    assert pattern_pages([], at(3 * HOUR), exits={"kafka-2": exits(5, 10, 15, 20, 25, 30)}) == []
    faults = [RecordedFault("kafka-2", "kill", "reset", "run", at(300.0 * number)) for number in range(1, 7)]
    assert pattern_pages([], now, exits={"kafka-2": exits(5, 10, 15, 20, 25, 30)}, faults=faults) == []


@given(st.integers(5, 480))
def test_a_loop_calls_at_most_once_in_two_hours_by_the_clock(count: int) -> None:
    story = [failure(3 * MINUTE * number) for number in range(count)]
    end = story[-1].last_word
    keys = set()
    for hour in range(int((end - T0).total_seconds() // HOUR) + 1):
        now = min(T0 + timedelta(hours=hour + 1), end)
        keys |= {
            page.key for page in pattern_pages([one for one in story if one.opened_at <= now][-100:], now)
        }
    assert 1 <= len(keys) <= (end - T0) / timedelta(hours=2) + 2


def test_every_node_has_a_call_of_its_own() -> None:
    story = [failure(3 * MINUTE * number, node) for number in range(6) for node in ("kafka-1", "kafka-2")]
    assert len({page.key for page in pattern_pages(story, at(20 * MINUTE))}) == 2


def test_exits_are_read_from_the_log_of_the_init() -> None:
    lines = [
        "2026-11-28T23:00:30.602522+00:00 2026-11-28 23:00:30,602 INFO spawned: 'kafka' with pid 27",
        "2026-11-28T23:01:30.602522+00:00 2026-11-28 23:01:30,602 WARN exited: kafka (exit status 1; not expected)",
        "2026-11-28T23:02:30.602522+00:00 2026-11-28 23:02:30,602 INFO exited: sshd (exit status 0; expected)",
        "2026-11-28T23:03:30.602522+00:00 2026-11-28 23:03:30,602 INFO stopped: kafka (terminated by SIGTERM)",
        "23,159 WARN exited: kafka (terminated by SIGKILL; not expected)",
        "",
    ]
    assert exits_in(lines, "kafka") == [datetime.fromisoformat("2026-11-28T23:01:30.602522+00:00")]
