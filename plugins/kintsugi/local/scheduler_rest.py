"""Airflow's scheduler rests until something has changed, instead of for a fixed time.

Each of its loops looks at every running DAG run. With a watch for every node, two looks a second took 40 % of a core
where nothing happened at all, and still let every step of a recovery wait. The loop knows one way to wait, the
``time.sleep`` of its module, and `Rest` stands in for that; see ``docs/decisions/0064``.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Hashable
from typing import Any

from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

log = logging.getLogger(__name__)

POLL_S = 0.15
BLIND_S = 0.5
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


def install() -> None:
    """Have the scheduler of this process rest so; raises ImportError when this Airflow has no such loop."""
    from airflow.jobs import scheduler_job_runner

    if not hasattr(scheduler_job_runner, "time"):
        raise ImportError(
            "Airflow's scheduler doesn't sleep by the module time any more; see scheduler_rest.py"
        )
    scheduler_job_runner.time = Rest(changes)
