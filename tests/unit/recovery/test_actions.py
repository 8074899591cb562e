"""How long a repaired node is waited for, and for what it isn't."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from kintsugi.core.errors import NewIncarnation, PermanentStepError, StepFailed
from kintsugi.core.fleet import load_fleet
from kintsugi.operations import readiness
from kintsugi.operations.context import RecoveryRef
from kintsugi.recovery import actions, assessment, fact_gathering, guard_evaluation
from kintsugi.recovery.diagnosis import Diagnosis, FailureMode

T0 = datetime(2026, 8, 1, 2, 15, tzinfo=UTC)
NODE = load_fleet().node("kafka-2")


class Waited:
    """A node that is redundant after ``looks`` looks in vain, and what it looks like meanwhile; time is made up."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, verdicts: Iterator[FailureMode], looks: int) -> None:
        self.now, self.looks, self.verdicts = 0.0, looks, verdicts
        self.starved_by: float | None = None
        monkeypatch.setattr(fact_gathering, "datetime", SimpleNamespace(now=self.clock))
        monkeypatch.setattr(time, "monotonic", lambda: self.now)
        monkeypatch.setattr(readiness, "wait_until_ready", self.wait)
        monkeypatch.setattr(assessment, "observe_node", lambda context, node: next(self.verdicts))
        monkeypatch.setattr(actions, "diagnose", lambda seen: Diagnosis(seen, f"kafka-2 is {seen}."))

    def clock(self, zone: Any) -> datetime:
        return T0 + timedelta(seconds=self.now)

    def wait(self, settings: Any, fleet: Any, node: Any, deadline_s: float) -> str:
        self.looks -= 1
        if self.looks < 0:
            return "kafka-2 is ready"
        self.now += deadline_s
        raise StepFailed("it is out of sync in trades-0")

    def processor_use(self, name: str) -> tuple[float, float] | None:
        """Of a node that gets a twentieth of what it wants, or (by default) of one whose use isn't known."""
        return None if self.starved_by is None else (self.now, self.now * self.starved_by)

    def __call__(self) -> str:
        context: Any = SimpleNamespace(settings=None, fleet=None, platform=lambda: self)
        return actions._await_redundant(context, NODE, None)  # type: ignore[arg-type]


def always(verdict: FailureMode) -> Iterator[FailureMode]:
    while True:
        yield verdict


@pytest.mark.parametrize(
    ("verdict", "minutes"),
    [(FailureMode.STARTING, 29), (FailureMode.FALSE_ALARM, 11)],
    ids=["starts", "serves"],
)
def test_a_node_that_starts_or_serves_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, verdict: FailureMode, minutes: int
) -> None:
    waited = Waited(monkeypatch, always(verdict), looks=minutes * 6)
    assert waited() == "kafka-2 is ready"


OTHERS = sorted(set(FailureMode) - {FailureMode.STARTING, FailureMode.FALSE_ALARM})


@pytest.mark.parametrize("verdict", OTHERS)
def test_any_other_is_given_the_time_of_a_start_and_no_more(
    monkeypatch: pytest.MonkeyPatch, verdict: FailureMode
) -> None:
    """The restart of a Spark worker "failed" after 10 s, and its init had started it some seconds later."""
    waited = Waited(monkeypatch, always(verdict), looks=100)
    with pytest.raises(PermanentStepError, match=f"kafka-2 is {verdict}. it is out of sync in trades-0"):
        waited()
    assert actions.GRACE_S < waited.now <= actions.GRACE_S + actions.LOOK_EVERY_S


def test_a_starved_start_is_waited_for_by_the_processor_time_that_it_gets(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waited = Waited(monkeypatch, always(FailureMode.HUNG), looks=100)
    waited.starved_by = 4.0  # it waits four times as long as it runs, so five times as long is given
    with pytest.raises(PermanentStepError):
        waited()
    assert 5 * actions.GRACE_S < waited.now <= 5 * actions.GRACE_S + 2 * actions.LOOK_EVERY_S


def test_a_node_that_gets_nothing_is_given_up_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    waited = Waited(monkeypatch, always(FailureMode.HUNG), looks=1000)
    waited.starved_by = 1e6
    with pytest.raises(PermanentStepError):
        waited()
    assert (
        waited.now <= actions.GRACE_S / fact_gathering.ProcessorClock.LEAST_SHARE + 2 * actions.LOOK_EVERY_S
    )


@pytest.mark.parametrize("verdict", actions.PATIENCE_S)
def test_nothing_is_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch, verdict: FailureMode) -> None:
    waited = Waited(monkeypatch, always(verdict), looks=1_000_000)
    with pytest.raises(PermanentStepError, match="out of sync"):
        waited()
    assert waited.now == actions.PATIENCE_S[verdict] + actions.LOOK_EVERY_S


@pytest.mark.parametrize("running", [False, True])
def test_where_another_incarnation_runs_the_attempt_is_withdrawn(
    monkeypatch: pytest.MonkeyPatch, running: bool
) -> None:
    withdrawn: list[tuple[Any, ...]] = []
    store = SimpleNamespace(kill_lock=nullcontext, withdraw_attempt=lambda *given: withdrawn.append(given))
    context: Any = SimpleNamespace(store=store, platform=lambda: None, node=lambda case: NODE)
    step: Any = SimpleNamespace(token=7, note=lambda *_given, **_data: None)
    facts = SimpleNamespace(
        service=None, running=running, last_seen_at=None, view=SimpleNamespace(process=None)
    )
    monkeypatch.setattr(fact_gathering, "is_running", lambda platform, name: running)
    monkeypatch.setattr(guard_evaluation, "reevaluate_guards", lambda *_given: facts)
    with (
        pytest.raises(NewIncarnation, match="it came up anew"),
        actions._judged(context, RecoveryRef("i-1", "kafka-2", "run-1"), step),
    ):
        raise NewIncarnation("it came up anew")
    assert withdrawn == [("i-1", 7, "run-1", "not killed: it came up anew")]
    with actions._judged(context, RecoveryRef("i-1", "kafka-2", "run-1"), step):
        pass
    assert len(withdrawn) == 1
