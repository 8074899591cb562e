from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from types import SimpleNamespace
from typing import Any, cast

import pytest  # noqa: TC002
from sqlalchemy.exc import OperationalError

from kintsugi.controlplane.scheduler_patches import ALL_AFTER_S, BLIND_S, Examined, Rest


def after(seconds: float, before: Hashable, then: Hashable) -> Callable[[], Hashable]:
    began = time.monotonic()
    return lambda: before if time.monotonic() < began + seconds else then


def seconds_of(rest: Rest, most: float) -> float:
    began = time.monotonic()
    rest.sleep(most)
    return time.monotonic() - began


def rested(look: Callable[[], Hashable]) -> Rest:
    rest = Rest(look)
    rest.sleep(0)
    return rest


def test_it_rests_as_long_as_nothing_changes() -> None:
    assert seconds_of(rested(lambda: 1), 0.7) >= 0.7


def test_a_change_ends_the_rest() -> None:
    rest = rested(after(0.3, 1, 2))
    assert 0.1 < seconds_of(rest, 20) < 10
    assert seconds_of(rest, 0.5) >= 0.5  # and is known from then on


def test_what_changed_while_the_scheduler_was_at_work_is_no_surprise_to_sleep_over() -> None:
    state = [1]
    rest = rested(lambda: state[0])
    state[0] = 2
    assert seconds_of(rest, 20) < 10


def test_a_database_that_does_not_answer_makes_the_rests_short_and_is_told_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def look() -> Hashable:
        raise OperationalError("SELECT", {}, Exception("gone"))

    rest = Rest(look)
    assert BLIND_S <= seconds_of(rest, 20) < 10
    assert seconds_of(rest, 0.1) >= 0.1
    assert len(caplog.records) == 1


def test_the_rest_of_the_module_time_is_there() -> None:
    assert abs(Rest(lambda: 1).time() - time.time()) < 10


def test_runs_that_have_not_changed_are_looked_at_once_in_a_while() -> None:
    now, changed = [0.0], {2}
    every = cast("Any", lambda session: [SimpleNamespace(id=1), SimpleNamespace(id=2), SimpleNamespace(id=3)])
    examined = Examined(every, lambda _: changed, lambda: now[0])

    def looked_at() -> list[int]:
        return [run.id for run in examined(session=cast("Any", None))]

    assert looked_at() == [1, 2, 3]
    assert looked_at() == [2]
    now[0] = ALL_AFTER_S - 0.1
    changed.clear()
    assert looked_at() == []
    now[0] = ALL_AFTER_S
    assert looked_at() == [1, 2, 3]
    assert looked_at() == []
