"""A listener that lowers the priority of every task that is not part of a recovery.

Every task is forked from a scheduler with a raised priority (`kintsugi.controlplane.launcher`);
see ``docs/decisions/0063-recovery-has-priority.md`` and ``0086-priority-is-set-for-the-session-too.md``.
"""

from __future__ import annotations

import os
from typing import Any

from airflow.listeners import hookimpl
from airflow.plugins_manager import AirflowPlugin

from kintsugi.core.process_priority import IN_A_WORKER, step_back

POOLS = ("recovery", "rejoin")


class StepBack:
    """Listens to starting tasks, each in its own process."""

    @hookimpl
    def on_task_instance_running(self, previous_state: Any, task_instance: Any) -> None:
        """Called just before the task's code; what the task starts inherits the niceness."""
        if task_instance.task.pool not in POOLS and IN_A_WORKER in os.environ:
            step_back()


class TaskPriorityPlugin(AirflowPlugin):
    """Registers the listener."""

    name = "task_priority"
    listeners = [StepBack()]  # noqa: RUF012 - as Airflow declares it
