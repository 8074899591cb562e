"""Wait until a node counts as failed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from kintsugi.airflow_ext.sensors.base_node_sensor import WatchSensor
from kintsugi.airflow_ext.triggers.node_health import NodeHealthTrigger
from kintsugi.core.settings import load_settings

if TYPE_CHECKING:
    from airflow.sdk import Context


class NodeHealthSensor(WatchSensor):
    """Watches a node by a NodeHealthTrigger.

    Returns the finding as a dict (``node symptom first_failed_at detected_at evidence``, times ISO 8601). Raises
    FleetError when the fleet has no such node.

    :param node: name of the node to watch (templated).
    """

    template_fields: Sequence[str] = ("node",)

    def __init__(self, *, node: str, interval: float = 1.0, **kwargs: Any) -> None:
        super().__init__(interval=interval, **kwargs)
        self.node = node

    def execute(self, context: Context) -> NoReturn:
        """Hand the watch to the triggerer; raises TaskDeferred."""
        node = load_settings().fleet.node(self.node)
        self.hand_over(
            NodeHealthTrigger(
                name=node.name,
                address=node.address,
                role=str(node.role),
                ssh_port=node.ssh_port,
                interval=self.interval,
                max_watch=self.max_watch,
            )
        )
