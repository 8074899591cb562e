"""When the steady state counts as held, as lost by the release, and as lost by something else."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from kintsugi.core.errors import GuardRefused
from kintsugi.releases import steady_state
from kintsugi.releases.steady_state import SickNodes, Steady

WELL = Steady()


class Clock:
    """Seconds that pass only where somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(steady_state, "time", made)
    return made


def sick(node: str, clock: Clock, *, since: float, until: float) -> Callable[[], Steady]:
    def look() -> Steady:
        return Steady({node: "it is silent"}) if since <= clock.now < until else WELL

    return look


def test_well_for_the_whole_time_is_held(clock: Clock) -> None:
    steady_state.bake_fleet(lambda: WELL, 60, ["kafka-1"])
    assert 60 <= clock.now < 65


def test_a_pause_of_a_touched_node_only_begins_the_time_anew(clock: Clock) -> None:
    steady_state.bake_fleet(sick("kafka-1", clock, since=10, until=24), 60, ["kafka-1"])
    assert 84 <= clock.now < 90


def test_a_touched_node_that_stays_sick_is_a_bad_probe(clock: Clock) -> None:
    with pytest.raises(SickNodes, match="kafka-1: it is silent") as caught:
        steady_state.bake_fleet(sick("kafka-1", clock, since=10, until=1e9), 60, ["kafka-1"])
    assert list(caught.value.nodes) == ["kafka-1"]
    assert clock.now < 40


def test_another_node_is_waited_for_and_not_held_against_the_release(clock: Clock) -> None:
    steady_state.bake_fleet(sick("cassandra-2", clock, since=10, until=150), 60, ["kafka-1"])
    assert 210 <= clock.now < 220
    with pytest.raises(GuardRefused, match="cassandra-2: it is silent"):
        steady_state.bake_fleet(sick("cassandra-2", clock, since=0, until=1e9), 60, ["kafka-1"])


def test_an_open_incident_is_no_steady_state(clock: Clock) -> None:
    with pytest.raises(GuardRefused, match="incident kafka-3-x is open"):
        steady_state.await_steady(lambda: Steady(others=("incident kafka-3-x is open",)), 10)
    assert clock.now >= 10


def test_it_is_waited_for_as_long_as_a_repair_may_take(clock: Clock) -> None:
    steady_state.await_steady(sick("kafka-1", clock, since=0, until=100))
    assert 100 <= clock.now < 110
