"""Run a whole DAG in the process of the test."""

from __future__ import annotations

from typing import Any


def run_in_process(dag: Any, conf: dict[str, Any]) -> dict[str, str]:
    """Run a DAG in this process; the end state of every task by its id.

    Without its deadline: `DAG.test` of Airflow 3.3.2 asks the database for alerts by their definition instead of their
    id, and fails. In a living Airflow tests/e2e runs ``recover_node`` with its deadline.
    """
    dag.deadline = None
    run = dag.test(run_conf=conf)
    return {ti.task_id: str(ti.state) for ti in run.get_task_instances()}
