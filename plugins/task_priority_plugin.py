"""Tasks that aren't a recovery's step back behind the servers when they begin: a listener of Airflow.

Every task is forked from a scheduler that goes before the rest of the machine (`kintsugi.controlplane.launcher`);
see ``docs/decisions/0063-recovery-has-priority.md`` and ``0086-priority-is-set-for-the-session-too.md``.
"""

from __future__ import annotations

import os
from typing import Any

from airflow.listeners import hookimpl
from airflow.plugins_manager import AirflowPlugin

from kintsugi.core.process_priority import IN_A_WORKER, lower_priority

POOLS = ("recovery", "rejoin")


class StepBack:
    """Listens to tasks that begin, each in its own process."""

    @hookimpl
    def on_task_instance_running(self, previous_state: Any, task_instance: Any) -> None:
        """Called just before the task's code; what the task starts inherits the niceness."""
        if task_instance.task.pool not in POOLS and IN_A_WORKER in os.environ:
            lower_priority()


class TaskPriorityPlugin(AirflowPlugin):
    """The listener on tasks that begin."""

    name = "task_priority"
    listeners = [StepBack()]  # noqa: RUF012 - as Airflow declares it
