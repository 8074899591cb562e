"""Tasks that aren't a recovery's step back behind the servers when they begin: a listener of Airflow.

Every task is forked from a scheduler that goes before the rest of the machine (`kintsugi.local.run_airflow`);
see ``docs/decisions/0063-a-repair-goes-first.md``.
"""

from __future__ import annotations

from typing import Any

from airflow.listeners import hookimpl
from airflow.plugins_manager import AirflowPlugin

from kintsugi.niceness import place, take_place

POOL = "recovery"


class StepBack:
    """Listens to tasks that begin, each in its own process."""

    @hookimpl
    def on_task_instance_running(self, previous_state: Any, task_instance: Any) -> None:
        """Called just before the task's code; what the task starts inherits the niceness."""
        if task_instance.task.pool != POOL and place() < 0:
            take_place(0)


class TaskPriorityPlugin(AirflowPlugin):
    """The listener on tasks that begin."""

    name = "task_priority"
    listeners = [StepBack()]  # noqa: RUF012 - as Airflow declares it
