"""Faults whose owner died are taken back, by somebody else, once and until it succeeds."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kintsugi.chaos import injection, janitor, registry
from kintsugi.chaos.faults import Fault
from kintsugi.chaos.injection import fault_in_force, hold_fault
from kintsugi.chaos.switch import ChaosStopped
from kintsugi.core.errors import StepFailed
from kintsugi.environments.local.node_process import start_time
from tests.installations import installation


@pytest.fixture
def context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(janitor, "start_janitor", lambda: None)
    return SimpleNamespace(settings=installation(tmp_path, "127.96"))


Done = list[tuple[str, tuple[str, ...]]]


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> Done:
    """What was made and taken back, of a fault called ``test``."""
    found: Done = []

    def note(word: str) -> Callable[[Any, Sequence[str]], None]:
        return lambda _, names: found.append((word, tuple(names)))

    use(monkeypatch, Fault("test", "a test", note("made"), note("taken back")))
    return found


def use(monkeypatch: pytest.MonkeyPatch, fault: Fault) -> None:
    faults = {fault.kind: fault}
    monkeypatch.setattr(registry, "FAULTS", faults)
    monkeypatch.setattr(injection, "FAULTS", faults)
    monkeypatch.setattr(janitor, "FAULTS", faults)


@pytest.fixture
def dead_owner() -> Iterator[tuple[int, int | None]]:
    process = subprocess.Popen(["sleep", "60"])
    began = start_time(process.pid)
    process.kill()
    process.wait()
    return (process.pid, began)  # type: ignore[return-value]


def abandoned(context: Any, owner: tuple[int, int | None]) -> janitor.FaultRecord:
    """A record as a process leaves it that was killed with its fault in force."""
    record = janitor.register_fault(context.settings, "test", ("kafka-1",), 600)
    dead = replace(record, id="test-dead", owner=owner[0], owner_started=owner[1])
    janitor.forget_fault(context.settings, record)
    path = janitor._record_path(context.settings, dead)
    path.write_text(json.dumps(asdict(dead)))
    return dead


def test_the_fault_of_a_dead_owner_is_taken_back_once(
    context: Any, done: Done, dead_owner: tuple[int, int | None]
) -> None:
    record = abandoned(context, dead_owner)
    assert janitor.sweep_overdue(context) == [record]
    assert janitor.sweep_overdue(context) == []
    assert done == [("taken back", ("kafka-1",))]


def test_the_fault_of_a_living_owner_is_left_alone_until_its_time_is_over(context: Any, done: Done) -> None:
    record = janitor.register_fault(context.settings, "test", ("kafka-1",), 600)
    assert janitor.sweep_overdue(context) == []
    assert record.overdue(time.time() + 601) is not None
    janitor.forget_fault(context.settings, record)
    late = janitor.register_fault(context.settings, "test", ("kafka-1",), -1)
    assert janitor.sweep_overdue(context) == [late]


def test_a_pid_that_was_handed_on_is_no_living_owner(context: Any) -> None:
    record = janitor.register_fault(context.settings, "test", ("kafka-1",), 600)
    assert record.overdue(time.time()) is None
    assert record.owner_started is not None
    assert replace(record, owner_started=record.owner_started - 1).overdue(time.time()) is not None
    assert replace(record, owner_started=None).overdue(time.time()) is not None


def test_what_cannot_be_taken_back_now_is_tried_again(
    context: Any, monkeypatch: pytest.MonkeyPatch, dead_owner: tuple[int, int | None]
) -> None:
    tries: list[int] = []

    def fails_once(_: Any, names: Sequence[str]) -> None:
        tries.append(1)
        if len(tries) == 1:
            raise StepFailed("the node doesn't answer")

    use(monkeypatch, Fault("test", "a test", lambda *_: None, fails_once))
    record = abandoned(context, dead_owner)
    assert janitor.sweep_overdue(context) == []
    assert janitor.fault_records(context.settings) == [record]
    assert janitor.sweep_overdue(context) == [record]


def test_a_janitor_runs_until_there_are_no_records(
    context: Any, done: Done, dead_owner: tuple[int, int | None]
) -> None:
    abandoned(context, dead_owner)
    assert janitor.run_janitor(context.settings, context) == 0
    assert done == [("taken back", ("kafka-1",))]
    assert janitor.fault_records(context.settings) == []


def test_a_janitor_of_an_installation_that_was_removed_ends(context: Any) -> None:
    assert janitor.run_janitor(context.settings, context) == 0


def test_a_record_that_cannot_be_read_stops_nobody(context: Any, done: Done) -> None:
    janitor.register_fault(context.settings, "test", ("kafka-1",), -1)
    (janitor.record_directory(context.settings) / "a.fault.json").write_text("{")
    assert len(janitor.sweep_overdue(context)) == 1


@pytest.mark.parametrize("failure", [ChaosStopped("stop"), KeyboardInterrupt(), StepFailed("x")])
def test_a_fault_is_taken_back_whatever_ends_the_experiment(
    context: Any, done: Done, failure: BaseException
) -> None:
    def experiment() -> None:
        with fault_in_force(context, "test", ["kafka-1"]):
            assert [record.kind for record in janitor.fault_records(context.settings)] == ["test"]
            raise failure

    with pytest.raises(type(failure)):
        experiment()
    assert done == [("made", ("kafka-1",)), ("taken back", ("kafka-1",))]
    assert janitor.fault_records(context.settings) == []


def test_a_fault_that_was_half_made_is_taken_back(context: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    back: list[Sequence[str]] = []

    def fails(_: Any, names: Sequence[str]) -> None:
        raise StepFailed("half made")

    use(monkeypatch, Fault("test", "a test", fails, lambda _, names: back.append(names)))
    with pytest.raises(StepFailed), fault_in_force(context, "test", ["kafka-1"]):
        pass
    assert back == [("kafka-1",)]


def test_one_that_cannot_be_taken_back_keeps_its_record_for_the_janitor(
    context: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_: Any, names: Sequence[str]) -> None:
        raise StepFailed("not now")

    use(monkeypatch, Fault("test", "a test", lambda *_: None, fails))
    with fault_in_force(context, "test", ["kafka-1"]):
        pass
    assert [record.kind for record in janitor.fault_records(context.settings)] == ["test"]


def test_the_recorder_is_told_before_anything_is_done(context: Any, done: Done) -> None:
    with fault_in_force(
        context, "test", ["kafka-1"], announce=lambda names: done.append(("told", tuple(names)))
    ):
        pass
    assert [word for word, _ in done] == ["told", "made", "told", "taken back"]


def test_a_hold_repeats_and_is_ended_by_its_check() -> None:
    times: list[int] = []
    hold_fault(1.2, again=lambda: times.append(1), every_s=0.5)
    assert len(times) == 2

    def check() -> None:
        raise ChaosStopped("stop")

    with pytest.raises(ChaosStopped):
        hold_fault(60, check)
