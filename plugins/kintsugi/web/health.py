"""The facts behind Pipeline Health: all readings at one time. `headline` and `node_rows` make its texts. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from kintsugi.core.fleet import Fleet, Node, Role, watch_dag_id
from kintsugi.core.incident import Incident
from kintsugi.db.dashboard import FleetSummary
from kintsugi.db.flags import FLEET, Maintenance
from kintsugi.web.flow import Stream
from kintsugi.web.intake import Intake
from kintsugi.web.polling_cache import CachedValue
from kintsugi.web.sources import AirflowSnapshot, NodeSnapshot, ReleasesSnapshot


@dataclass(frozen=True, slots=True)
class HealthFacts:
    """All readings, at ``now`` (UTC). ``stream`` is the flow as words and figures (kintsugi.web.flow)."""

    now: datetime
    fleet: Fleet
    nodes: CachedValue[Mapping[str, NodeSnapshot]]
    store: CachedValue[FleetSummary]
    airflow: CachedValue[AirflowSnapshot]
    releases: CachedValue[ReleasesSnapshot]
    stream: Stream
    intake: Intake | None = None

    def open_incident(self, name: str) -> Incident | None:
        """The open incident of a node."""
        return next((incident for incident in self.open_incidents if incident.node == name), None)

    @property
    def open_incidents(self) -> Sequence[Incident]:
        return self.store.value.open if self.store.value else ()

    def last_probe(self, name: str) -> NodeSnapshot | None:
        """The last probe of the node."""
        return (self.nodes.value or {}).get(name)

    def maintenance_of(self, name: str) -> list[Maintenance]:
        """The maintenance windows of the node: its own and the fleet's."""
        flags = self.store.value.maintenance if self.store.value else ()
        return [flag for flag in flags if flag.scope in (name, FLEET)]

    def is_unwatched(self, name: str) -> bool:
        """Whether the node's watch is known to be paused."""
        return self.airflow.value is not None and watch_dag_id(name) in self.airflow.value.paused

    def nodes_away(self) -> list[Node]:
        """The nodes that are down or hung."""
        return [
            node for node in self.fleet if (seen := self.last_probe(node.name)) and seen.symptom is not None
        ]

    @property
    def airflow_is_late(self) -> bool:
        """Whether a component of Airflow is known to have no recent heartbeat, so that nothing is recovered."""
        return self.airflow.value is not None and bool(self.airflow.value.late)

    @property
    def replica_names(self) -> list[str]:
        """The nodes that hold replicas: those of Cassandra."""
        return [node.name for node in self.fleet.of(Role.CASSANDRA)]


def join_names(names: Sequence[str]) -> str:
    """Names as part of a sentence; more than three as their number."""
    if not names:
        return ""
    if len(names) > 3:
        return f"{len(names)} nodes"
    return ", ".join(names[:-1]) + (" and " if len(names) > 1 else "") + names[-1]
