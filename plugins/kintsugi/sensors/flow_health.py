"""Wait until the flow looks sick, or until the streaming application is gone."""

from __future__ import annotations

from typing import Any, NoReturn

from airflow.sdk import BaseSensorOperator, Context

from kintsugi.sensors.branching import BranchingSensor
from kintsugi.triggers.flow_health import FlowHealthTrigger, StreamAbsentTrigger
from kintsugi.triggers.node_health import MAX_WATCH_S


class FlowHealthSensor(BranchingSensor):
    """Defers at once to a FlowHealthTrigger; returns its event. It holds no worker slot while waiting.

    Returns ``symptom`` (absent, stalled, growing), ``first_failed_at``, ``detected_at`` and ``evidence``, or
    ``{"well": True}`` when nothing happened for ``max_watch`` seconds.
    """

    def __init__(self, *, interval: float = 5.0, max_watch: float = MAX_WATCH_S, **kwargs: Any) -> None:
        kwargs.setdefault("timeout", max_watch + 3600)
        super().__init__(**kwargs)
        self.interval = interval
        self.max_watch = max_watch

    def execute(self, context: Context) -> NoReturn:
        """Hand the watch to the triggerer; raises TaskDeferred."""
        trigger = FlowHealthTrigger(interval=self.interval, max_watch=self.max_watch)
        self.defer(trigger=trigger, method_name="execute_complete")

    def execute_complete(self, context: Context, event: dict[str, Any]) -> dict[str, Any]:
        """Resume with the trigger's event and return it."""
        if "well" not in event:
            self.log.warning("the flow looks %s: %s", event["symptom"], "; ".join(event["evidence"]))
        self.branch(context, event)
        return event


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
        self.defer(trigger=trigger, method_name="execute_complete")

    def execute_complete(self, context: Context, event: dict[str, Any]) -> dict[str, Any]:
        """Resume with the trigger's event and return it; skips when the stream was never absent."""
        if "well" in event:
            from airflow.sdk.exceptions import AirflowSkipException

            raise AirflowSkipException(f"the stream ran for {self.max_watch:.0f} s; nothing to start")
        self.log.warning("the stream is absent: %s", event["detail"])
        return event
