"""The rows of the nodes, and the lines about releases and replicas below them. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from kintsugi.core.fleet import Node, Role
from kintsugi.core.incident import Incident
from kintsugi.core.observation import Symptom
from kintsugi.db.replica_repairs import describe_repairs
from kintsugi.web.health import HealthFacts, join_names
from kintsugi.web.incident_progress import describe_progress, describe_stall
from kintsugi.web.polling_cache import CachedValue
from kintsugi.web.severity import Severity
from kintsugi.web.sources import ReleasesSnapshot

CLUSTERS = {
    "Kafka": (Role.KAFKA,),
    "Spark": (Role.SPARK_MASTER, Role.SPARK_WORKER),
    "Cassandra": (Role.CASSANDRA,),
}


@dataclass(frozen=True, slots=True)
class NodeRow:
    """A node on the page. ``last``: its newest incident; ``notes``: zone, maintenance, paused watch, data repair."""

    node: Node
    level: Severity
    state: str
    since: datetime | None
    notes: tuple[str, ...]
    last: Incident | None
    incident: str | None


def build_fleet_rows(facts: HealthFacts) -> dict[str, list[NodeRow]]:
    """Every node's row, by cluster in the order of the pipeline."""
    return {
        name: [build_node_row(facts, node) for node in facts.fleet.of(*roles)]
        for name, roles in CLUSTERS.items()
    }


def build_node_row(facts: HealthFacts, node: Node) -> NodeRow:
    """The row of one node."""
    seen, incident = facts.last_probe(node.name), facts.open_incident(node.name)
    store = facts.store.value
    notes = [f"zone {node.zone}"] if node.zone else []
    notes += [f"recovery paused: {flag.reason}" for flag in facts.maintenance_of(node.name)]
    if facts.is_unwatched(node.name):
        notes.append("watch paused")
    if store and node.name in store.pending and incident is None:
        notes.append("its data is being repaired")
    notes.extend(_list_release_notes(facts, node.name))
    level, state, since = Severity.WELL, "answers", None
    if seen is None:
        level, state = Severity.UNKNOWN, "not probed yet"
    elif seen.symptom is Symptom.DOWN:
        level, state, since = Severity.BAD, "down", seen.since
    elif seen.symptom is Symptom.HUNG:
        level, state, since = Severity.BAD, "hung", seen.since
    elif seen.since is not None:
        level, state, since = Severity.NOTE, "no answer", seen.since
    if incident is not None:
        since = incident.started_at
        level, state = Severity.BUSY, describe_progress(incident, short=True)
        if describe_stall(incident, facts.now):
            level, state = Severity.BAD, "repair stuck"
    last = store.newest.get(node.name) if store else None
    return NodeRow(node, level, state, since, tuple(notes), last, incident.id if incident else None)


def _list_release_notes(facts: HealthFacts, name: str) -> list[str]:
    seen, notes = facts.releases.value, []
    if seen is None:
        return []
    runs, good = seen.nodes.get(name), seen.known_good
    if runs is not None and good is not None and runs.digest != good.digest:
        notes.append(f"runs release {shorten_digest(runs.digest)}, {runs.verdict}")
    drifted = seen.drift.get(name, ())
    if drifted:
        notes.append(f"drift: {', '.join(drifted[:2])}{' and more' if len(drifted) > 2 else ''}")
    return notes


def shorten_digest(digest: str) -> str:
    """A release's digest, shortened for display."""
    return digest[:12]


def describe_releases(reading: CachedValue[ReleasesSnapshot]) -> str:
    """The known-good release, and the nodes with drift; empty while unknown."""
    seen = reading.value
    if seen is None:
        return ""
    if seen.known_good is None:
        return "No release is known-good yet."
    drift = f" Drift on {join_names(list(seen.drift))}." if seen.drift else " No drift."
    return f"Known-good release {shorten_digest(seen.known_good.digest)}.{drift}"


def describe_scaling(reading: CachedValue[ReleasesSnapshot]) -> str:
    """What is said of nodes that are being added or removed; empty if there is nothing to say."""
    return reading.value.scaling if reading.value else ""


def describe_replica_repairs(facts: HealthFacts) -> str:
    """When Cassandra's replicas were repaired last; empty while unknown."""
    seen = facts.store.value
    return describe_repairs(facts.replica_names, seen.replica_repairs) if seen else ""
