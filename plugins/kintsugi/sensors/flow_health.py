"""Wait until the flow looks sick, or until the streaming application is gone."""

from __future__ import annotations

from typing import Any, NoReturn

from airflow.sdk import BaseSensorOperator, Context

from kintsugi.triggers.flow_health import FlowHealthTrigger, StreamAbsentTrigger
from kintsugi.triggers.node_health import MAX_WATCH_S


class FlowHealthSensor(BaseSensorOperator):
    """Defers at once to a FlowHealthTrigger, which ends it in the triggerer; it never holds a worker slot.

    Returns ``symptom`` (absent, stalled, growing), ``first_failed_at``, ``detected_at`` and ``evidence``. When
    nothing happened for ``max_watch`` seconds the task is skipped, and with it what would have been done.
    """

    def __init__(self, *, interval: float = 5.0, max_watch: float = MAX_WATCH_S, **kwargs: Any) -> None:
        kwargs.setdefault("timeout", max_watch + 3600)
        super().__init__(**kwargs)
        self.interval = interval
        self.max_watch = max_watch

    def execute(self, context: Context) -> NoReturn:
        """Hand the watch to the triggerer; raises TaskDeferred."""
        trigger = FlowHealthTrigger(interval=self.interval, max_watch=self.max_watch)
        self.defer(trigger=trigger, method_name="execute")


class StreamAbsentSensor(BaseSensorOperator):
    """Waits, without a worker slot, until no streaming application holds a core on the Spark master.

    Returns ``{"absent": True, "detail": …}``. When the stream ran for ``max_watch`` seconds the task is
    skipped, and with it whatever would have started the driver.
    """

    def __init__(self, *, interval: float = 2.0, max_watch: float = MAX_WATCH_S, **kwargs: Any) -> None:
        kwargs.setdefault("timeout", max_watch + 3600)
        super().__init__(**kwargs)
        self.interval = interval
        self.max_watch = max_watch

    def execute(self, context: Context) -> NoReturn:
        """Hand the watch to the triggerer; raises TaskDeferred."""
        trigger = StreamAbsentTrigger(interval=self.interval, max_watch=self.max_watch)
        self.defer(trigger=trigger, method_name="execute")
