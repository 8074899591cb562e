"""``make replace-node``: start a run of the DAG ``replace_node``, follow it, and say how it ended."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from typing import Any

from kintsugi.controlplane.control_plane import ControlPlane
from kintsugi.core.dag_ids import REPLACE_DAG
from kintsugi.core.errors import GuardRefused, StepFailed
from kintsugi.core.settings import Settings
from kintsugi.infra.airflow_client import FINISHED, WAITING, Airflow, TaskRun

POLL_S = 2.0
QUESTION = "ask_a_human"
Say = Callable[[str], None]


def replace_node(settings: Settings, name: str, *, keep_volume: bool, dry_run: bool, say: Say = print) -> str:
    """Replace the node by a run of the DAG, or follow a run of the same request; returns how it ended.

    Raises FleetError for an unknown node, GuardRefused with the reasons for a refusal, StepFailed for a failure. The
    run goes on if this process ends.
    """
    settings.fleet.node(name)
    airflow = ControlPlane(settings).airflow
    conf = {"node": name, "keep_volume": keep_volume, "dry_run": dry_run}
    return run_to_the_end(airflow, REPLACE_DAG, conf, say)


def run_to_the_end(
    airflow: Airflow, dag_id: str, conf: Mapping[str, Any], say: Say, look: Callable[[], None] = lambda: None
) -> str:
    """Start a run of the DAG with ``conf``, or follow one of the same request; returns how it ended.

    ``look``: called each time the tasks are looked at. Raises GuardRefused, StepFailed as `read_result`.
    """
    run_id = _run_under_way(airflow, dag_id, conf) or airflow.trigger(dag_id, conf)
    say(f"run {run_id} of {dag_id}: {airflow.url}/dags/{dag_id}")
    follow_run(airflow, dag_id, run_id, say, look)
    return read_result(airflow, dag_id, run_id)


def _run_under_way(airflow: Airflow, dag_id: str, conf: Mapping[str, Any]) -> str | None:
    """Return the id of a run of the same request that has not ended; None if there is none."""
    airflow.await_dag(dag_id)
    for run in airflow.runs(dag_id):
        if run["state"] not in FINISHED and run.get("conf") == conf:
            return str(run["dag_run_id"])
    return None


def follow_run(airflow: Airflow, dag_id: str, run_id: str, say: Say, look: Callable[[], None]) -> None:
    """Print each task when it has ended, and an open question, until the run has ended."""
    known: set[str] = set()
    while True:
        state = airflow.run_state(dag_id, run_id)
        look()
        for task in airflow.tasks(dag_id, run_id):
            line = _describe_task(task)
            if line is not None and task.task_id not in known:
                known.add(task.task_id)
                say(line)
        if state in FINISHED:
            return
        time.sleep(POLL_S)


def _describe_task(task: TaskRun) -> str | None:
    """Describe a task that has ended or asks a person; None for one that is skipped or still works. Pure."""
    name = task.task_id.removeprefix("recovery.")
    if task.task_id == QUESTION and task.state in WAITING:
        return f"{name}: the node is protected. Approve or decline under Required Actions in Airflow"
    if task.state not in FINISHED or task.start is None or task.end is None:
        return None
    return f"{name}: {task.state} after {(task.end - task.start).total_seconds():.0f} s"


def read_result(airflow: Airflow, dag_id: str, run_id: str) -> str:
    """Return the sentence with which the run ended. Raises GuardRefused if it was refused, StepFailed if it failed."""
    value = airflow.xcom(dag_id, run_id, "finish", "result")
    result = json.loads(value) if isinstance(value, str) else value
    if not isinstance(result, dict):
        raise StepFailed(
            f"the run {run_id} of {dag_id} ended without a result: see its tasks at {airflow.url}"
        )
    text = str(result["text"])
    if result["state"] == "refused":
        raise GuardRefused(text)
    if result["state"] == "failed":
        raise StepFailed(text)
    return text
