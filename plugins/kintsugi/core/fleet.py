"""The fleet: all nodes, read from one file that Terraform, Ansible and the DAGs share."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import yaml

from kintsugi.core.errors import FleetError

NODE_NAME = re.compile(r"(?=.{3,48}\Z)[a-z][a-z0-9-]*-[0-9]+\Z", re.ASCII)
"""A node's name becomes a part of paths, DAG ids, container names and certificates. Terraform checks it too."""
_WORD = re.compile(r"[a-z][a-z0-9_-]{0,40}\Z", re.ASCII)
_HOST_KEY = re.compile(
    r"(ssh-ed25519|ssh-rsa|ecdsa-sha2-nistp(256|384|521)) [A-Za-z0-9+/]+={0,2}\Z", re.ASCII
)
_DIRECTORY = re.compile(r"(/[A-Za-z0-9_][A-Za-z0-9._-]*)+\Z", re.ASCII)
HOSTS = "hosts"
"""The environment whose nodes run on machines that exist already, reached by SSH."""
_FLEET_KEYS = (
    "name", "environment", "ssh_port", "mutual_tls", "control_plane", "hosts", "fence_agent", "nodes",
)  # fmt: skip
_NODE_KEYS = ("name", "role", "host", "address", "ssh_port", "protected", "zone")
_HOST_KEYS = ("address", "user", "ssh_port", "host_key", "zone", "volume_directory")
_CONTROL_PLANE_KEYS = ("address", "airflow_port", "postgres_port", "s3_port", "log_port")
REPOSITORY = Path(__file__).resolve().parents[3]
WATCH = "watch_"  # the ids of the watch DAGs begin with this


def watch_dag_id(target: str) -> str:
    """Return the id of the DAG that watches a node, or ``flow`` (the stream)."""
    return WATCH + target


class Role(StrEnum):
    """What a node does in the pipeline."""

    KAFKA = "kafka"
    CASSANDRA = "cassandra"
    SPARK_MASTER = "spark_master"
    SPARK_WORKER = "spark_worker"


CLUSTERED = (Role.KAFKA, Role.CASSANDRA)
"""The roles whose nodes keep copies of the same data, spread over the zones: all of them have a zone, or none."""


@dataclass(frozen=True, slots=True)
class Node:
    """One server: its name, its role, its address, and the port of its own sshd.

    ``index``: the number at the end of the name (``kafka-2`` → 2); Kafka uses it as node id. ``protected``: the node
    is destroyed only if a person approves. ``zone``: the nodes of one zone can fail together; None if the fleet file
    gives it none. ``host``: the name of the machine that it runs on, in the environment `hosts` only.
    """

    name: str
    role: Role
    address: str
    ssh_port: int
    protected: bool = False
    zone: str | None = None
    host: str | None = None

    @property
    def index(self) -> int:
        return int(self.name.rpartition("-")[2])


@dataclass(frozen=True, slots=True)
class Host:
    """A machine that exists already, and how its own sshd is reached (a node has one of its own).

    ``user``: root, or a user who may run every command by ``sudo -n``. ``host_key``: the public key that its sshd
    shows, as in ``ssh_host_ecdsa_key.pub``. ``volume_directory``: where the nodes' roots, volumes and quarantine lie
    there; None: at the path of the control plane's state.
    """

    name: str
    address: str
    host_key: str
    user: str = "root"
    ssh_port: int = 22
    zone: str | None = None
    volume_directory: str | None = None


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
    """All nodes of one environment, by name in the order of the fleet file.

    ``mutual_tls``: a new installation gets an authority, and Kafka and Cassandra ask everybody for a certificate.
    ``hosts``: the machines by name; ``fence_agent``: the command that switches one off, without host and action. Both
    are empty but in the environment `hosts`.
    """

    name: str
    environment: str
    control_plane: ControlPlaneEndpoints
    nodes: Mapping[str, Node]
    mutual_tls: bool = False
    hosts: Mapping[str, Host] = field(default_factory=dict)
    fence_agent: tuple[str, ...] = ()

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

    def host_of(self, name: str) -> Host:
        """Return the machine that the node called ``name`` runs on; raises FleetError if it has none."""
        host = self.hosts.get(self.node(name).host or "")
        if host is None:
            raise FleetError(f"{name} runs on no host: give it a 'host:' of the fleet file's 'hosts:'")
        return host

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


def _parse_fleet(document: Any) -> Fleet:
    _check_mapping(document, "the file")
    _check_keys(document, _FLEET_KEYS, "at the top level")
    nodes: dict[str, Node] = {}
    addresses: dict[str, str] = {}
    environment = _word(document["environment"], "environment")
    hosts = _parse_hosts(document, environment)
    for number, entry in enumerate(document["nodes"], start=1):
        node = _parse_node(
            _placed(entry, f"node {number}", environment, hosts), f"node {number}", document["ssh_port"]
        )
        if node.name in nodes:
            raise FleetError(f"two nodes are called {node.name!r}")
        if node.address in addresses:
            raise FleetError(f"{node.name} and {addresses[node.address]} share the address {node.address}")
        nodes[node.name] = node
        addresses[node.address] = node.name
    _check_zones(nodes.values())
    _check_hosts(nodes.values())
    return Fleet(
        name=_word(document["name"], "name"),
        environment=environment,
        control_plane=_parse_control_plane(document["control_plane"]),
        nodes=nodes,
        mutual_tls=_truth(document.get("mutual_tls", False), "mutual_tls"),
        hosts=hosts,
        fence_agent=_parse_fence_agent(document.get("fence_agent", [])),
    )


def _parse_hosts(document: Mapping[str, Any], environment: str) -> dict[str, Host]:
    """Return the machines by name; none but in the environment `hosts`, where they are required."""
    if environment != HOSTS:
        for key in ("hosts", "fence_agent"):
            if key in document:
                raise FleetError(
                    f"{key} at the top level is for 'environment: {HOSTS}', but this fleet's is {environment}: "
                    f"remove {key}, or set the environment"
                )
        return {}
    if not document.get("hosts"):
        raise FleetError(
            f"'environment: {HOSTS}' needs a mapping 'hosts:' at the top level, as in "
            "hosts: {h1: {address: 10.0.0.11, host_key: ecdsa-sha2-nistp256 AAAA…}}; see docs/hosts.md"
        )
    _check_mapping(document["hosts"], "hosts")
    return {str(name): _parse_host(name, entry) for name, entry in document["hosts"].items()}


def _parse_host(name: Any, entry: Any) -> Host:
    place = f"hosts, {_shown(name)}"
    _check_mapping(entry, place)
    _check_keys(entry, _HOST_KEYS, place)
    key, directory = entry.get("host_key"), entry.get("volume_directory")
    if not isinstance(key, str) or not _HOST_KEY.match(key):
        raise FleetError(
            f"{place}: host_key must be the type and the key of the host's /etc/ssh/ssh_host_ecdsa_key.pub, without "
            f"its comment, not {_shown(key)}"
        )
    if directory is not None and (not isinstance(directory, str) or not _DIRECTORY.match(directory)):
        raise FleetError(
            f"{place}: volume_directory must be an absolute path of letters, digits and . _ -, as in /data/kintsugi, "
            f"not {_shown(directory)}"
        )
    return Host(
        name=_word(name, f"{place}: the name"),
        address=_address(entry.get("address"), f"{place}: address"),
        host_key=key,
        user=_word(entry.get("user", "root"), f"{place}: user"),
        ssh_port=_port(entry.get("ssh_port", 22), f"{place}: ssh_port"),
        zone=_word(entry["zone"], f"{place}: zone") if "zone" in entry else None,
        volume_directory=directory,
    )


def _parse_fence_agent(value: Any) -> tuple[str, ...]:
    words = value if isinstance(value, list) else [None]
    if not all(isinstance(word, str) and word for word in words) or not str((words or ["/"])[0]).startswith(
        "/"
    ):
        raise FleetError(
            "fence_agent must be a list of words that begins with the absolute path of a program, as in "
            f"[/usr/local/bin/fence, --user, kintsugi], not {_shown(value)}"
        )
    return tuple(words)


def _placed(entry: Any, place: str, environment: str, hosts: Mapping[str, Host]) -> Any:
    """Return a node's entry with what follows from its host: its address and its zone, where it gives none."""
    _check_mapping(entry, place)
    named = f"{place}, {_shown(entry.get('name'))}: host"
    if environment != HOSTS:
        if "host" in entry:
            raise FleetError(
                f"{named} is for 'environment: {HOSTS}', but this fleet's is {environment}: remove it"
            )
        return entry
    host = hosts.get(entry.get("host") if isinstance(entry.get("host"), str) else "")
    if host is None:
        raise FleetError(f"{named} must be one of {', '.join(hosts)}, not {_shown(entry.get('host'))}")
    zone = {"zone": host.zone} if host.zone else {}
    return {"address": host.address, **zone, **entry}


def _check_hosts(nodes: Collection[Node]) -> None:
    """Refuse two nodes on one host: to fence it for one of them would end the other, which no guard evaluated."""
    first: dict[str, str] = {}
    for node in nodes:
        if node.host is None:
            continue
        if node.host in first:
            raise FleetError(
                f"{first[node.host]} and {node.name} are both on the host {node.host}: give each a host of its own, "
                "because fencing the host would end both"
            )
        first[node.host] = node.name


def _parse_node(entry: Any, place: str, ssh_port: Any) -> Node:
    _check_mapping(entry, place)
    _check_keys(entry, _NODE_KEYS, f"{place}, {_shown(entry.get('name'))}")
    name = entry["name"]
    if not isinstance(name, str) or not NODE_NAME.match(name):
        raise FleetError(
            f"{place}: a name has 3 to 48 lower-case letters, digits and dashes, begins with a letter and must end in "
            f"a number, as in kafka-1, not {_shown(name)}"
        )
    if entry["role"] not in set(Role):
        raise FleetError(
            f"{place}, {name}: role must be one of {', '.join(Role)}, not {_shown(entry['role'])}"
        )
    return Node(
        name=name,
        role=Role(entry["role"]),
        address=_address(entry["address"], f"{place}, {name}: address"),
        ssh_port=_port(entry.get("ssh_port", ssh_port), f"{place}, {name}: ssh_port"),
        protected=_truth(entry.get("protected", False), f"{place}: protected of {name}"),
        zone=_word(entry["zone"], f"{place}, {name}: zone") if "zone" in entry else None,
        host=entry.get("host"),
    )


def _parse_control_plane(entry: Any) -> ControlPlaneEndpoints:
    _check_mapping(entry, "control_plane")
    _check_keys(entry, _CONTROL_PLANE_KEYS, "control_plane")
    ports = {key: _port(value, f"control_plane: {key}") for key, value in entry.items() if key != "address"}
    return ControlPlaneEndpoints(address=_address(entry["address"], "control_plane: address"), **ports)


def _check_zones(nodes: Collection[Node]) -> None:
    """Refuse a clustered role of which only some nodes have a zone: its copies are placed by the zones of all nodes."""
    for role in CLUSTERED:
        of_role = [node for node in nodes if node.role is role]
        without = [node.name for node in of_role if node.zone is None]
        if without and len(without) < len(of_role):
            raise FleetError(
                f"{', '.join(without)} has no zone, but other nodes of the role {role.value} have one: "
                f"give every {role.value} node a zone, or none of them"
            )


def _check_mapping(value: Any, place: str) -> None:
    if not isinstance(value, Mapping):
        raise FleetError(f"{place} must be a mapping of keys to values, not {_shown(value)}")


def _check_keys(entry: Mapping[Any, Any], known: Sequence[str], place: str) -> None:
    """Refuse a key that nobody reads: a misspelt one would silently change nothing."""
    if unknown := [_shown(key) for key in entry if key not in known]:
        raise FleetError(f"{place}: unknown key {', '.join(unknown)}; known are: {', '.join(known)}")


def _word(value: Any, place: str) -> str:
    if not isinstance(value, str) or not _WORD.match(value):
        raise FleetError(
            f"{place} has 1 to 41 lower-case letters, digits, dashes and underscores, and begins with a letter: "
            f"not {_shown(value)}"
        )
    return value


def _truth(value: Any, place: str) -> bool:
    if not isinstance(value, bool):
        raise FleetError(f"{place} must be true or false, not {_shown(value)}")
    return value


def _address(value: Any, place: str) -> str:
    try:
        # Text only: a number is an address too for the library.
        return str(ipaddress.IPv4Address(value if isinstance(value, str) else ""))
    except ValueError:
        raise FleetError(f"{place} must be an IPv4 address, as in 10.0.0.7, not {_shown(value)}") from None


def _port(value: Any, place: str) -> int:
    if type(value) is not int or not 0 < value < 2**16:
        raise FleetError(f"{place} must be a number from 1 to 65535, not {_shown(value)}")
    return value


def _shown(value: Any) -> str:
    """A value of the file in one short line."""
    return repr(value)[:80]
