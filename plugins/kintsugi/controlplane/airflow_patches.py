"""Every patch of Airflow's internals: two of the scheduler's loop, and its executor (``docs/decisions/0134``).

1. The scheduler waits until a task has changed, at the latest until its idle time has passed. Its loop waits by the
   ``time.sleep`` of its module only, so `ChangeAwareTime` replaces that module (``docs/decisions/0064``).
2. A loop examines the DAG runs that have changed, and all runs every ALL_AFTER_S. The loop asks for the runs at one
   place, which `ChangedRunsFirst` replaces (``docs/decisions/0088``).
3. `LifeCountingExecutor` replaces LocalExecutor. It tells apart the lives of a deferred task (``docs/decisions/0081``).

The patches are made for AIRFLOW_VERSION. With another version, or with KINTSUGI_STOCK_AIRFLOW, stock Airflow runs.
"""

from __future__ import annotations

import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from datetime import datetime, timedelta
from functools import cache
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from kintsugi.core.settings import STOCK_AIRFLOW, wants_stock_airflow

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow.executors.local_executor import LocalExecutor
    from airflow.models.dagrun import DagRun
    from sqlalchemy.orm import Session

AIRFLOW_VERSION = "3.3.2"
"""The version whose internals the patches replace. After a change of it: read the three places in Airflow's source."""

EXECUTOR = f"{__name__}.LifeCountingExecutor"

POLL_S = 0.15
BLIND_S = 0.5
ALL_AFTER_S = 10.0  # a run may also be over its time, or its DAG may have changed
COMMITS_WITHIN = timedelta(seconds=2)  # a change is stamped before other transactions see it
WAITING_STATES = (
    "up_for_retry",
    "up_for_reschedule",
)  # such a task goes on when a time comes, without a change
# Only states count: a heartbeat of a running task, or the scheduler's own stamp on a run, is no change.
TASK_STATES = (
    "SELECT task_instance.state, count(DISTINCT dag_run.id), count(*), max(task_instance.end_date) FROM dag_run "
    "LEFT JOIN task_instance "
    "ON task_instance.dag_id = dag_run.dag_id AND task_instance.run_id = dag_run.run_id "
    "WHERE dag_run.state IN ('queued', 'running') GROUP BY task_instance.state"
)

log = logging.getLogger(__name__)


def reason_for_stock_airflow() -> str | None:
    """Return why the patches are not to be applied in this installation; None if they are."""
    if wants_stock_airflow():
        return f"{STOCK_AIRFLOW} is set"
    installed = version("apache-airflow-core")
    if installed != AIRFLOW_VERSION:
        return f"Airflow {installed} is installed, and the patches are made for {AIRFLOW_VERSION}"
    return None


def apply_patches() -> bool:
    """Patch Airflow in this process, before its command line is loaded; returns whether the patches apply."""
    reason = reason_for_stock_airflow()
    if reason:
        log.warning(
            "Airflow runs without Kintsugi's patches, so each step of a recovery starts later: %s; "
            "see docs/decisions/0134-airflows-patches-in-one-module.md",
            reason,
        )
        return False
    os.environ["AIRFLOW__CORE__EXECUTOR"] = EXECUTOR  # Airflow reads it once, when its command line is loaded
    from airflow import configuration  # noqa: F401 - Airflow wants it to be imported first
    from airflow.jobs import scheduler_job_runner
    from airflow.models.dagrun import DagRun

    scheduler_job_runner.time = ChangeAwareTime(task_states)  # type: ignore[assignment,attr-defined]
    DagRun.get_running_dag_runs_to_examine = ChangedRunsFirst(  # type: ignore[method-assign,assignment]
        DagRun.get_running_dag_runs_to_examine, changed_run_ids
    )
    return True


class ChangeAwareTime:
    """The module ``time`` with another ``sleep``, which a change ends.

    ``read_state``: returns equal values as long as nothing has changed.
    """

    def __init__(self, read_state: Callable[[], Hashable]) -> None:
        self._read_state = read_state
        self._last_state: Hashable = None
        self._is_blind = False

    def sleep(self, seconds: float) -> None:
        """Return when something has changed since the last call returned, at the latest after ``seconds``."""
        from sqlalchemy.exc import SQLAlchemyError

        deadline = time.monotonic() + seconds
        try:
            while (state := self._read_state()) == self._last_state and time.monotonic() < deadline:
                time.sleep(POLL_S)
            self._last_state, self._is_blind = state, False
        except SQLAlchemyError as error:
            if not self._is_blind:
                log.warning(
                    "Postgres does not say whether a task has changed, so the scheduler sleeps %s s at a time: %s",
                    BLIND_S,
                    error,
                )
            self._is_blind = True
            time.sleep(min(seconds, BLIND_S))

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)


def task_states() -> Hashable:
    """Return a value that differs whenever an unfinished run, or a task of one, has got another state."""
    from airflow import settings
    from sqlalchemy import text

    engine = settings.get_engine()  # type: ignore[no-untyped-call]
    with engine.connect() as connection:
        return frozenset(tuple(row) for row in connection.execute(text(TASK_STATES)))


class ChangedRunsFirst:
    """Replaces ``DagRun.get_running_dag_runs_to_examine``, which is ``read_runs``.

    Returns of its runs those whose id ``read_changed_ids`` returns; all of them when ALL_AFTER_S have passed since the
    last time.
    """

    def __init__(
        self,
        read_runs: Callable[..., Iterable[DagRun]],
        read_changed_ids: Callable[[Session], set[int]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._read_runs, self._read_changed_ids, self._clock = read_runs, read_changed_ids, clock
        self._all_at = clock()

    def __call__(self, session: Session) -> Iterable[DagRun]:
        if self._clock() >= self._all_at:
            self._all_at = self._clock() + ALL_AFTER_S
            return self._read_runs(session=session)
        changed = self._read_changed_ids(session)
        return [run for run in self._read_runs(session=session) if run.id in changed] if changed else []


def changed_run_ids(session: Session) -> set[int]:
    """Return the ids of the running DAG runs about which the scheduler may have something to decide."""
    from airflow.models.dagrun import DagRun
    from airflow.models.taskinstance import TaskInstance
    from sqlalchemy import and_, func, select

    of_run = and_(TaskInstance.dag_id == DagRun.dag_id, TaskInstance.run_id == DagRun.run_id)
    rows = session.execute(
        select(
            DagRun.id,
            DagRun.last_scheduling_decision,
            func.max(TaskInstance.updated_at),
            func.count(TaskInstance.id).filter(TaskInstance.state.in_(WAITING_STATES)),
        )
        .outerjoin(TaskInstance, of_run)
        .where(DagRun.state == "running")
        .group_by(DagRun.id)
    )
    return {run_id for run_id, decided, updated, waiting in rows if waiting or is_due(decided, updated)}


def is_due(decided: datetime | None, updated: datetime | None) -> bool:
    """Whether a run may have changed since it was ``decided`` about; ``updated``: the last change of its tasks."""
    return decided is None or updated is None or updated >= decided - COMMITS_WITHIN


@cache
def life_counting_executor() -> type[LocalExecutor]:
    """Return the class LifeCountingExecutor; defined at its first use, because only the scheduler may load Airflow."""
    from airflow.executors.local_executor import LocalExecutor
    from airflow.models.taskinstancekey import TaskInstanceKey

    class LifeCountingExecutor(LocalExecutor):
        """Airflow's LocalExecutor, but it tells apart the lives of a deferred task.

        A task that defers ends its process, and its next life has the same key: the same try of the same task. If the
        trigger fires soon, LocalExecutor hands out the next life before it has reported the end of the last one. The
        scheduler takes that end for the next life's, and fails a healthy task (apache/airflow#72716, open in September
        2026). So this executor reports the end of a life only if no later one was handed out.

        It counts how often a task was handed to a worker and how often a worker was done with it. A worker that is
        killed leaves its count one too high, so no more ends of that try are reported. Nobody waits for them: a task
        reports its end to the api-server itself, and its missing heartbeats show that its process died.
        """

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)  # type: ignore[no-untyped-call]
            self._lives: Counter[TaskInstanceKey] = Counter()

        def _process_workloads(self, workload_list: Sequence[Any]) -> None:
            self._lives.update(
                workload.key for workload in workload_list if isinstance(workload.key, TaskInstanceKey)
            )
            super()._process_workloads(workload_list)  # type: ignore[no-untyped-call]

        def change_state(self, key: Any, state: Any, info: Any = None, remove_running: bool = True) -> None:
            """Report the end of a task to the scheduler, unless a later life of it was handed out already."""
            if isinstance(key, TaskInstanceKey) and self._end_life(key):
                self.log.info(
                    "the end of %s is not reported, because the task has been started again since", key
                )
                return
            super().change_state(key, state, info, remove_running)

        def _end_life(self, key: TaskInstanceKey) -> bool:
            """Count one life less; returns whether there is a later one."""
            self._lives[key] -= 1
            if self._lives[key] > 0:
                return True
            del self._lives[key]
            return False

    return LifeCountingExecutor


def __getattr__(name: str) -> type[LocalExecutor]:
    """Return the executor for Airflow, which finds it by the path EXECUTOR."""
    if name == "LifeCountingExecutor":
        return life_counting_executor()
    raise AttributeError(f"module {__name__} has no attribute {name}")
