"""How long a repaired node is waited for, and for what it isn't."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from kintsugi.core.errors import GuardRefused, NewIncarnation, NodeReturned, PermanentStepError, StepFailed
from kintsugi.core.fleet import load_fleet
from kintsugi.core.incident import Action, JournalEntry
from kintsugi.core.observation import ProbeResult, ServiceProcess
from kintsugi.operations import readiness
from kintsugi.operations.context import RecoveryRef
from kintsugi.recovery import actions, assessment, fact_gathering, guard_evaluation, kill_permission
from kintsugi.recovery.diagnosis import Diagnosis, FailureMode
from kintsugi.recovery.guard_model import GuardResult
from kintsugi.releases import assignment

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
        monkeypatch.setattr(actions, "diagnose_node", lambda seen: Diagnosis(seen, f"kafka-2 is {seen}."))

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
        return actions._await_ready(context, NODE, None)  # type: ignore[arg-type]


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


class OpenAttempt:
    """A recovery with an open attempt on a node that may still run; ``withdrawals`` are the reasons given."""

    fleet = load_fleet()

    def __init__(self, monkeypatch: pytest.MonkeyPatch, action: Action, *, running: bool) -> None:
        self.withdrawals: list[str] = []
        self.running, self.action = running, action
        self.refused_by_guards = GuardResult(True)
        self.answer = self.answer_at_the_kill = ProbeResult.TIMEOUT
        self.age = timedelta()
        self.process: ServiceProcess | None = ServiceProcess(41, 7)
        self.entries: list[JournalEntry] = []
        monkeypatch.setattr(kill_permission, "probe_node", self.probe)
        monkeypatch.setattr(kill_permission, "evaluate_action", lambda *_, **__: self.refused_by_guards)
        monkeypatch.setattr(guard_evaluation, "current_facts", lambda *_: self.facts())
        monkeypatch.setattr(guard_evaluation, "limits_in_force", lambda _: None)
        monkeypatch.setattr(guard_evaluation, "approved_guards", lambda *_: [])
        monkeypatch.setattr(actions, "_confirmed_mode", lambda *_: FailureMode.HUNG)
        monkeypatch.setattr(actions, "_open_action", lambda *_: action)

    async def probe(self, node: Any) -> Any:
        assert node is NODE
        return SimpleNamespace(answer=self.answer_at_the_kill)

    @property
    def store(self) -> OpenAttempt:
        return self

    def facts(self) -> Any:
        return SimpleNamespace(
            at=datetime.now(UTC) - self.age,
            planned=False,
            proven_dead=False,
            process_ended=False,
            service=self.answer,
            running=self.running,
            last_seen_at=None,
            view=SimpleNamespace(process=self.process, answer=None, listening=True),
            with_ledger=lambda _: None,
        )

    def platform(self) -> Any:
        def came_up_anew(*_: object) -> None:
            raise NewIncarnation("it came up anew")

        alive = "life-1" if self.running else None
        return SimpleNamespace(
            incarnation=lambda name: alive, power_off=came_up_anew, kill_service=came_up_anew
        )

    def node(self, ref: RecoveryRef) -> Any:
        return NODE

    def read_incident(self, _id: str) -> Any:
        is_open = not self.withdrawals
        return SimpleNamespace(
            id="i-1", attempt_of=lambda _holder: self.action if is_open else None, entries=self.entries
        )

    def repair_budget(self, _id: str) -> None:
        return None

    @contextmanager
    def kill_lock(self, *, hold_s: float) -> Iterator[None]:
        assert hold_s >= 120
        yield

    @contextmanager
    def step(self, ref: RecoveryRef, name: str) -> Iterator[Any]:
        yield SimpleNamespace(token=7, note=lambda *_, **__: None, check=lambda: None)

    def withdraw_attempt(self, incident: str, token: int, holder: str, reason: str) -> None:
        assert (incident, token, holder) == ("i-1", 7, "run-1")
        self.withdrawals.append(reason)


REF = RecoveryRef("i-1", "kafka-2", "run-1")


@pytest.mark.parametrize(
    ("act", "running"),
    [
        (actions.fence_node, True),
        (actions.fence_node, False),  # it came up after the guards were evaluated
        (actions.restart_service, True),
    ],
)
def test_where_another_incarnation_runs_the_attempt_is_withdrawn(
    monkeypatch: pytest.MonkeyPatch, act: Callable[[Any, RecoveryRef], None], running: bool
) -> None:
    attempt = OpenAttempt(monkeypatch, Action.RESTART, running=running)
    with pytest.raises(NewIncarnation, match="it came up anew"):
        act(attempt, REF)
    assert attempt.withdrawals == ["not killed: it came up anew"]


@pytest.mark.parametrize("act", [actions.fence_node, actions.restart_service])
@pytest.mark.parametrize(
    ("answer", "error"), [(ProbeResult.TIMEOUT, GuardRefused), (ProbeResult.OK, NodeReturned)]
)
def test_where_a_guard_refuses_before_the_kill_the_attempt_is_withdrawn(
    monkeypatch: pytest.MonkeyPatch,
    act: Callable[[Any, RecoveryRef], None],
    answer: ProbeResult,
    error: type[GuardRefused],
) -> None:
    attempt = OpenAttempt(monkeypatch, Action.RESTART, running=True)
    attempt.answer, attempt.refused_by_guards = answer, GuardResult(False, ("its peers hear it",))
    with pytest.raises(GuardRefused) as refused:
        act(attempt, REF)
    assert type(refused.value) is error
    assert attempt.withdrawals == ["not killed: its peers hear it"]


@pytest.mark.parametrize("act", [actions.fence_node, actions.restart_service])
@pytest.mark.parametrize(
    ("answer", "age", "error", "words"),
    [
        (ProbeResult.OK, 0, NodeReturned, "answered just before it would have been killed"),
        (ProbeResult.TIMEOUT, 11, GuardRefused, "that are 11 s old by now"),
    ],
    ids=["it serves again", "the database stood still"],
)
def test_what_the_guards_allowed_is_checked_once_more_directly_before_the_kill(
    monkeypatch: pytest.MonkeyPatch,
    act: Callable[[Any, RecoveryRef], None],
    answer: ProbeResult,
    age: float,
    error: type[GuardRefused],
    words: str,
) -> None:
    """The journal's entry waited for a stalled disk, and meanwhile the node served again."""
    attempt = OpenAttempt(monkeypatch, Action.RESTART, running=True)
    attempt.answer_at_the_kill, attempt.age = answer, timedelta(seconds=age)
    with pytest.raises(GuardRefused, match=words) as refused:
        act(attempt, REF)
    assert type(refused.value) is error
    assert len(attempt.withdrawals) == 1


def test_an_attempt_that_has_fenced_the_node_is_not_withdrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """An earlier try of the task may have destroyed the disk: its data repair must stay on record."""
    attempt = OpenAttempt(monkeypatch, Action.REBUILD, running=True)
    attempt.refused_by_guards = GuardResult(False, ("it lacks processor time",))
    attempt.entries = [JournalEntry(T0, "fence", "done", {"run": "run-0", "mark": "end"})]
    with pytest.raises(GuardRefused):
        actions.fence_node(attempt, REF)  # type: ignore[arg-type]
    assert len(attempt.withdrawals) == 1, "another run fenced it"
    attempt = OpenAttempt(monkeypatch, Action.REBUILD, running=True)
    attempt.refused_by_guards = GuardResult(False, ("it lacks processor time",))
    attempt.entries = [JournalEntry(T0, "fence", "done", {"run": "run-1", "mark": "end"})]
    with pytest.raises(GuardRefused):
        actions.fence_node(attempt, REF)  # type: ignore[arg-type]
    assert attempt.withdrawals == []


def test_a_process_that_no_init_names_is_not_stopped_by_a_restart(monkeypatch: pytest.MonkeyPatch) -> None:
    attempt = OpenAttempt(monkeypatch, Action.RESTART, running=True)
    attempt.process = None
    monkeypatch.setattr(actions, "_confirmed_mode", lambda *_: FailureMode.PROCESS_DOWN)
    monkeypatch.setattr(assignment, "ansible_for", lambda *_, **__: object())
    monkeypatch.setattr(actions, "_run_restart", lambda *_: pytest.fail("it stopped what runs"))
    with pytest.raises(StepFailed, match="did not report which process to kill"):
        actions.restart_service(attempt, REF)  # type: ignore[arg-type]


def test_a_run_without_an_open_attempt_kills_nothing_and_withdraws_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    attempt = OpenAttempt(monkeypatch, Action.RESTART, running=True)
    attempt.withdrawals.append("of an earlier task")
    with pytest.raises(GuardRefused) as refused:
        actions.fence_node(attempt, REF)  # type: ignore[arg-type]
    assert type(refused.value) is GuardRefused
    assert attempt.withdrawals == ["of an earlier task"]
