"""Wait until the stream counts as failed, or until the streaming application is gone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

from kintsugi.airflow_ext.sensors.base_node_sensor import WatchSensor
from kintsugi.airflow_ext.triggers.flow_health import FlowHealthTrigger, StreamAbsentTrigger

if TYPE_CHECKING:
    from airflow.sdk import Context


class FlowHealthSensor(WatchSensor):
    """Watches the stream by a FlowHealthTrigger.

    Returns ``symptom`` (absent, stalled, growing), ``first_failed_at``, ``detected_at`` and ``evidence``.
    """

    def __init__(self, *, interval: float = 5.0, **kwargs: Any) -> None:
        super().__init__(interval=interval, **kwargs)

    def execute(self, context: Context) -> NoReturn:
        """Hand the watch to the triggerer; raises TaskDeferred."""
        self.hand_over(FlowHealthTrigger(interval=self.interval, max_watch=self.max_watch))


class StreamAbsentSensor(WatchSensor):
    """Waits until no streaming application holds a core on the Spark master.

    Returns ``{"absent": True, "detail": …}``.
    """

    def __init__(self, *, interval: float = 2.0, **kwargs: Any) -> None:
        super().__init__(interval=interval, **kwargs)

    def execute(self, context: Context) -> NoReturn:
        """Hand the watch to the triggerer; raises TaskDeferred."""
        self.hand_over(StreamAbsentTrigger(interval=self.interval, max_watch=self.max_watch))
