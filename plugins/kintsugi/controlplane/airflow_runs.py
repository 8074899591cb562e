"""What Airflow's restored database says about work under way, and what is no longer true.

It is written as SQL, because Airflow doesn't run yet. Airflow would take each task that a backup calls running for its
own, and run it again with what it knew then.
"""

from __future__ import annotations

from typing import LiteralString

_STATEMENTS: tuple[LiteralString, ...] = (
    # Its triggers belong to tasks that end here; a row would be run by the next triggerer.
    "UPDATE task_instance SET state = 'failed', end_date = clock_timestamp(), trigger_id = NULL, next_method = NULL"
    " WHERE state IN ('running', 'queued', 'scheduled', 'deferred', 'restarting', 'up_for_retry',"
    " 'up_for_reschedule')",
    "DELETE FROM trigger",
    "UPDATE dag_run SET state = 'failed', end_date = clock_timestamp() WHERE state IN ('running', 'queued')",
    "UPDATE job SET state = 'failed', end_date = clock_timestamp() WHERE state = 'running'",
)


def end_unfinished_runs(dsn: str) -> int:
    """End every run, task, trigger and component that the restored database ``dsn`` calls unfinished.

    Returns the number of runs. A database that Airflow never migrated is left as it is. The watches have no pause
    between two runs, so the scheduler starts new ones, which observe the nodes anew.
    """
    import psycopg

    with psycopg.connect(dsn) as connection:
        there = connection.execute("SELECT to_regclass('public.dag_run') IS NOT NULL").fetchone()
        if there == (False,):
            return 0
        counts = [connection.execute(statement).rowcount for statement in _STATEMENTS]
        return counts[2]
