"""A sensor whose watch runs and ends in the triggerer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

from airflow.sdk import BaseSensorOperator

from kintsugi.airflow_ext.triggers.node_health import MAX_WATCH_S

if TYPE_CHECKING:
    from airflow.triggers.base import BaseTrigger


class WatchSensor(BaseSensorOperator):
    """The base of the sensors whose trigger ends them (`airflow_ext.triggers.node_health_listener`).

    It never holds a worker slot.

    :param interval: seconds from one check to the next.
    :param max_watch: seconds after which the watch ends; then the task is skipped, and with it what follows.
    """

    def __init__(self, *, interval: float, max_watch: float = MAX_WATCH_S, **kwargs: Any) -> None:
        # The trigger itself ends after max_watch; the sensor's own timeout must not come first.
        kwargs.setdefault("timeout", max_watch + 3600)
        super().__init__(**kwargs)
        self.interval = interval
        self.max_watch = max_watch

    def hand_over(self, trigger: BaseTrigger) -> NoReturn:
        """Let ``trigger`` watch and end the task; raises TaskDeferred. The method it names is never called."""
        self.defer(trigger=trigger, method_name="execute")
