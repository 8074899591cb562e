"""Tasks that aren't a recovery's step back behind the servers when they begin: a listener of Airflow.

Every task is forked from a scheduler that goes before the rest of the machine (`kintsugi.local.run_airflow.go_first`);
see ``docs/decisions/0063-a-repair-goes-first.md``.
"""

from __future__ import annotations

import os
from typing import Any

from airflow.listeners import hookimpl
from airflow.plugins_manager import AirflowPlugin

POOL = "recovery"


class StepBack:
    """Listens to tasks that begin, each in its own process."""

    @hookimpl
    def on_task_instance_running(self, previous_state: Any, task_instance: Any) -> None:
        """Called just before the task's code; what the task starts inherits the niceness."""
        if task_instance.task.pool != POOL and os.getpriority(os.PRIO_PROCESS, 0) < 0:
            os.setpriority(os.PRIO_PROCESS, 0, 0)


class TaskPriorityPlugin(AirflowPlugin):
    """The listener on tasks that begin."""

    name = "task_priority"
    listeners = [StepBack()]  # noqa: RUF012 - as Airflow declares it
