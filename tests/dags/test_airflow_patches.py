"""What the patches of the scheduler read in a real Airflow's database."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest  # noqa: TC002

from kintsugi.controlplane import airflow_patches
from kintsugi.core.settings import STOCK_AIRFLOW
from tests.dags.in_process import run_in_process


@contextmanager
def running(dag_bag: Any) -> Iterator[tuple[Any, Any]]:
    """A run whose tasks are over, made to run again; yields it and one of its tasks."""
    from airflow.models.dagrun import DagRun
    from airflow.models.taskinstance import TaskInstance
    from airflow.utils.session import create_session
    from sqlalchemy import select

    run_in_process(dag_bag.get_dag("recover_node"), {"node": "kafka-1", "action": "auto", "dry_run": True})
    with create_session() as session:
        newest = select(DagRun).where(DagRun.dag_id == "recover_node").order_by(DagRun.id.desc())
        run = session.scalars(newest).first()
        assert run is not None
        run.state = "running"
        task = session.scalars(
            select(TaskInstance).where(TaskInstance.dag_id == run.dag_id, TaskInstance.run_id == run.run_id)
        ).first()
        assert task is not None
        assert task.state != "scheduled", "nothing of a run that is over is still to come"
    try:
        yield run, task
    finally:
        with create_session() as session:  # the other tests count the runs of this DAG
            session.delete(session.get(DagRun, run.id))


def stamp(of: Any, **values: Any) -> None:
    from airflow.utils.session import create_session

    with create_session() as session:
        kept = session.get(type(of), of.id)  # merging would bring the run's old values back with a task
        for name, value in values.items():
            setattr(kept, name, value)


def due(run: Any) -> bool:
    from airflow.utils.session import create_session

    with create_session() as session:
        return run.id in airflow_patches.changed_run_ids(session)


def test_a_task_that_changes_is_a_change_and_the_schedulers_own_stamp_is_none(dag_bag: Any) -> None:
    before = airflow_patches.task_states()
    with running(dag_bag) as (run, task):
        runs = airflow_patches.task_states()
        assert runs != before
        stamp(run, last_scheduling_decision=datetime.now(UTC))
        assert airflow_patches.task_states() == runs
        stamp(task, state="scheduled")
        assert airflow_patches.task_states() != runs
    assert airflow_patches.task_states() == before, "a run that is over is none of its business"


def test_a_run_is_looked_at_when_a_task_of_it_has_changed_since(dag_bag: Any) -> None:
    with running(dag_bag) as (run, task):
        stamp(run, last_scheduling_decision=None)
        assert due(run), "it was never looked at"
        stamp(run, last_scheduling_decision=datetime.now(UTC))
        assert due(run), "what was changed just before may not have been seen"
        stamp(run, last_scheduling_decision=datetime.now(UTC) + timedelta(seconds=30))
        assert not due(run)
        stamp(task, state="up_for_retry", updated_at=datetime.now(UTC) - timedelta(hours=1))
        assert due(run), "it waits for a time, and nothing changes when that comes"
        stamp(task, state="success")
        assert not due(run)
        stamp(run, last_scheduling_decision=datetime.now(UTC) - timedelta(seconds=30))
        assert due(run), "a task changed its state since"


def test_the_scheduler_of_this_airflow_can_be_made_to_do_so(
    dag_bag: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import time

    from airflow.jobs import scheduler_job_runner
    from airflow.models.dagrun import DagRun
    from airflow.utils.session import create_session

    every = vars(DagRun)["get_running_dag_runs_to_examine"]

    def asked() -> set[int]:
        with create_session() as session:
            return {run.id for run in DagRun.get_running_dag_runs_to_examine(session=session)}

    try:
        monkeypatch.delenv(STOCK_AIRFLOW, raising=False)
        monkeypatch.setenv("AIRFLOW__CORE__EXECUTOR", "LocalExecutor")  # as it is after the test again
        assert airflow_patches.apply_patches(), "AIRFLOW_VERSION is not the installed one"
        assert isinstance(vars(scheduler_job_runner)["time"], airflow_patches.ChangeAwareTime)
        with running(dag_bag) as (run, _):
            stamp(run, last_scheduling_decision=datetime.now(UTC) + timedelta(seconds=30))
            assert run.id in asked(), "the first look is at all"
            assert run.id not in asked()
            stamp(run, last_scheduling_decision=datetime.now(UTC) - timedelta(seconds=30))
            assert run.id in asked()
    finally:
        vars(scheduler_job_runner)["time"] = time
        DagRun.get_running_dag_runs_to_examine = every  # type: ignore[method-assign]
