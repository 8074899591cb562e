"""A fleet of any size in the proportions of ``fleet.yaml``, as a fleet file of an installation of its own."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from kintsugi.core.fleet import Fleet, Role, load_fleet
from kintsugi.core.settings import Settings, load_settings

ZONES = ("a", "b", "c")
CONTROL_PLANE = "127.96.255.1"
_ADDRESSES_A_BLOCK = 250


def roles_of(size: int) -> list[Role]:
    """Return the role of each of ``size`` nodes, at least 4: a third Kafka, a third Cassandra, one master, workers.

    The product knows one Spark master. So the rest are workers.
    """
    third = max(1, size // 3)
    return [
        *[Role.KAFKA] * third,
        *[Role.CASSANDRA] * third,
        Role.SPARK_MASTER,
        *[Role.SPARK_WORKER] * (size - 2 * third - 1),
    ]


def fleet_document(size: int, *, mutual_tls: bool) -> dict[str, object]:
    """Return a fleet file as a document: ``size`` nodes on addresses 127.96.*, spread over three zones."""
    numbers = dict.fromkeys(Role, 0)
    nodes = []
    for position, role in enumerate(roles_of(size)):
        numbers[role] += 1
        nodes.append(
            {
                "name": f"{role.value.replace('_', '-')}-{numbers[role]}",
                "role": role.value,
                "address": address_of(position),
                "zone": ZONES[numbers[role] % len(ZONES)],
            }
        )
    return {
        "name": "simulation",
        "environment": "local",
        "ssh_port": 2222,
        "mutual_tls": mutual_tls,
        "control_plane": {
            "address": CONTROL_PLANE,
            "airflow_port": 8080,
            "postgres_port": 5432,
            "s3_port": 9000,
            "log_port": 5514,
        },
        "nodes": nodes,
    }


def address_of(position: int) -> str:
    """Return the address of the node at ``position`` (from 0) of the fleet file."""
    block, last = divmod(position, _ADDRESSES_A_BLOCK)
    return f"127.96.{block}.{last + 1}"


def simulated_fleet(size: int, *, mutual_tls: bool) -> Fleet:
    """Return the fleet of `fleet_document`, checked as the product checks a fleet file."""
    with tempfile.TemporaryDirectory(prefix="kintsugi-simulation-") as directory:
        write_fleet(Path(directory), size, mutual_tls=mutual_tls)
        return load_fleet(Path(directory) / "fleet.yaml")


def write_fleet(state: Path, size: int, *, mutual_tls: bool) -> dict[str, str]:
    """Write the fleet file into ``state``; returns the variables with which a process takes it for its installation."""
    state.mkdir(parents=True, exist_ok=True)
    fleet_file = state / "fleet.yaml"
    fleet_file.write_text(yaml.safe_dump(fleet_document(size, mutual_tls=mutual_tls), sort_keys=False))
    return {
        "KINTSUGI_STATE": str(state),
        "KINTSUGI_FLEET": str(fleet_file),
        "KINTSUGI_CACHE": str(state / "cache"),
    }


@contextmanager
def installation(variables: dict[str, str]) -> Iterator[Settings]:
    """Let this process act for the installation of ``variables`` inside the block."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield load_settings()
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
