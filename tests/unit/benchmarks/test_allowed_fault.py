"""Every fault of a benchmark is allowed by chaos, is on record, and is undone; whichever benchmark injects it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks import allowed_fault, crash_test, mttr
from benchmarks.allowed_fault import AllowedFault, allow_fault, check_switch
from benchmarks.crash_test_plan import Killing, Victim
from benchmarks.mttr_figures import HandStart, Repair
from kintsugi.chaos import guard, injection, janitor, switch
from kintsugi.chaos.faults import Fault
from kintsugi.chaos.switch import ChaosStopped
from kintsugi.core.errors import GuardRefused, StepFailed
from kintsugi.core.fleet import Role
from kintsugi.db.store import StoreUnavailable
from tests.installations import installation

KIND = "power_off"
FaultActions = list[str]


class Store:
    """Records faults; ``refusals`` are raised by the guards of chaos, one a call, before they allow the fault."""

    def __init__(self) -> None:
        self.faults: list[dict[str, Any]] = []
        self.refusals: list[Exception] = []
        self.stopped = False

    def record_fault(self, node: str, **data: Any) -> None:
        self.faults.append({"node": node, **data})

    def read_desired(self, name: str) -> Any:
        return SimpleNamespace(value={"stopped": self.stopped}) if name == switch.CHAOS else None

    def check(self, *_: Any) -> None:
        if self.refusals:
            raise self.refusals.pop(0)


@pytest.fixture
def actions(monkeypatch: pytest.MonkeyPatch) -> FaultActions:
    """What was done to the nodes, of the fault KIND and of the one that a person starts again by hand."""
    done: FaultActions = []

    def note(word: str) -> Callable[[Any, Sequence[str]], None]:
        return lambda _, names: done.append(f"{word} {' '.join(names)}")

    faults = {kind: Fault(kind, "a test", note("made"), note("undone")) for kind in (KIND, "hung")}
    for module in (allowed_fault, injection, janitor):
        monkeypatch.setattr(module, "FAULTS", faults)
    return done


@pytest.fixture
def context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, actions: FaultActions) -> Any:
    settings, store = installation(tmp_path, "127.96"), Store()
    monkeypatch.setattr(janitor, "start_janitor", lambda: None)
    monkeypatch.setattr(guard, "check_guards", store.check)
    monkeypatch.setattr(time, "sleep", lambda _: None)
    return SimpleNamespace(settings=settings, fleet=settings.fleet, store=store)


def test_the_guards_are_asked_until_they_allow_the_fault(context: Any, actions: FaultActions) -> None:
    context.store.refusals = [GuardRefused("a repair is pending"), GuardRefused("a repair is pending")]
    allowed = allow_fault(context, KIND, ["kafka-2"], run="test")
    assert context.store.refusals == []
    assert (actions, context.store.faults) == ([], [])
    with allowed.inject_fault() as t0:
        assert actions == ["made kafka-2"]
        (record,) = janitor.fault_records(context.settings)
        assert (record.kind, record.nodes) == (KIND, ("kafka-2",))
        (fault,) = context.store.faults
        assert (fault["node"], fault["kind"], fault["t0"], fault["mode"]) == ("kafka-2", KIND, t0, "reset")
    assert actions == ["made kafka-2", "undone kafka-2"]
    assert janitor.fault_records(context.settings) == []


def test_a_refusal_is_raised_at_the_deadline(context: Any, actions: FaultActions) -> None:
    context.store.refusals = [GuardRefused("kafka-2 is protected"), GuardRefused("kafka-2 is protected")]
    with pytest.raises(GuardRefused):
        allow_fault(context, KIND, ["kafka-2"], run="test", deadline_s=-1.0)
    assert len(context.store.refusals) == 1
    assert actions == []


def test_a_person_who_stops_chaos_after_the_guards_allowed_it_is_obeyed(
    context: Any, actions: FaultActions
) -> None:
    allowed = allow_fault(context, KIND, ["kafka-2"], run="test")
    context.store.stopped = True
    with pytest.raises(ChaosStopped), allowed.inject_fault():
        pass
    assert (actions, context.store.faults) == ([], [])
    with pytest.raises(ChaosStopped):
        check_switch(context)


def test_a_fault_is_undone_when_the_benchmark_fails(context: Any, actions: FaultActions) -> None:
    with pytest.raises(StepFailed), AllowedFault(context, KIND, ["kafka-2"], "test").inject_fault():
        raise StepFailed("it did not recover")
    assert actions == ["made kafka-2", "undone kafka-2"]


def test_a_database_that_is_the_victim_does_not_end_a_benchmark(
    context: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def is_away(_: Any) -> None:
        raise StoreUnavailable("no answer")

    monkeypatch.setattr(switch, "check_not_stopped", is_away)
    check_switch(context)


def measure_repair(context: Any) -> object:
    planned = Repair(Role.KAFKA, "kafka-2", "power_off", "reset", 1)
    return mttr.Mttr(context, SimpleNamespace(), SimpleNamespace(), Path("x"), 1).measure_repair(planned)  # type: ignore[arg-type]


def measure_hand_start(context: Any) -> object:
    planned = HandStart(Role.KAFKA, "kafka-2", "process_death", 1)
    return mttr.Mttr(context, SimpleNamespace(), SimpleNamespace(), Path("x"), 1).measure_hand_start(planned)  # type: ignore[arg-type]


def crash_recovery(context: Any) -> object:
    killing = Killing("fence", Victim.WORKER, "kafka-2")
    return crash_test.CrashTest(context, SimpleNamespace(), Path("x"), [killing]).run_experiment(killing)  # type: ignore[arg-type,func-returns-value]


@pytest.mark.parametrize("benchmark", [measure_repair, measure_hand_start, crash_recovery])
@pytest.mark.parametrize("refusal", [ChaosStopped("stopped by olga"), GuardRefused("kafka-2 is protected")])
def test_no_benchmark_injects_a_fault_that_chaos_refuses(
    context: Any,
    actions: FaultActions,
    monkeypatch: pytest.MonkeyPatch,
    benchmark: Callable[[Any], object],
    refusal: GuardRefused,
) -> None:
    monkeypatch.setattr(crash_test, "await_steady_state", lambda *_: None)
    context.store.refusals = [refusal] * 10_000
    monkeypatch.setattr(time, "monotonic", iter_clock())
    with pytest.raises(type(refusal)):
        benchmark(context)
    assert (actions, context.store.faults) == ([], [])


def iter_clock() -> Callable[[], float]:
    """A clock on which every call is an hour later."""
    now = iter(range(0, 3_600_000_000, 3600))
    return lambda: float(next(now))
