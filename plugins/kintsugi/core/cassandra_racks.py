"""The racks of Cassandra's nodes: the zones that its cluster was formed with, recorded on the control plane.

A Cassandra node refuses to start when its rack differs from the one that its disk began with. So the fleet file decides
only until the cluster is formed; from then on the record does (docs/decisions/0147).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from kintsugi.core.files import write_private
from kintsugi.core.fleet import Fleet, Node, Role
from kintsugi.core.settings import Settings

DEFAULT_RACK = "rack1"
"""The rack of a node without a zone; SimpleSnitch, of the first versions, gave the same name."""


def formed_zones(settings: Settings) -> dict[str, str] | None:
    """Return the zones that Cassandra's cluster was formed with, by node name; None before it is formed.

    A cluster without a record was formed without zones, before zones were known.
    """
    try:
        zones: dict[str, str] = json.loads(_record_file(settings).read_text())
    except FileNotFoundError:
        return {} if (settings.control / "formed" / Role.CASSANDRA.value).exists() else None
    return zones


def record_zones(settings: Settings, zones: Mapping[str, str]) -> None:
    """Record the zones that the cluster is formed with, by node name."""
    path = _record_file(settings)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_private(path, json.dumps(dict(zones), sort_keys=True))


def forget_zones(settings: Settings) -> None:
    """Remove the record, because another cluster is formed on new disks."""
    _record_file(settings).unlink(missing_ok=True)


def rack_of(settings: Settings, node: Node) -> str:
    """Return the rack of a Cassandra node, whatever the fleet file says now."""
    return (formed_zones(settings) or {}).get(node.name, DEFAULT_RACK)


def zone_conflict(settings: Settings, fleet: Fleet) -> str | None:
    """Return a sentence if Cassandra's zones in the fleet file are not those that its cluster was formed with."""
    recorded = formed_zones(settings)
    if recorded is None:
        return None
    # Nodes that are added or removed may be on record already, or still.
    names = {node.name for node in fleet.of(Role.CASSANDRA)}
    formed = {name: zone for name, zone in recorded.items() if name in names}
    declared = declared_zones(fleet)
    if formed == declared:
        return None
    return (
        f"the zones of Cassandra's nodes are {_listed(declared)} in the fleet file, but the cluster was formed with "
        f"{_listed(formed)}. A Cassandra node doesn't start in another rack, so nothing was changed: set the zones "
        "back, or run `make down` first, which deletes all data"
    )


def declared_zones(fleet: Fleet) -> dict[str, str]:
    """Return the zones that the fleet file gives to Cassandra's nodes, by node name."""
    return {node.name: node.zone for node in fleet.of(Role.CASSANDRA) if node.zone is not None}


def _listed(zones: Mapping[str, str]) -> str:
    return ", ".join(f"{name}: {zone}" for name, zone in sorted(zones.items())) or "none"


def _record_file(settings: Settings) -> Path:
    return settings.control / "formed" / "cassandra.zones"
