"""A replacement on purpose runs guards, drain and recovery in this order, on a real Airflow (``DAG.test``).

The steps themselves are replaced by recorders here: this is about wiring. They run on a real store in
tests/integration/test_replacement_steps.py.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from kintsugi.airflow_ext.operators.approval import APPROVED_BY, RepairApproval
from kintsugi.core.errors import GuardRefused, KintsugiError, StepFailed
from kintsugi.core.fleet import load_fleet
from kintsugi.operations.context import Context, RecoveryRef
from kintsugi.recovery import actions, assessment, guard_evaluation, report, step_failures
from kintsugi.replacement import steps
from kintsugi.replacement.steps import ReplacementResult, ReplacementState
from tests.dags.in_process import run_in_process

REBUILD = {
    "plan_replacement": "plan",
    "fence_node": "fence",
    "apply_plan": "provision",
    "configure_node": "configure",
    "rejoin_node": "rejoin",
    "verify_recovery": "verify",
    "verify_synthetic_trade": "canary",
}
RECOVERY = ["confirm", *REBUILD.values(), "record"]


class Recorder:
    """Stands in for the steps: notes which were carried out, fails where told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.acted: list[str] = []
        self.reasons: list[str] = []
        self.fails: tuple[str, KintsugiError] | None = None
        self.state = ReplacementState.REPLACED
        self.asked_for: dict[str, Any] = {}
        self.refusal: str | None = None
        self.protected = False
        self.guard = ["archive_logs", "decide"]
        self.path = "plan"
        monkeypatch.setattr(Context, "from_environment", self.context)
        monkeypatch.setattr(step_failures, "fault_of_control_plane", lambda *_: None)
        monkeypatch.setattr(steps, "check_replacement", lambda *_: self.check())
        monkeypatch.setattr(steps, "drain_node", self.drain)
        monkeypatch.setattr(steps, "finish_replacement", self.finish)
        monkeypatch.setattr(assessment, "confirm_finding", self.confirm)
        monkeypatch.setattr(assessment, "close_without_action", lambda *_: self.act("stand_down"))
        monkeypatch.setattr(guard_evaluation, "evaluate_guards", lambda *_: self.guard)
        monkeypatch.setattr(guard_evaluation, "choose_path", lambda *_: self.path)
        monkeypatch.setattr(report, "archive_logs", lambda *_: [])
        monkeypatch.setattr(report, "record_outcome", lambda *_: self.record())
        monkeypatch.setattr(actions, "show_plan", lambda *_: self.act("show_plan"))
        for function, name in REBUILD.items():
            monkeypatch.setattr(actions, function, lambda *_, name=name: self.act(name))

    def context(self) -> Any:
        fleet = load_fleet()
        node = replace(fleet.node("kafka-2"), protected=self.protected)
        fleet = replace(fleet, nodes={**fleet.nodes, "kafka-2": node})
        return SimpleNamespace(fleet=fleet, settings=SimpleNamespace(control=None))

    def act(self, name: str) -> str:
        self.acted.append(name)
        if self.fails is not None and self.fails[0] == name:
            raise self.fails[1]
        return name

    def check(self) -> list[str]:
        self.act("check")
        return self.reasons

    def drain(self, context: Any, name: str, holder: str, **given: Any) -> str:
        self.asked_for |= {"node": name, "drained by": holder, **given}
        return self.act("drain")

    def confirm(self, *_: Any, **given: Any) -> RecoveryRef:
        self.act("confirm")
        self.asked_for |= {key: given[key] for key in ("holder", "requested", "dry_run")}
        return RecoveryRef("i-1", given["node"], given["holder"])

    def record(self) -> report.IncidentRecord:
        return report.IncidentRecord(self.fails is None, self.act("record"))

    def finish(self, context: Any, name: str, holder: str, **given: Any) -> ReplacementResult:
        self.act("finish")
        self.refusal = given["refusal"]
        return ReplacementResult(self.state, "the end")

    def run(self, dag_bag: Any, **conf: Any) -> dict[str, str]:
        """Run ``replace_node``; the end state of every task by its id."""
        dag = dag_bag.dags["replace_node"]
        for task in dag.tasks:
            task.retries, task.retry_delay = 0, timedelta(0)
        return run_in_process(dag, {"node": "kafka-2", "keep_volume": True, "dry_run": False, **conf})


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    return Recorder(monkeypatch)


@pytest.mark.parametrize(("keep_volume", "action"), [(True, "rebuild_node"), (False, "rebuild")])
def test_guards_then_the_drain_then_the_recovery_of_the_same_run(
    dag_bag: Any, made: Recorder, keep_volume: bool, action: str
) -> None:
    states = made.run(dag_bag, keep_volume=keep_volume)
    assert made.acted == ["check", "drain", *RECOVERY, "finish"]
    assert (made.asked_for["node"], made.asked_for["requested"]) == ("kafka-2", action)
    assert made.asked_for["drained by"] == made.asked_for["holder"]
    assert made.asked_for["holder"].startswith("replace_node/")
    assert made.asked_for["approved_by"] is None
    assert (states["ask_a_human"], states["finish"]) == ("skipped", "success")


def test_a_refusal_before_the_drain_touches_nothing_and_fails_nothing(dag_bag: Any, made: Recorder) -> None:
    made.reasons, made.state = ["kafka-1 is down."], ReplacementState.REFUSED
    states = made.run(dag_bag)
    assert made.acted == ["check", "finish"]
    assert made.refusal is not None
    assert "kafka-1 is down." in made.refusal
    assert set(states.values()) == {"success", "skipped"}


def test_a_refusal_by_the_drain_fails_nothing_either(dag_bag: Any, made: Recorder) -> None:
    made.fails, made.state = ("drain", GuardRefused("kafka-1 is down.")), ReplacementState.REFUSED
    states = made.run(dag_bag)
    assert made.acted == ["check", "drain", "finish"]
    assert made.refusal == "kafka-1 is down."
    assert set(states.values()) == {"success", "skipped"}


def test_a_dry_run_shows_the_plan_and_drains_nothing_also_where_it_would_be_refused(
    dag_bag: Any, made: Recorder
) -> None:
    made.reasons, made.path, made.state = ["kafka-1 is down."], "show_plan", ReplacementState.DRY_RUN
    states = made.run(dag_bag, dry_run=True)
    assert made.acted == ["check", "confirm", "show_plan", "record", "finish"]
    assert made.asked_for["dry_run"] is True
    assert made.refusal is not None
    assert states["finish"] == "success"


@pytest.mark.parametrize("approved", [True, False])
def test_a_protected_node_serves_until_a_person_has_answered(
    dag_bag: Any, made: Recorder, monkeypatch: pytest.MonkeyPatch, approved: bool
) -> None:
    def answer(self: RepairApproval, context: Any) -> Any:
        assert made.acted == ["check"]
        if approved:
            context["ti"].xcom_push(key=APPROVED_BY, value="ann")
        return self.do_branch(context, "drain" if approved else "finish")

    monkeypatch.setattr(RepairApproval, "execute", answer)
    made.protected = True
    made.state = ReplacementState.REPLACED if approved else ReplacementState.REFUSED
    states = made.run(dag_bag)
    assert made.acted == (["check", "drain", *RECOVERY, "finish"] if approved else ["check", "finish"])
    if approved:
        assert made.asked_for["approved_by"] == "ann"
        assert made.refusal is None
    else:
        assert "protected" in str(made.refusal)
    assert set(states.values()) == {"success", "skipped"}


@pytest.mark.parametrize("broken", ["drain", "plan", "configure", "canary"])
def test_after_a_failure_the_end_still_runs_and_the_run_is_no_success(
    dag_bag: Any, made: Recorder, broken: str
) -> None:
    made.fails, made.state = (broken, StepFailed("it broke")), ReplacementState.FAILED
    states = made.run(dag_bag)
    order = ["check", "drain", *RECOVERY]
    before = order[: order.index(broken) + 1]
    assert made.acted == [*before, *([] if broken == "drain" else ["record"]), "finish"]
    assert made.refusal is None
    assert states["finish"] == "failed"


def test_a_replacement_that_is_given_up_after_the_drain_ends_without_a_failure(
    dag_bag: Any, made: Recorder
) -> None:
    made.guard, made.state = ["stand_down"], ReplacementState.REFUSED
    states = made.run(dag_bag)
    assert made.acted == ["check", "drain", "confirm", "stand_down", "record", "finish"]
    assert set(states.values()) == {"success", "skipped"}


def test_guards_that_could_not_be_asked_are_no_success(dag_bag: Any, made: Recorder) -> None:
    made.fails = ("check", StepFailed("Postgres is away"))
    states = made.run(dag_bag)
    assert made.acted == ["check"]
    assert (states["check"], states["finish"]) == ("failed", "failed")


def test_the_drain_gets_the_name_of_who_asked(dag_bag: Any, made: Recorder) -> None:
    run = SimpleNamespace(dag_id="replace_node", run_id="manual", triggering_user_name="olga")
    drain = dag_bag.dags["replace_node"].get_task("drain")
    ti = SimpleNamespace(xcom_pull=lambda **_: None)
    drain.python_callable("kafka-2", "a new server", "False", dag_run=run, ti=ti)
    assert (made.asked_for["started_by"], made.asked_for["what"]) == ("olga", "a new server")
