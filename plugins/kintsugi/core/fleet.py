"""The fleet: all nodes, read from one file that Terraform, Ansible and the DAGs share."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import yaml

from kintsugi.core.errors import FleetError

REPOSITORY = Path(__file__).resolve().parents[3]
WATCH = "watch_"  # the ids of the watch DAGs begin with this


def watch_of(target: str) -> str:
    """Return the id of the DAG that watches a node, or ``flow`` (the stream)."""
    return WATCH + target


class Role(StrEnum):
    """What a node does in the pipeline."""

    KAFKA = "kafka"
    CASSANDRA = "cassandra"
    SPARK_MASTER = "spark_master"
    SPARK_WORKER = "spark_worker"


@dataclass(frozen=True, slots=True)
class Node:
    """One server: its name, its role, its address, and the port of its own sshd.

    ``index``: the number at the end of the name (``kafka-2`` → 2); Kafka uses it as node id. ``protected``: the node
    is destroyed only if a person approves.
    """

    name: str
    role: Role
    address: str
    ssh_port: int
    protected: bool = False

    @property
    def index(self) -> int:
        return int(self.name.rpartition("-")[2])


@dataclass(frozen=True, slots=True)
class ControlPlaneEndpoints:
    """The address and ports of Airflow, its database, S3 and the log collector in the local environment."""

    address: str
    airflow_port: int
    postgres_port: int
    s3_port: int
    log_port: int


@dataclass(frozen=True, slots=True)
class Fleet:
    """All nodes of one environment, by name in the order of the fleet file."""

    name: str
    environment: str
    control_plane: ControlPlaneEndpoints
    nodes: Mapping[str, Node]

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes.values())

    def node(self, name: str) -> Node:
        """Return the node called ``name``; raises FleetError with the known names if there is none."""
        try:
            return self.nodes[name]
        except KeyError:
            known = ", ".join(self.nodes)
            raise FleetError(f"the fleet has no node {name!r}; known are: {known}") from None

    def of(self, *roles: Role) -> list[Node]:
        """Return the nodes with one of these roles, in the order of the fleet file."""
        return [node for node in self if node.role in roles]

    def peers(self, node: Node) -> list[Node]:
        """Return the other nodes with the same role as ``node``."""
        return [other for other in self.of(node.role) if other.name != node.name]

    def endpoints(self, role: Role, port: int) -> list[str]:
        """Return ``address:port`` of every node with this role: a bootstrap list."""
        return [f"{node.address}:{port}" for node in self.of(role)]


def fleet_path() -> Path:
    """Return the path of the fleet file: ``$KINTSUGI_FLEET``, else ``fleet.yaml`` of this checkout."""
    return Path(os.environ.get("KINTSUGI_FLEET") or REPOSITORY / "fleet.yaml")


def load_fleet(path: Path | None = None) -> Fleet:
    """Read and check the fleet file; raises FleetError, which names the file and the entry at fault."""
    path = path or fleet_path()
    try:
        document = yaml.safe_load(path.read_text())
    except OSError as error:
        raise FleetError(f"cannot read the fleet file {path}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise FleetError(f"the fleet file {path} is not YAML: {error}") from error
    try:
        return _parse_fleet(document)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FleetError(f"the fleet file {path} is malformed: {error!r}") from error
    except FleetError as error:
        raise FleetError(f"the fleet file {path}: {error}") from error


def _parse_fleet(document: Mapping[str, Any]) -> Fleet:
    nodes: dict[str, Node] = {}
    addresses: dict[str, str] = {}
    for entry in document["nodes"]:
        node = Node(
            name=str(entry["name"]),
            role=Role(entry["role"]),
            address=str(ipaddress.ip_address(entry["address"])),
            ssh_port=int(entry.get("ssh_port", document["ssh_port"])),
            protected=entry.get("protected", False),
        )
        if not isinstance(node.protected, bool):
            raise FleetError(f"protected of {node.name} must be true or false, not {node.protected!r}")
        if not node.name.rpartition("-")[2].isdigit():
            raise FleetError(f"node {node.name!r} must end in a number, as in kafka-1")
        if node.name in nodes:
            raise FleetError(f"two nodes are called {node.name!r}")
        if node.address in addresses:
            raise FleetError(f"{node.name} and {addresses[node.address]} share the address {node.address}")
        nodes[node.name] = node
        addresses[node.address] = node.name
    return Fleet(
        name=str(document["name"]),
        environment=str(document["environment"]),
        control_plane=ControlPlaneEndpoints(**document["control_plane"]),
        nodes=nodes,
    )
