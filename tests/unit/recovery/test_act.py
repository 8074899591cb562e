"""How long a repaired node is waited for, and for what it isn't."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from kintsugi.errors import StepFailed, StepFailedForGood
from kintsugi.fleet import load_fleet
from kintsugi.recovery import act, assess, redundant
from kintsugi.recovery.diagnose import Diagnosis, Verdict

T0 = datetime(2026, 8, 1, 2, 15, tzinfo=UTC)
NODE = load_fleet().node("kafka-2")


class Waited:
    """A node that is redundant after ``looks`` looks in vain, and what it looks like meanwhile; time is made up."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, verdicts: Iterator[Verdict], looks: int) -> None:
        self.now, self.looks, self.verdicts = 0.0, looks, verdicts
        monkeypatch.setattr(time, "monotonic", lambda: self.now)
        monkeypatch.setattr(redundant, "wait", self.wait)
        monkeypatch.setattr(assess, "look", lambda runtime, node: next(self.verdicts))
        monkeypatch.setattr(act, "diagnose", lambda seen: Diagnosis(seen, f"kafka-2 is {seen}."))

    def wait(self, settings: Any, fleet: Any, node: Any, deadline_s: float) -> str:
        self.looks -= 1
        if self.looks < 0:
            return "kafka-2 is redundant again"
        self.now += deadline_s
        raise StepFailed("it is out of sync in trades-0")

    def __call__(self) -> str:
        return act._await_redundant(SimpleNamespace(settings=None, fleet=None), NODE, None)  # type: ignore[arg-type]


def always(verdict: Verdict) -> Iterator[Verdict]:
    while True:
        yield verdict


@pytest.mark.parametrize(
    ("verdict", "minutes"), [(Verdict.STARTING, 29), (Verdict.FALSE_ALARM, 11)], ids=["starts", "serves"]
)
def test_a_node_that_starts_or_serves_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, verdict: Verdict, minutes: int
) -> None:
    waited = Waited(monkeypatch, always(verdict), looks=minutes * 6)
    assert waited() == "kafka-2 is redundant again"


@pytest.mark.parametrize("verdict", set(Verdict) - {Verdict.STARTING, Verdict.FALSE_ALARM})
def test_any_other_is_given_up_at_the_first_look(monkeypatch: pytest.MonkeyPatch, verdict: Verdict) -> None:
    waited = Waited(monkeypatch, iter([Verdict.STARTING, verdict]), looks=10)
    with pytest.raises(StepFailedForGood, match=f"kafka-2 is {verdict}. it is out of sync in trades-0"):
        waited()
    assert waited.now == 2 * act.LOOK_EVERY_S


@pytest.mark.parametrize("verdict", act.PATIENCE_S)
def test_nothing_is_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch, verdict: Verdict) -> None:
    waited = Waited(monkeypatch, always(verdict), looks=1_000_000)
    with pytest.raises(StepFailedForGood, match="out of sync"):
        waited()
    assert waited.now == act.PATIENCE_S[verdict] + act.LOOK_EVERY_S
