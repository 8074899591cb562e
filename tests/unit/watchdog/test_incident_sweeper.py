"""What a pass of the sweep does, with a store and an Airflow of dictionaries."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from kintsugi.core.errors import FleetError, StepFailed
from kintsugi.core.fleet import Role
from kintsugi.core.incident import Incident, JournalEntry, Outcome
from kintsugi.infra.airflow_client import AirflowRefused
from kintsugi.operations.approval_answers import LOOK_AGAIN
from kintsugi.watchdog import incident_sweeper
from kintsugi.watchdog.incident_sweeper import QUESTION, IncidentSweeper
from tests.fixtures_incident_table import IncidentTable

NOW = datetime.now(UTC)
WATCH = "watch_kafka-2/run-1"


def line(step: str, ago: float, **data: Any) -> JournalEntry:
    return JournalEntry(NOW - timedelta(seconds=ago), step, step, {"run": WATCH} | data)


CONFIRMED = {
    "verdict": "hung",
    "requested": "auto",
    "dry_run": False,
    "volume_intact": None,
    "heard_at": None,
}
BEGAN = NOW - timedelta(minutes=3)
LEFT = Incident(
    "i-1", "kafka-2", Role.KAFKA, BEGAN, BEGAN, BEGAN, WATCH,
    entries=(line("confirm", 170, **CONFIRMED), line("record", 60)),
)  # fmt: skip
REFUSED = replace(
    LEFT, entries=(*LEFT.entries[:1], line("guard", 60, refused=["the last copy"], gates=["copies"]))
)


@dataclass
class World(IncidentTable):
    """``states``: of runs by ``dag/run``; a run that isn't there is unknown to Airflow."""

    incidents: list[Incident]
    states: dict[str, str] = field(default_factory=dict)
    held: str | None = None
    asked: list[dict[str, Any]] = field(default_factory=list)
    answered: list[tuple[str, str]] = field(default_factory=list)
    given_back: list[tuple[str, str]] = field(default_factory=list)
    started: list[tuple[str, dict[str, Any], str]] = field(default_factory=list)
    refuses: dict[str, Exception] = field(default_factory=dict)  # to start a run, by node
    members: set[str] = field(default_factory=lambda: {"kafka-2", "kafka-3"})
    journal: list[tuple[str, str]] = field(default_factory=list)
    forgotten: list[str] = field(default_factory=list)

    # --- the store

    @contextmanager
    def hold_lease(self, node: str, holder: str, ttl_s: float) -> Iterator[Any]:
        assert self.held is None
        self.held = holder
        yield SimpleNamespace(token=7)
        self.held = None

    def append_entry(self, incident_id: str, token: int, step: str, message: str, *_: Any, key: str) -> bool:
        assert self.held
        self.journal.append((incident_id, message))
        return True

    def close_incident(self, incident_id: str, token: int, outcome: Outcome, reason: str) -> None:
        assert self.held
        self.incidents = [
            replace(one, closed_at=NOW, outcome=outcome, reason=reason) if one.id == incident_id else one
            for one in self.incidents
        ]

    def forget_pending(self, nodes: list[str]) -> None:
        self.forgotten += nodes

    def read_lease(self, node: str) -> Any:
        return SimpleNamespace(holder=self.held) if self.held else None

    def give_back(self, node: str, holder: str) -> None:
        self.given_back.append((node, holder))
        self.held = None

    def read_maintenance(self, node: str) -> list[Any]:
        return []

    # --- Airflow

    def run_state(self, dag_id: str, run_id: str) -> str:
        if f"{dag_id}/{run_id}" not in self.states:
            raise AirflowRefused(404, "no such run")
        return self.states[f"{dag_id}/{run_id}"]

    def runs(self, dag_id: str, limit: int) -> list[dict[str, Any]]:
        return [
            {"dag_run_id": run.partition("/")[2], "state": state}
            for run, state in self.states.items()
            if run.startswith(f"{dag_id}/")
        ]

    def trigger(self, dag_id: str, conf: dict[str, Any], run_id: str) -> str:
        if conf["node"] in self.refuses:
            raise self.refuses[conf["node"]]
        self.started.append((dag_id, conf, run_id))
        self.states[f"{dag_id}/{run_id}"] = "queued"
        return run_id

    def questions(self) -> list[dict[str, Any]]:
        return self.asked

    def answer(self, question: dict[str, Any], option: str) -> None:
        self.answered.append((question["run_id"], option))
        self.asked.remove(question)

    def sweeper(self, *, answers: bool = True) -> IncidentSweeper:
        def responds(name: str) -> bool:
            if name not in self.members:
                raise FleetError(f"there is no node {name}")
            return answers

        return IncidentSweeper(self, self, responds, lambda: self.members)  # type: ignore[arg-type]


def test_an_incident_whose_run_has_ended_is_taken_over_once() -> None:
    world = World([LEFT], {WATCH: "failed"})
    world.sweeper().sweep()
    world.sweeper().sweep()  # by a successor that was started meanwhile
    ((dag, conf, run_id),) = world.started
    assert (dag, conf) == ("recover_node", {"node": "kafka-2", "action": "auto", "dry_run": False})
    assert "i-1" in run_id


def test_a_run_that_airflow_no_longer_knows_has_ended() -> None:
    world = World([LEFT])
    world.sweeper().sweep()
    assert len(world.started) == 1


def test_nothing_is_taken_over_while_its_run_goes_on() -> None:
    world = World([LEFT], {WATCH: "running"})
    world.sweeper().sweep()
    assert world.started == []


def test_the_lease_of_a_killed_run_does_not_hold_the_sweep_up() -> None:
    world = World([LEFT], {WATCH: "failed"}, held=WATCH)
    world.sweeper().sweep()
    assert world.given_back == [("kafka-2", WATCH)]
    assert len(world.started) == 1
    other = World([LEFT], {WATCH: "failed"}, held="deploy_release/1")
    other.sweeper().sweep()
    assert (other.given_back, other.started) == ([], [])


def test_a_sweep_that_did_not_end_it_is_followed_by_a_later_one() -> None:
    world = World([LEFT], {WATCH: "failed", "recover_node/sweep__i-1__1": "failed"})
    world.sweeper().sweep()
    assert [run_id for _, _, run_id in world.started] == ["sweep__i-1__2"]
    world = World([LEFT], {WATCH: "failed", "recover_node/sweep__i-1__1": "running"})
    world.sweeper().sweep()
    assert world.started == []


OTHER = replace(LEFT, id="i-2", node="kafka-3")
BUSY = AirflowRefused(500, "internal error")


@pytest.mark.parametrize("error", [BUSY, StepFailed("Airflow does not answer")])
def test_a_sweep_that_cannot_be_started_holds_up_no_other_one_and_no_question(error: Exception) -> None:
    asks = replace(REFUSED, id="i-3", closed_at=NOW, outcome=Outcome.HEALED)
    world = World([LEFT, OTHER, asks], {WATCH: "failed"}, asked=[question()], refuses={"kafka-2": error})
    world.sweeper().sweep()
    assert [conf["node"] for _, conf, _ in world.started] == ["kafka-3"]
    assert world.answered == [("run-1", LOOK_AGAIN)]


def test_what_failed_comes_last_in_the_next_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each sweep takes as long as a pass may take, as with an Airflow that answers late."""
    clock = iter(range(0, 10_000_000, int(incident_sweeper.SWEEPS_S * 2 / 3)))
    monkeypatch.setattr("kintsugi.watchdog.incident_sweeper.time.monotonic", lambda: next(clock))
    world = World([LEFT, OTHER], {WATCH: "failed"}, refuses={"kafka-2": BUSY})
    sweeper = world.sweeper()
    sweeper.sweep()
    assert world.started == []
    sweeper.sweep()
    assert [conf["node"] for _, conf, _ in world.started] == ["kafka-3"]


def test_questions_are_withdrawn_though_no_incident_can_be_swept(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = replace(REFUSED, id="i-3", closed_at=NOW, outcome=Outcome.HEALED)
    world = World([OTHER, closed], {WATCH: "running"}, asked=[question()])

    def runs(*_: Any) -> Any:
        raise StepFailed("Airflow does not answer")

    monkeypatch.setattr(world, "runs", runs)
    with pytest.raises(StepFailed):
        world.sweeper().sweep()
    assert world.answered == [("run-1", LOOK_AGAIN)]


def test_the_incident_of_a_node_that_left_the_fleet_is_closed_with_a_reason() -> None:
    world = World([LEFT], {WATCH: "success"}, held=WATCH, members={"kafka-3"})
    world.states["recover_node/sweep__i-1__1"] = "failed"
    world.sweeper().sweep()
    (incident,) = world.incidents
    assert (incident.outcome, world.started) == (Outcome.REFUSED, [])
    assert world.journal == [("i-1", incident.reason)]
    assert world.forgotten == ["kafka-2"]


@pytest.mark.parametrize(("state", "holder"), [("running", None), ("success", "scale_fleet/1")])
def test_it_stays_open_while_somebody_works_on_it(state: str, holder: str | None) -> None:
    world = World([LEFT], {WATCH: state}, held=holder, members={"kafka-3"})
    world.sweeper().sweep()
    assert (world.incidents[0].closed_at, world.journal) == (None, [])


def test_an_old_question_behind_many_newer_incidents_is_withdrawn() -> None:
    newer = [
        replace(REFUSED, id=f"n-{number}", holder="watch_kafka-3/run-9", entries=(), closed_at=NOW)
        for number in range(60)
    ]
    world = World([*newer, REFUSED], {WATCH: "running"}, asked=[question()])
    sweeper = world.sweeper()
    for _ in range(3):
        sweeper.sweep()
    assert world.answered == [("run-1", LOOK_AGAIN)]


def test_a_question_about_a_node_that_left_holds_up_no_other_one() -> None:
    refusal = JournalEntry(NOW, "guard", "refused", {"refused": ["the last copy"], "gates": ["copies"]})
    gone = replace(REFUSED, id="i-4", node="kafka-9", holder="watch_kafka-9/run-1", entries=(refusal,))
    closed = replace(REFUSED, closed_at=NOW, outcome=Outcome.HEALED)
    asked = [question() | {"dag_id": "watch_kafka-9"}, question()]
    world = World([gone, closed], {WATCH: "running", "watch_kafka-9/run-1": "running"}, asked=asked)
    world.sweeper().sweep()
    assert world.answered == [("run-1", LOOK_AGAIN)]


def question() -> dict[str, Any]:
    return {"dag_id": "watch_kafka-2", "run_id": "run-1", "task_id": QUESTION}


def test_a_question_is_withdrawn_when_the_node_answers_steadily() -> None:
    world = World([REFUSED], {WATCH: "running"}, asked=[question()])
    sweeper = world.sweeper()
    sweeper.sweep()
    sweeper.sweep()
    assert world.answered == []
    sweeper.sweep()
    assert world.answered == [("run-1", LOOK_AGAIN)]


def test_a_question_about_a_node_that_is_away_stands() -> None:
    world = World([REFUSED], {WATCH: "running"}, asked=[question()])
    sweeper = world.sweeper(answers=False)
    for _ in range(5):
        sweeper.sweep()
    assert world.answered == []


def test_a_question_about_a_closed_incident_is_withdrawn_at_once() -> None:
    closed = replace(REFUSED, closed_at=NOW, outcome=Outcome.HEALED)
    world = World([closed], {WATCH: "running"}, asked=[question()])
    world.sweeper(answers=False).sweep()
    assert world.answered == [("run-1", LOOK_AGAIN)]
