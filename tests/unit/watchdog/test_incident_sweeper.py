"""What a pass of the sweep does, with a store and an Airflow of dictionaries."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

from kintsugi.core.fleet import Role
from kintsugi.core.incident import Incident, JournalEntry, Outcome
from kintsugi.infra.airflow_client import AirflowRefused
from kintsugi.operations.approval_answers import LOOK_AGAIN
from kintsugi.watchdog.incident_sweeper import QUESTION, IncidentSweeper

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
class World:
    """``states``: of runs by ``dag/run``; a run that isn't there is unknown to Airflow."""

    incidents_: list[Incident]
    states: dict[str, str] = field(default_factory=dict)
    held: str | None = None
    asked: list[dict[str, Any]] = field(default_factory=list)
    answered: list[tuple[str, str]] = field(default_factory=list)
    given_back: list[tuple[str, str]] = field(default_factory=list)
    started: list[tuple[str, dict[str, Any], str]] = field(default_factory=list)

    # --- the store

    def read_incidents(self, limit: int, *, open_only: bool = False) -> list[Incident]:
        return [one for one in self.incidents_ if one.closed_at is None or not open_only]

    def read_lease(self, node: str) -> Any:
        return SimpleNamespace(holder=self.held) if self.held else None

    def give_back(self, node: str, holder: str) -> None:
        self.given_back.append((node, holder))

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
        self.started.append((dag_id, conf, run_id))
        self.states[f"{dag_id}/{run_id}"] = "queued"
        return run_id

    def questions(self) -> list[dict[str, Any]]:
        return self.asked

    def answer(self, question: dict[str, Any], option: str) -> None:
        self.answered.append((question["run_id"], option))
        self.asked.remove(question)

    def sweeper(self, *, answers: bool = True) -> IncidentSweeper:
        return IncidentSweeper(self, self, lambda name: answers)  # type: ignore[arg-type]


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
