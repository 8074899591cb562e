"""Wait until a node looks sick."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from airflow.sdk import BaseSensorOperator

from kintsugi.triggers.node_health import MAX_WATCH_S, NodeHealthTrigger

if TYPE_CHECKING:
    from airflow.sdk import Context


class NodeHealthSensor(BaseSensorOperator):
    """Defers at once to a NodeHealthTrigger, which ends it in the triggerer; it never holds a worker slot.

    Returns the finding as a dict (``node symptom first_failed_at detected_at evidence``, times ISO 8601). When
    nothing happened for ``max_watch`` seconds the task is skipped, and with it the recovery. Raises FleetError when
    the fleet has no such node.

    :param node: name of the node to watch (templated).
    :param interval: seconds from one probe to the next.
    :param max_watch: seconds after which the watch ends.
    """

    template_fields: Sequence[str] = ("node",)

    def __init__(
        self, *, node: str, interval: float = 1.0, max_watch: float = MAX_WATCH_S, **kwargs: Any
    ) -> None:
        # The trigger itself ends after max_watch; the sensor's own timeout must not come first.
        kwargs.setdefault("timeout", max_watch + 3600)
        super().__init__(**kwargs)
        self.node = node
        self.interval = interval
        self.max_watch = max_watch

    def execute(self, context: Context) -> NoReturn:
        """Hand the watch to the triggerer; raises TaskDeferred."""
        from kintsugi.settings import load_settings

        node = load_settings().fleet.node(self.node)
        self.defer(
            trigger=NodeHealthTrigger(
                name=node.name,
                address=node.address,
                role=str(node.role),
                ssh_port=node.ssh_port,
                interval=self.interval,
                max_watch=self.max_watch,
            ),
            method_name="execute",  # never called: the trigger ends the task
        )
