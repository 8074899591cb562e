"""Wait until a node looks sick."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from kintsugi.sensors.branching import BranchingSensor
from kintsugi.triggers.node_health import MAX_WATCH_S, NodeHealthTrigger

if TYPE_CHECKING:
    from airflow.sdk import Context


class NodeHealthSensor(BranchingSensor):
    """Defers at once to a NodeHealthTrigger; returns its event. It holds no worker slot while waiting.

    Returns the finding as a dict (``node symptom first_failed_at detected_at evidence``, times ISO 8601), or
    ``{"well": True}`` when nothing happened for ``max_watch`` seconds. Raises FleetError when the fleet has
    no such node.

    :param node: name of the node to watch (templated).
    :param interval: seconds from one probe to the next.
    :param max_watch: seconds after which the watch ends well.
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
            method_name="execute_complete",
        )

    def execute_complete(self, context: Context, event: dict[str, Any]) -> dict[str, Any]:
        """Resume with the trigger's event, return it, and branch where ``when_sick`` says so."""
        if "well" in event:
            self.log.info("%s was well for %.0f s", self.node, self.max_watch)
        else:
            self.log.warning("%s looks %s: %s", self.node, event["symptom"], "; ".join(event["evidence"]))
        self.branch(context, event)
        return event
