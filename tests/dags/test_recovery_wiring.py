"""The recovery subgraph runs the path that was chosen and no other, on a real Airflow (``DAG.test``).

The steps themselves are replaced by recorders here: this is about wiring. They run for real in tests/e2e.
"""

from __future__ import annotations

import re
import tempfile
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from kintsugi.airflow_ext import recovery_task_group
from kintsugi.airflow_ext.operators.approval import RepairApproval
from kintsugi.airflow_ext.sensors.node_health import NodeHealthSensor
from kintsugi.controlplane.airflow_environment import PARALLELISM
from kintsugi.controlplane.control_plane import POOLS
from kintsugi.core.errors import (
    IncidentClosed,
    KintsugiError,
    LeaseHeld,
    NodeReturned,
    PermanentStepError,
    StepFailed,
)
from kintsugi.db.store import StoreUnavailable
from kintsugi.operations import cassandra_repair
from kintsugi.operations import context as case
from kintsugi.operations.approval_answers import LOOK_AGAIN
from kintsugi.recovery import actions, assessment, guard_evaluation, report, step_failures
from tests.dags.in_process import run_in_process

ACTS = ("restart", "fence", "plan", "provision", "configure", "rejoin", "verify", "canary", "show_plan")
STEP_OF = {  # the functions of the tasks, where the names differ
    "restart": "restart_service",
    "fence": "fence_node",
    "plan": "plan_replacement",
    "provision": "apply_plan",
    "configure": "configure_node",
    "rejoin": "rejoin_node",
    "verify": "verify_recovery",
    "canary": "verify_synthetic_trade",
}
REBUILD = ["plan", "fence", "provision", "configure", "rejoin", "verify", "canary"]


class Recorder:
    """Stands in for the steps: notes which were carried out, fails where told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.acted: list[str] = []
        self.fails: str | None = None
        self.error: type[KintsugiError] = StepFailed
        self.retries = 0
        self.guard = ["archive_logs", "decide"]
        self.path = "plan"
        plane = SimpleNamespace(settings=SimpleNamespace(control=Path(tempfile.gettempdir())))
        monkeypatch.setattr(case.Context, "from_environment", lambda: plane)
        monkeypatch.setattr(step_failures, "disk_fault", lambda _: self.disk_fault)
        self.disk_fault: str | None = None
        monkeypatch.setattr(
            assessment, "confirm_finding", lambda *_, **kw: case.RecoveryRef("i-1", kw["node"], kw["holder"])
        )
        monkeypatch.setattr(guard_evaluation, "evaluate_guards", lambda *_: self.guard)
        monkeypatch.setattr(guard_evaluation, "choose_path", lambda *_: self.path)
        monkeypatch.setattr(assessment, "close_without_action", lambda *_: self._act("stand_down"))
        monkeypatch.setattr(report, "archive_logs", lambda *_: [self._act("archive_logs")])
        monkeypatch.setattr(
            report,
            "record_outcome",
            lambda *_: report.IncidentRecord(self.fails is None, self._act("record")),
        )
        for name in ACTS:
            monkeypatch.setattr(actions, STEP_OF.get(name, name), lambda *_, name=name: self._act(name))

    def _act(self, name: str) -> str:
        self.acted.append(name)
        if name == self.fails:
            raise self.error(f"{name} was told to fail")
        return name

    def run(self, dag_bag: Any) -> dict[str, str]:
        """Run ``recover_node``; the end state of every task by its name within the group."""
        dag = dag_bag.dags["recover_node"]
        for task in dag.tasks:
            task.retries, task.retry_delay = self.retries, timedelta(0)
        states = run_in_process(dag, {"node": "kafka-1", "action": "auto", "dry_run": False})
        return {task_id.removeprefix("recovery."): state for task_id, state in states.items()}


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    return Recorder(monkeypatch)


def test_a_rebuild_runs_its_steps_in_order(dag_bag: Any, steps: Recorder) -> None:
    states = steps.run(dag_bag)
    assert [name for name in steps.acted if name in ACTS] == REBUILD
    assert steps.acted[-1] == "record"
    assert {states[name] for name in ("restart", "show_plan", "stand_down", "ask_a_human")} == {"skipped"}


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("restart", ["restart", "rejoin", "verify", "canary"]),
        ("show_plan", ["show_plan"]),
        ("rejoin", ["rejoin", "verify", "canary"]),
    ],
)
def test_other_paths_never_touch_terraform(
    dag_bag: Any, steps: Recorder, path: str, expected: list[str]
) -> None:
    steps.path = path
    states = steps.run(dag_bag)
    assert [name for name in steps.acted if name in ACTS] == expected
    assert {states[name] for name in ("plan", "provision", "configure")} == {"skipped"}
    assert states["record"] == "success"


def test_a_false_alarm_touches_nothing(dag_bag: Any, steps: Recorder) -> None:
    steps.guard = ["stand_down"]
    steps.run(dag_bag)
    assert steps.acted == ["stand_down", "record"]


@pytest.mark.parametrize("broken", ["plan", "provision", "configure", "rejoin", "canary"])
def test_after_a_failed_step_nothing_more_is_done_but_the_record(
    dag_bag: Any, steps: Recorder, broken: str
) -> None:
    steps.fails = broken
    states = steps.run(dag_bag)
    done = [name for name in steps.acted if name in ACTS]
    assert done == REBUILD[: REBUILD.index(broken) + 1]
    assert steps.acted[-1] == "record"
    assert states["record"] == "failed", "a repair that failed must not look like a success in the grid"


@pytest.mark.parametrize(("error", "tries"), [(StepFailed, 2), (PermanentStepError, 1), (IncidentClosed, 1)])
def test_what_failed_for_good_is_not_tried_again(
    dag_bag: Any, steps: Recorder, error: type[KintsugiError], tries: int
) -> None:
    steps.fails, steps.error, steps.retries = "configure", error, 1
    states = steps.run(dag_bag)
    assert steps.acted.count("configure") == tries
    assert states["record"] == "failed"


@pytest.mark.parametrize(("path", "step"), [("plan", "fence"), ("restart", "restart")])
def test_a_node_that_answers_again_is_let_back_in_and_proven(
    dag_bag: Any, steps: Recorder, monkeypatch: pytest.MonkeyPatch, path: str, step: str
) -> None:
    def answers(*_: Any) -> None:
        steps.acted.append(step)
        raise NodeReturned("kafka-1 answers again")

    monkeypatch.setattr(actions, STEP_OF.get(step, step), answers)
    steps.path = path
    states = steps.run(dag_bag)
    done = [name for name in steps.acted if name in ACTS]
    assert done[-4:] == [step, "rejoin", "verify", "canary"]
    assert not {"provision", "configure"} & set(done)
    assert states["record"] == "success"


def test_a_question_whose_reason_has_passed_ends_with_the_proof_of_the_node(
    dag_bag: Any, steps: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps.guard = ["archive_logs", "ask_a_human"]
    monkeypatch.setattr(guard_evaluation, "refusal_reasons", lambda *_: ["the last copy"])
    mapping = dag_bag.dags["recover_node"].get_task("recovery.ask_a_human").options_mapping
    monkeypatch.setattr(
        RepairApproval, "execute", lambda self, context: self.do_branch(context, mapping[LOOK_AGAIN])
    )
    states = steps.run(dag_bag)
    assert [name for name in steps.acted if name in ACTS] == ["rejoin", "verify", "canary"]
    assert {states[name] for name in ("decide", "restart", "plan", "show_plan")} == {"skipped"}
    assert states["record"] == "success"


@pytest.mark.parametrize(
    ("broken", "untouched"), [("plan", True), ("provision", False), ("configure", False)]
)
def test_a_control_plane_without_room_takes_the_attempt_back_and_is_not_tried_again_at_once(
    dag_bag: Any, steps: Recorder, monkeypatch: pytest.MonkeyPatch, broken: str, untouched: bool
) -> None:
    taken_back: list[bool] = []
    monkeypatch.setattr(step_failures, "withdraw_attempt", lambda *_, untouched: taken_back.append(untouched))
    steps.fails, steps.retries, steps.disk_fault = broken, 1, "the disk is full"
    states = steps.run(dag_bag)
    assert taken_back == [untouched]
    assert steps.acted.count(broken) == 1
    assert states["record"] == "failed"


def test_a_recovery_that_only_waits_holds_no_slot_that_another_needs_to_act(dag_bag: Any) -> None:
    pools = {task.task_id.partition(".")[2]: task.pool for task in dag_bag.dags["recover_node"].tasks}
    waiting, acting = (
        pools.pop("rejoin"),
        {pools[name] for name in ("confirm", "decide", "provision", "configure")},
    )
    assert waiting not in acting
    assert sum(POOLS.values()) <= PARALLELISM
    assert {waiting, *acting} <= POOLS.keys()


@pytest.mark.parametrize("dag_id", ["watch_kafka-1", "recover_node", "replace_node"])
def test_airflows_graph_shows_which_steps_are_terraform_and_which_ansible(dag_bag: Any, dag_id: str) -> None:
    from airflow.api_fastapi.core_api.services.ui import task_group
    from airflow.serialization.serialized_objects import DagSerialization

    dag = DagSerialization.from_dict(DagSerialization.to_dict(dag_bag.dags[dag_id]))
    drawn: Any = task_group.task_group_to_dict
    recovery = drawn(dag.task_group.children["recovery"])
    assert {"Terraform", "Ansible"} <= set(re.findall(r"\w+", recovery["label"])), "it is collapsed at first"
    groups = {node["label"]: node["children"] for node in recovery["children"] if node.get("children")}
    assert {label: {step["id"] for step in steps} for label, steps in groups.items()} == {
        "Terraform": {"recovery.plan", "recovery.provision", "recovery.show_plan"},
        "Ansible": {"recovery.configure", "recovery.restart"},
    }
    for command, steps in (("terraform", groups["Terraform"]), ("ansible-playbook", groups["Ansible"])):
        assert all(f"({command}" in step["label"] for step in steps)
    beside = {"health", "check", "ask_a_human", "drain", "finish"}
    assert {task.task_id for task in dag.tasks if task.task_id.count(".") != 1} <= beside


def test_a_recoverys_first_and_last_task_link_to_the_incident(dag_bag: Any) -> None:
    class Ran:
        def xcom_pull(self, task_ids: str, key: str) -> Any:
            return {"incident": "kafka-1-x"} if (task_ids, key) == ("recovery.confirm", "case") else None

    for task_id in ("recovery.confirm", "recovery.record"):
        task = dag_bag.dags["watch_kafka-1"].get_task(task_id)
        (link,) = task.operator_extra_links
        assert (link.name, link.get_link(task, ti_key=Ran())) == (
            "Incident",
            "/pipeline-health/incidents/kafka-1-x",
        )


def test_after_a_refusal_nothing_is_touched_until_a_person_has_answered(
    dag_bag: Any, steps: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A person who declines is a branch that goes nowhere but to the record."""
    steps.guard = ["archive_logs", "ask_a_human"]
    monkeypatch.setattr(guard_evaluation, "refusal_reasons", lambda *_: ["the last copy"])
    monkeypatch.setattr(
        RepairApproval, "execute", lambda self, context: self.do_branch(context, "recovery.record")
    )
    states = steps.run(dag_bag)
    assert [name for name in steps.acted if name in ACTS] == []
    assert steps.acted[-1] == "record"
    assert {states[name] for name in ("decide", "restart", "plan", "rejoin", "show_plan")} == {"skipped"}


@pytest.mark.parametrize("by_person", [True, False])
def test_who_holds_no_lease_touches_nothing_and_a_person_is_told(
    dag_bag: Any, steps: Recorder, monkeypatch: pytest.MonkeyPatch, by_person: bool
) -> None:
    """The guards can't answer a person then, so the run must not look as if all were well."""
    waits: list[float] = []

    def held(*_: Any, lease_wait_s: float, **__: Any) -> Any:
        waits.append(lease_wait_s)
        raise LeaseHeld("watch_kafka-1 repairs it")

    monkeypatch.setattr(assessment, "confirm_finding", held)
    monkeypatch.setattr(recovery_task_group, "is_requested_recovery", lambda _: by_person)
    steps.retries = 1
    states = steps.run(dag_bag)
    assert (steps.acted, waits) == ([], [recovery_task_group.LEASE_WAIT_S if by_person else 0])
    if by_person:
        assert (states["confirm"], states["record"]) == ("failed", "failed")
    else:
        assert set(states.values()) == {"skipped"}


def test_a_person_is_told_who_holds_the_lease(
    dag_bag: Any, steps: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def held(*_: Any, **__: Any) -> Any:
        raise LeaseHeld("the lease is held by watch_kafka-1/run-1; wait for that run")

    monkeypatch.setattr(assessment, "confirm_finding", held)
    run = SimpleNamespace(dag_id="recover_node", run_id="manual", triggering_user_name="olga")
    confirm_task = dag_bag.dags["recover_node"].get_task("recovery.confirm")
    with pytest.raises(AirflowFailException, match="watch_kafka-1/run-1"):
        confirm_task.python_callable(
            "kafka-1", None, "auto", "True", dag_run=run, ti=SimpleNamespace(xcom_push=lambda **_: None)
        )


def test_the_pools_bound_what_many_runs_do_at_once(dag_bag: Any) -> None:
    """So that the limit of runs only counts those that wait, such as for an answer."""
    free = {
        task.task_id.partition(".")[2]
        for task in dag_bag.dags["recover_node"].tasks
        if task.pool not in POOLS
    }
    assert free == {"archive_logs", "ask_a_human"}


def test_a_repair_that_could_not_even_be_begun_is_no_success(
    dag_bag: Any, steps: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: Any, **__: Any) -> Any:
        raise StoreUnavailable("connection refused")

    monkeypatch.setattr(assessment, "confirm_finding", away)
    states = steps.run(dag_bag)
    assert steps.acted == []
    assert (states["confirm"], states["record"]) == ("failed", "failed")


FINDING = {"node": "kafka-1", "symptom": "down", "evidence": ["refused"]}


@pytest.mark.parametrize("found", [None, FINDING])
def test_a_watch_goes_on_into_the_recovery_with_what_its_sensor_found(
    dag_bag: Any, steps: Recorder, monkeypatch: pytest.MonkeyPatch, found: dict[str, Any] | None
) -> None:
    """What the trigger's event makes of the task (returned, skipped) is made here by hand."""
    given = []

    def confirm(*_: Any, **arguments: Any) -> case.RecoveryRef:
        given.append(arguments["finding"])
        return case.RecoveryRef("i-1", arguments["node"], arguments["holder"])

    def ended(self: NodeHealthSensor, context: Any) -> Any:
        if found is None:
            raise AirflowSkipException
        return found

    monkeypatch.setattr(assessment, "confirm_finding", confirm)
    monkeypatch.setattr(NodeHealthSensor, "execute", ended)
    steps.path = "restart"
    states = run_in_process(dag_bag.dags["watch_kafka-1"], {})
    assert given == ([FINDING] if found else [])
    assert steps.acted[-1:] == (["record"] if found else [])
    assert states["recovery.record"] == ("success" if found else "skipped")
    assert states["health"] == ("success" if found else "skipped")


def test_a_recovery_by_hand_hands_over_who_started_it(
    dag_bag: Any, steps: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    names: list[str | None] = []

    def confirm(*_: Any, **arguments: Any) -> case.RecoveryRef:
        names.append(arguments["started_by"])
        return case.RecoveryRef("i-1", arguments["node"], arguments["holder"])

    monkeypatch.setattr(assessment, "confirm_finding", confirm)
    run = SimpleNamespace(dag_id="recover_node", run_id="manual", triggering_user_name="olga")
    confirm_task = dag_bag.dags["recover_node"].get_task("recovery.confirm")
    confirm_task.python_callable(
        "kafka-1", None, "auto", "True", dag_run=run, ti=SimpleNamespace(xcom_push=lambda **_: None)
    )
    assert names == ["olga"]


@pytest.mark.parametrize(("sick", "state"), [(None, "success"), ("cassandra-2", "failed")])
def test_every_replica_is_compared_each_night_and_one_that_fails_fails_the_run(
    dag_bag: Any, monkeypatch: pytest.MonkeyPatch, sick: str | None, state: str
) -> None:
    compared: list[str] = []

    def compare(context: None, name: str, by: str) -> str:
        compared.append(name)
        assert by.startswith("anti_entropy/")
        if name == sick:
            raise StepFailed("a neighbour died")
        return "well"

    monkeypatch.setattr(case.Context, "from_environment", lambda: None)
    monkeypatch.setattr(cassandra_repair, "repair_tonight", compare)
    dag = dag_bag.dags["anti_entropy"]
    for task in dag.tasks:
        monkeypatch.setattr(task, "retries", 0, raising=False)
    run = dag.test()
    assert sorted(set(compared)) == ["cassandra-1", "cassandra-2", "cassandra-3"]
    assert str(run.state) == state
