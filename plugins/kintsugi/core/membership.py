"""Which nodes are in force: an edit of the fleet file alone neither adds a node nor removes one.

The fleet file declares what is wanted. The record ``control/formed/fleet.json`` has what is there: the members, which
serve, and the nodes that are joining, which are made but don't serve yet. `kintsugi.scaling` moves a node from one to
the other. Until then a declared node that is no member is not watched, probed or counted, and a member that is no
longer declared still is. Without a record every declared node is in force.

The record also has where a node is: its role, host, address, port and zone. The servers were made there, so an edit of
these changes nothing, else the watches would ask a wrong address and find a node dead. Only the rest is as it is
declared.

The record lies beside the marks of the formed clusters: it is backed up and removed together with them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from kintsugi.core.errors import FleetError
from kintsugi.core.files import write_private
from kintsugi.core.fleet import Fleet, Node, Role

_PLACE = ("role", "host", "address", "ssh_port", "zone")
"""The fields of a node that say where it is: its server was made with them."""


@dataclass(frozen=True, slots=True)
class Membership:
    """The members and the joining nodes, by name, as they were when they were recorded.

    The other fields say what is left to do after a node has come or gone, and what the clusters don't show:
    ``cleanup``, the Cassandra nodes that still hold rows which moved to a new one; ``unwatched``, the new members whose
    watch is not started; ``spread``, whether a broker should get replicas, a new one or one that stays after all;
    ``settle``, whether the members' files are of an earlier fleet.
    """

    members: Mapping[str, Node]
    joining: Mapping[str, Node] = field(default_factory=dict)
    cleanup: tuple[str, ...] = ()
    unwatched: tuple[str, ...] = ()
    spread: bool = False
    settle: bool = False

    @property
    def present(self) -> dict[str, Node]:
        """The members and the joining nodes, by name: what is made."""
        return {**self.joining, **self.members}

    def with_joining(self, node: Node) -> Membership:
        """Return the record with ``node`` as joining."""
        return replace(self, joining={**self.joining, node.name: node}, settle=True)

    def with_member(self, node: Node) -> Membership:
        """Return the record with ``node`` as a member, and with what is left to do for it."""
        peers = [one.name for one in self.members.values() if node.role is one.role is Role.CASSANDRA]
        return replace(
            self,
            members={**self.members, node.name: node},
            joining=_without(self.joining, node.name),
            cleanup=tuple(sorted({*self.cleanup, *peers})),
            unwatched=(*self.unwatched, node.name),
            spread=self.spread or node.role is Role.KAFKA,
            settle=True,
        )

    def without(self, name: str) -> Membership:
        """Return the record without this node."""
        broker = name in self.members and self.members[name].role is Role.KAFKA
        return replace(
            self,
            spread=self.spread and not broker,  # a broker is stopped only when it has no replica left
            members=_without(self.members, name),
            joining=_without(self.joining, name),
            cleanup=_others(self.cleanup, name),
            unwatched=_others(self.unwatched, name),
            settle=True,
        )

    def with_watch(self, name: str) -> Membership:
        """Return the record with the watch of this node as started."""
        return replace(self, unwatched=_others(self.unwatched, name))

    def without_watch(self, name: str) -> Membership:
        """Return the record with the watch of this node, if it is a member, as one to start.

        It is about to be stopped. A broker has no replicas then, so it needs some if its removal is reverted.
        """
        if name not in self.members:
            return self
        broker = self.members[name].role is Role.KAFKA
        unwatched = (*_others(self.unwatched, name), name)
        return replace(self, unwatched=unwatched, spread=self.spread or broker)

    def with_zones(self, zones: Mapping[str, str | None]) -> Membership:
        """Return the record with these zones of members, by name: those of a release that was rolled out."""
        members = {
            name: replace(node, zone=zones.get(name, node.zone)) for name, node in self.members.items()
        }
        return replace(self, members=members)

    def with_cleanup_done(self, name: str) -> Membership:
        """Return the record with this node as cleaned up."""
        return replace(self, cleanup=_others(self.cleanup, name))


def record_path(control: Path) -> Path:
    """Return the path of the record in the working directory ``control`` of the control plane."""
    return control / "formed" / "fleet.json"


def read_membership(control: Path) -> Membership | None:
    """Return the record; None if there is none. Raises FleetError if it can't be read as one."""
    path = record_path(control)
    try:
        document = json.loads(path.read_text())
        return Membership(
            _parse_nodes(document["members"]),
            _parse_nodes(document["joining"]),
            tuple(document["cleanup"]),
            tuple(document["unwatched"]),
            bool(document["spread"]),
            bool(document["settle"]),
        )
    except FileNotFoundError:
        return None
    except (KeyError, TypeError, ValueError) as error:
        raise FleetError(
            f"{path} is no record of the fleet's nodes: {error!r}; restore it from a backup"
        ) from error


def write_membership(control: Path, membership: Membership) -> None:
    """Write the record; a reader sees the old one or the new one."""
    path = record_path(control)
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {
        "members": [_recorded(node) for node in membership.members.values()],
        "joining": [_recorded(node) for node in membership.joining.values()],
        "cleanup": list(membership.cleanup),
        "unwatched": list(membership.unwatched),
        "spread": membership.spread,
        "settle": membership.settle,
    }
    write_private(path, json.dumps(document, indent=1))


def _recorded(node: Node) -> dict[str, Any]:
    entry = asdict(node)
    if node.host is None:
        del entry["host"]  # an earlier release refuses a key that it doesn't know
    return entry


def fleet_in_force(declared: Fleet, membership: Membership | None) -> Fleet:
    """Return the declared fleet with the members as its only nodes. Pure.

    A member has the place (`place_of`) that was recorded, and the rest as it is declared. One that is no longer
    declared is as it was recorded.
    """
    if membership is None:
        return declared
    names = (
        *(name for name in declared.nodes if name in membership.members),
        *(name for name in membership.members if name not in declared.nodes),
    )
    return replace(declared, nodes={name: _in_force(declared, membership.members[name]) for name in names})


def present_nodes(declared: Fleet, membership: Membership | None) -> dict[str, Node] | None:
    """Return the members and the joining nodes by name, which are what Terraform manages; None without a record. Pure.

    They are as in `fleet_in_force`.
    """
    if membership is None:
        return None
    return {name: _in_force(declared, node) for name, node in membership.present.items()}


def known_fleet(declared: Fleet, membership: Membership | None) -> Fleet:
    """Return the declared fleet with all nodes that are declared, members or joining. Pure."""
    present = present_nodes(declared, membership)
    return declared if present is None else replace(declared, nodes={**declared.nodes, **present})


def place_of(node: Node) -> tuple[object, ...]:
    """Return what can't change while the node is there, because its server was made with it. Pure."""
    return tuple(getattr(node, field) for field in _PLACE)


def moved_nodes(declared: Fleet, membership: Membership | None) -> list[str]:
    """Return the nodes that are there and declared with another place, sorted: these edits are not in force. Pure."""
    there = membership.present if membership else {}
    return sorted(
        name
        for name, node in there.items()
        if name in declared.nodes and place_of(declared.nodes[name]) != place_of(node)
    )


def _in_force(declared: Fleet, recorded: Node) -> Node:
    wanted = declared.nodes.get(recorded.name, recorded)
    return replace(wanted, **{field: getattr(recorded, field) for field in _PLACE})


def _without(nodes: Mapping[str, Node], name: str) -> dict[str, Node]:
    return {other: node for other, node in nodes.items() if other != name}


def _others(names: Iterable[str], name: str) -> tuple[str, ...]:
    return tuple(other for other in names if other != name)


def _parse_nodes(entries: Iterable[Mapping[str, Any]]) -> dict[str, Node]:
    return {entry["name"]: Node(**{**entry, "role": Role(entry["role"])}) for entry in entries}
