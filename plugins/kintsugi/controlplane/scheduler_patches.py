"""Airflow's scheduler rests until something has changed, and then looks at what has.

Each of its loops looks at every running DAG run. With a watch for every node, two looks a second took 40 % of a core
where nothing happened at all, and still let every step of a recovery wait. The loop knows one way to wait, the
``time.sleep`` of its module, and `Rest` stands in for that (``docs/decisions/0064``). It asks for the runs in one
place, and `Examined` answers with those that have changed (``docs/decisions/0088``).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Hashable, Iterable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

if TYPE_CHECKING:
    from airflow.models.dagrun import DagRun
    from sqlalchemy.orm import Session

log = logging.getLogger(__name__)

POLL_S = 0.15
BLIND_S = 0.5
ALL_AFTER_S = 10.0  # a run may also be over its time, or its DAG another
COMMITS_WITHIN = timedelta(seconds=2)  # a change is stamped before it can be seen
WAITS = ("up_for_retry", "up_for_reschedule")  # what comes of them comes with time alone
# States alone: a heartbeat of a running task, or the scheduler's own stamp on a run, is no change.
CHANGES = text(
    "SELECT task_instance.state, count(DISTINCT dag_run.id), count(*), max(task_instance.end_date) FROM dag_run "
    "LEFT JOIN task_instance "
    "ON task_instance.dag_id = dag_run.dag_id AND task_instance.run_id = dag_run.run_id "
    "WHERE dag_run.state IN ('queued', 'running') GROUP BY task_instance.state"
)


class Rest:
    """Has the names of the module ``time``; only its ``sleep`` is another. ``look``: equal when nothing has changed."""

    def __init__(self, look: Callable[[], Hashable]) -> None:
        self._look = look
        self._seen: Hashable = None
        self._blind = False

    def sleep(self, seconds: float) -> None:
        """Return when something has changed since the last call returned, at the latest after ``seconds``."""
        until = time.monotonic() + seconds
        try:
            while (found := self._look()) == self._seen and time.monotonic() < until:
                time.sleep(POLL_S)
            self._seen, self._blind = found, False
        except SQLAlchemyError as error:
            if not self._blind:
                log.warning(
                    "cannot see whether anything has changed, resting %s s at a time: %s", BLIND_S, error
                )
            self._blind = True
            time.sleep(min(seconds, BLIND_S))

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)


def changes() -> Hashable:
    """What is other whenever a task of a run that isn't over, or such a run, has got another state."""
    from airflow import settings

    engine = settings.get_engine()  # type: ignore[no-untyped-call]
    with engine.connect() as connection:
        return frozenset(tuple(row) for row in connection.execute(CHANGES))


class Examined:
    """In place of ``DagRun.get_running_dag_runs_to_examine``, which is ``every``: of its runs those of ``changed``.

    All of them when ``ALL_AFTER_S`` have passed since the last time.
    """

    def __init__(
        self,
        every: Callable[..., Iterable[DagRun]],
        changed: Callable[[Session], set[int]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._every, self._changed, self._clock = every, changed, clock
        self._all_at = clock()

    def __call__(self, session: Session) -> Iterable[DagRun]:
        if self._clock() >= self._all_at:
            self._all_at = self._clock() + ALL_AFTER_S
            return self._every(session=session)
        changed = self._changed(session)
        return [run for run in self._every(session=session) if run.id in changed] if changed else []


def changed_runs(session: Session) -> set[int]:
    """The ids of the running DAG runs that the scheduler has something to decide about."""
    from airflow.models.dagrun import DagRun
    from airflow.models.taskinstance import TaskInstance
    from sqlalchemy import and_, func, select

    of_run = and_(TaskInstance.dag_id == DagRun.dag_id, TaskInstance.run_id == DagRun.run_id)
    rows = session.execute(
        select(
            DagRun.id,
            DagRun.last_scheduling_decision,
            func.max(TaskInstance.updated_at),
            func.count(TaskInstance.id).filter(TaskInstance.state.in_(WAITS)),
        )
        .outerjoin(TaskInstance, of_run)
        .where(DagRun.state == "running")
        .group_by(DagRun.id)
    )
    return {number for number, decided, updated, waiting in rows if waiting or is_due(decided, updated)}


def is_due(decided: datetime | None, updated: datetime | None) -> bool:
    """Whether a run of whose tasks the last changed at ``updated`` may have changed since it was looked at."""
    return decided is None or updated is None or updated >= decided - COMMITS_WITHIN


def install() -> None:
    """Have the scheduler of this process do so; raises ImportError when this Airflow's loop is another."""
    from airflow.jobs import scheduler_job_runner
    from airflow.models.dagrun import DagRun

    every = getattr(DagRun, "get_running_dag_runs_to_examine", None)
    if not hasattr(scheduler_job_runner, "time") or every is None:
        raise ImportError(
            "Airflow's scheduler doesn't sleep by the module time, or doesn't ask DagRun which runs to look at, any "
            "more; see scheduler_rest.py"
        )
    scheduler_job_runner.time = Rest(changes)
    DagRun.get_running_dag_runs_to_examine = Examined(every, changed_runs)  # type: ignore[method-assign,assignment]
