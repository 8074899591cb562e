"""`make replace-node`: which run it starts or follows, what it prints, and how it ends; Airflow is stood in for."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from kintsugi import cli
from kintsugi.core.errors import FleetError, GuardRefused, KintsugiError, StepFailed
from kintsugi.core.fleet import load_fleet
from kintsugi.infra.airflow_client import TaskRun
from kintsugi.installation import node_replacement

T0 = datetime(2026, 11, 30, 9, 0, tzinfo=UTC)
SETTINGS: Any = SimpleNamespace(fleet=load_fleet())


def task(name: str, state: str | None, seconds: float = 5.0) -> TaskRun:
    return TaskRun(name, state, T0, T0 + timedelta(seconds=seconds), 1, -1)


@dataclass
class FakeAirflow:
    """One run, whose tasks are as each look finds them; it ends with the last look."""

    looks: list[list[TaskRun]] = field(default_factory=lambda: [[]])
    result: Any = field(default_factory=lambda: {"state": "replaced", "text": "kafka-2 is replaced"})
    known: list[dict[str, Any]] = field(default_factory=list)
    triggered: list[dict[str, Any]] = field(default_factory=list)
    url: str = "http://airflow"

    def await_dag(self, dag_id: str) -> None:
        assert dag_id == "replace_node"

    def runs(self, dag_id: str) -> list[dict[str, Any]]:
        return self.known

    def trigger(self, dag_id: str, conf: dict[str, Any]) -> str:
        self.triggered.append(conf)
        return "manual__1"

    def run_state(self, dag_id: str, run_id: str) -> str:
        return "running" if len(self.looks) > 1 else "success"

    def tasks(self, dag_id: str, run_id: str) -> list[TaskRun]:
        return self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]

    def xcom(self, dag_id: str, run_id: str, task_id: str, key: str) -> Any:
        assert (dag_id, task_id, key) == ("replace_node", "finish", "result")
        return self.result


@pytest.fixture
def airflow(monkeypatch: pytest.MonkeyPatch) -> FakeAirflow:
    fake = FakeAirflow()
    monkeypatch.setattr(node_replacement, "ControlPlane", lambda _: SimpleNamespace(airflow=fake))
    monkeypatch.setattr(node_replacement, "POLL_S", 0.0)
    return fake


def replace_node(name: str = "kafka-2", **changes: Any) -> tuple[str, list[str]]:
    lines: list[str] = []
    given = {"keep_volume": True, "dry_run": False, **changes}
    return node_replacement.replace_node(SETTINGS, name, say=lines.append, **given), lines


def test_each_task_is_printed_once_when_it_has_ended(airflow: FakeAirflow) -> None:
    check, drain = task("check", "success"), task("drain", "running")
    done = [
        check,
        task("ask_a_human", "skipped"),
        task("drain", "success", 12),
        task("recovery.plan", "success", 3),
    ]
    airflow.looks = [[check, drain], [check, drain], done]
    said, lines = replace_node()
    assert said == "kafka-2 is replaced"
    assert airflow.triggered == [{"node": "kafka-2", "keep_volume": True, "dry_run": False}]
    assert [line.partition(":")[0] for line in lines[1:]] == ["check", "drain", "plan"]
    assert "12 s" in lines[2]


def test_a_question_is_printed_while_it_is_open(airflow: FakeAirflow) -> None:
    airflow.looks = [[task("ask_a_human", "awaiting_input")], [task("ask_a_human", "success")]]
    _, lines = replace_node()
    assert ["Required Actions" in line for line in lines[1:]] == [True]


def test_the_same_request_follows_its_run_and_another_starts_its_own(airflow: FakeAirflow) -> None:
    conf = {"node": "kafka-2", "keep_volume": True, "dry_run": False}
    airflow.known = [
        {"dag_run_id": "old", "state": "success", "conf": conf},
        {"dag_run_id": "now", "state": "running", "conf": conf},
    ]
    assert "run now " in replace_node()[1][0]
    assert airflow.triggered == []
    replace_node(keep_volume=False)
    replace_node(dry_run=True)
    replace_node("kafka-3")
    assert len(airflow.triggered) == 3


@pytest.mark.parametrize(
    ("result", "error"),
    [
        ({"state": "refused", "text": "kafka-1 is down"}, GuardRefused),
        (json.dumps({"state": "failed", "text": "kafka-1 is down"}), StepFailed),
        (None, StepFailed),
    ],
)
def test_a_refusal_and_a_failure_are_no_success(
    airflow: FakeAirflow, result: Any, error: type[KintsugiError]
) -> None:
    airflow.result = result
    with pytest.raises(error, match="kafka-1 is down" if result else "without a result"):
        replace_node()


def test_an_unknown_node_starts_no_run(airflow: FakeAirflow) -> None:
    with pytest.raises(FleetError, match="kafka-9"):
        replace_node("kafka-9")
    assert airflow.triggered == []


@pytest.mark.parametrize(
    ("words", "given"),
    [
        (["kafka-2"], {"keep_volume": True, "dry_run": False}),
        (["kafka-2", "--new-volume"], {"keep_volume": False, "dry_run": False}),
        (["--dry-run", "kafka-2"], {"keep_volume": True, "dry_run": True}),
    ],
)
def test_the_command_hands_its_options_on(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    given: dict[str, bool],
) -> None:
    seen: list[dict[str, Any]] = []

    def run(settings: Any, name: str, **options: Any) -> str:
        options.pop("say")("a line")
        seen.append({"node": name, **options})
        return "the end"

    monkeypatch.setattr(node_replacement, "replace_node", run)
    monkeypatch.setattr("kintsugi.installation.command_line.be_patient", lambda *_: None)
    assert cli.main(["replace-node", *words]) == 0
    assert seen == [{"node": "kafka-2", **given}]
    assert capsys.readouterr().out.splitlines() == ["a line", "the end"]
