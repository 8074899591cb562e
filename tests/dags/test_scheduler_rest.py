"""What the scheduler's rest looks at, in a real Airflow's database."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from kintsugi.local import scheduler_rest
from tests.dags.in_process import run_in_process


def test_a_task_that_changes_is_a_change_and_the_schedulers_own_stamp_is_none(dag_bag: Any) -> None:
    from airflow.models.dagrun import DagRun
    from airflow.models.taskinstance import TaskInstance
    from airflow.utils.session import create_session
    from sqlalchemy import select

    before = scheduler_rest.changes()
    run_in_process(dag_bag.get_dag("recover_node"), {"node": "kafka-1", "action": "auto", "dry_run": True})
    assert scheduler_rest.changes() == before, "a run that is over is none of its business"
    with create_session() as session:
        newest = select(DagRun).where(DagRun.dag_id == "recover_node").order_by(DagRun.id.desc())
        run = session.scalars(newest).first()
        assert run is not None
        run.state = "running"
    running = scheduler_rest.changes()
    assert running != before
    with create_session() as session:
        session.merge(run).last_scheduling_decision = datetime.now(UTC)
    assert scheduler_rest.changes() == running
    with create_session() as session:
        task = session.scalars(
            select(TaskInstance).where(
                TaskInstance.dag_id == run.dag_id,
                TaskInstance.run_id == run.run_id,
            )
        ).first()
        assert task is not None
        assert task.state != "scheduled", "nothing of a run that is over is still to come"
        task.state = "scheduled"
    assert scheduler_rest.changes() != running
    with create_session() as session:
        session.merge(run).state = "failed"


def test_the_scheduler_of_this_airflow_can_be_made_to_rest_so() -> None:
    import time

    from airflow.jobs import scheduler_job_runner

    try:
        scheduler_rest.install()
        assert isinstance(vars(scheduler_job_runner)["time"], scheduler_rest.Rest)
    finally:
        vars(scheduler_job_runner)["time"] = time
