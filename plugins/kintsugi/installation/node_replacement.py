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
    run_id = _run_under_way(airflow, conf) or airflow.trigger(REPLACE_DAG, conf)
    say(f"run {run_id} of {REPLACE_DAG}: {airflow.url}/dags/{REPLACE_DAG}")
    follow_run(airflow, run_id, say)
    return read_result(airflow, run_id)


def _run_under_way(airflow: Airflow, conf: Mapping[str, Any]) -> str | None:
    """Return the id of a run of the same request that has not ended; None if there is none."""
    airflow.await_dag(REPLACE_DAG)
    for run in airflow.runs(REPLACE_DAG):
        if run["state"] not in FINISHED and run.get("conf") == conf:
            return str(run["dag_run_id"])
    return None


def follow_run(airflow: Airflow, run_id: str, say: Say) -> None:
    """Print each task when it has ended, and an open question, until the run has ended."""
    known: set[str] = set()
    while True:
        state = airflow.run_state(REPLACE_DAG, run_id)
        for task in airflow.tasks(REPLACE_DAG, run_id):
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


def read_result(airflow: Airflow, run_id: str) -> str:
    """Return the sentence with which the run ended. Raises GuardRefused if it was refused, StepFailed if it failed."""
    value = airflow.xcom(REPLACE_DAG, run_id, "finish", "result")
    result = json.loads(value) if isinstance(value, str) else value
    if not isinstance(result, dict):
        raise StepFailed(
            f"the run {run_id} of {REPLACE_DAG} ended without a result: see its tasks at {airflow.url}"
        )
    text = str(result["text"])
    if result["state"] == "refused":
        raise GuardRefused(text)
    if result["state"] == "failed":
        raise StepFailed(text)
    return text
