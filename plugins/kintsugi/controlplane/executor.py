"""Airflow's LocalExecutor, but it tells a task's lives apart.

A task that defers ends its process, and its next life has the same key: the same try of the same task. When the
trigger fires soon, the executor hands out the next life before it has told the end of the one before, and the scheduler
takes that end for the next life's: "finished with state success, but the task instance's state attribute is queued". It
fails a task that is well, and the sensor begins anew after its retry delay (apache/airflow#72716, open in September
2026). On a busy machine a sensor for a file that lay there already was lost three times in a row.

Here the end of a life is told only when no later one was handed out.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from airflow.executors.local_executor import LocalExecutor
from airflow.models.taskinstancekey import TaskInstanceKey

if TYPE_CHECKING:
    from collections.abc import Sequence


class LifeCountingExecutor(LocalExecutor):
    """Counts how often a task was handed to a worker and how often a worker is done with it.

    A worker that is killed leaves its count one too high: of that try no more ends are told. Nothing waits for them:
    what a task came to its own process has told the api-server, and one that died without a word is found by its
    missing heartbeats.
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
        """Tell the scheduler what became of a task, unless a later life of it was handed out already."""
        if isinstance(key, TaskInstanceKey) and self._a_later_life(key):
            self.log.info("%s has ended to go on: a later life of it was handed out already", key)
            return
        super().change_state(key, state, info, remove_running)

    def _a_later_life(self, key: TaskInstanceKey) -> bool:
        """Count one life less; whether there is a later one."""
        self._lives[key] -= 1
        if self._lives[key] > 0:
            return True
        del self._lives[key]
        return False
