"""A task that deferred and was resumed at once: the end of its first life is not the end of its second."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.models.taskinstancekey import TaskInstanceKey
from airflow.utils.state import TaskInstanceState

from kintsugi.controlplane.airflow_patches import life_counting_executor
from tests.dags.in_process import run_in_process

KEY = TaskInstanceKey("build_baseline", "new_file", "a run", 1, -1)
JOB = 7


class WithoutWorkers(life_counting_executor()):  # type: ignore[misc]
    """Nothing takes what it hands out; a test says what a worker would."""

    def _spawn_workers_with_gc_freeze(self, spawn_number: int) -> None:
        assert spawn_number

    def worker_says(self, key: TaskInstanceKey, state: TaskInstanceState) -> None:
        self.result_queue.put((key, state, None))
        while self.result_queue.empty():  # a pipe: what was put in can be seen a moment later
            pass

    def hand_out(self, key: TaskInstanceKey) -> None:
        self.queued_tasks[key] = SimpleNamespace(key=key, ti=SimpleNamespace(priority_weight=1))


@pytest.fixture
def executor() -> Iterator[WithoutWorkers]:
    started = WithoutWorkers(parallelism=2)
    started.start()
    yield started
    started.activity_queue.close()
    started.result_queue.close()


def ends(executor: WithoutWorkers) -> list[tuple[Any, Any]]:
    return [(key, state) for key, (state, _) in executor.get_event_buffer().items()]


def test_the_end_of_a_life_is_told_when_there_is_no_later_one(executor: WithoutWorkers) -> None:
    executor.hand_out(KEY)
    executor.heartbeat()
    assert ends(executor) == []
    executor.worker_says(KEY, TaskInstanceState.SUCCESS)
    executor.heartbeat()
    assert ends(executor) == [(KEY, "success")]


def test_the_end_before_a_resumption_is_not_told_once_the_resumed_life_was_handed_out(
    executor: WithoutWorkers,
) -> None:
    executor.hand_out(KEY)
    executor.heartbeat()
    executor.worker_says(KEY, TaskInstanceState.SUCCESS)  # it deferred, and its trigger fired at once
    executor.hand_out(KEY)
    executor.heartbeat()
    assert ends(executor) == []
    executor.worker_says(KEY, TaskInstanceState.FAILED)
    executor.heartbeat()
    assert ends(executor) == [(KEY, "failed")]


def test_another_try_is_another_task(executor: WithoutWorkers) -> None:
    executor.hand_out(KEY)
    executor.hand_out(KEY.with_try_number(2))
    executor.heartbeat()
    executor.worker_says(KEY, TaskInstanceState.FAILED)
    executor.heartbeat()
    assert ends(executor) == [(KEY, "failed")]


def test_what_the_scheduler_itself_gives_up_is_told(executor: WithoutWorkers) -> None:
    executor.change_state(KEY, TaskInstanceState.FAILED)
    assert ends(executor) == [(KEY, "failed")]


@pytest.fixture
def task(dag_bag: Any) -> Iterator[Any]:
    """Some task of a run in a real database, in its second life; the run is gone after the test."""
    from airflow.models.dagrun import DagRun
    from airflow.models.taskinstance import TaskInstance
    from airflow.utils.session import create_session
    from sqlalchemy import delete, select

    run_in_process(dag_bag.get_dag("recover_node"), {"node": "kafka-1", "action": "auto", "dry_run": True})
    with create_session() as session:
        found = session.scalars(select(TaskInstance).order_by(TaskInstance.id.desc())).first()
        assert found is not None
        found.state, found.queued_by_job_id = TaskInstanceState.RUNNING, JOB
    yield found
    with create_session() as session:
        session.execute(delete(DagRun).where(DagRun.run_id == found.run_id))


def test_the_scheduler_leaves_the_resumed_task_alone(task: Any, executor: WithoutWorkers) -> None:
    from airflow.jobs.scheduler_job_runner import SchedulerJobRunner
    from airflow.models.dagbag import DBDagBag
    from airflow.models.taskinstance import TaskInstance
    from airflow.utils.session import create_session

    executor.hand_out(task.key)
    executor.heartbeat()
    executor.worker_says(task.key, TaskInstanceState.SUCCESS)
    executor.hand_out(task.key)
    executor.heartbeat()
    with create_session() as session:
        SchedulerJobRunner.process_executor_events(executor, JOB, DBDagBag(), session)
    with create_session() as session:
        found = session.get(TaskInstance, task.id)
        assert found is not None
        assert found.state == TaskInstanceState.RUNNING
