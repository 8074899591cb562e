"""Can this machine run the local environment? Asked before anything is started, so nothing is left behind."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import psutil

from kintsugi.controlplane import accounts
from kintsugi.controlplane.airflow_environment import has_own_accounts
from kintsugi.controlplane.postgres import find_binaries
from kintsugi.core.cassandra_racks import zone_conflict
from kintsugi.core.certificates import has_authority
from kintsugi.core.errors import PreflightError
from kintsugi.core.fleet import Role
from kintsugi.core.membership import read_membership
from kintsugi.core.processes import carries_marker, find_listener
from kintsugi.core.settings import (
    CASSANDRA_PORT,
    CASSANDRA_STORAGE_PORT,
    KAFKA_CONTROLLER_PORT,
    KAFKA_PORT,
    SPARK_MASTER_PORT,
    SPARK_MASTER_UI_PORT,
    SPARK_WORKER_UI_PORT,
    Settings,
    cassandra_jmx_port,
)
from kintsugi.environments.local.node import node_pids
from kintsugi.environments.platforms import platform_of
from kintsugi.infra import artifacts

GIB = 2**30
STATE_NEEDS = 6 * GIB  # nine nodes with a sample day, their quarantine, and all logs at their bounds
MEMORY_NEEDS = 8 * GIB  # three Cassandra at 1.2, three Kafka at 0.5, Spark at 2, the control plane at 1
MEMORY_NEEDS_ALONE = 2 * GIB  # the control plane, whose nodes are on hosts
JAVA = 17  # Cassandra 5.0 runs on 11 and 17, Spark 4 on 17 and 21

_ROLE_PORTS = {
    Role.KAFKA: (KAFKA_PORT, KAFKA_CONTROLLER_PORT),
    Role.CASSANDRA: (CASSANDRA_PORT, CASSANDRA_STORAGE_PORT),
    Role.SPARK_MASTER: (SPARK_MASTER_PORT, SPARK_MASTER_UI_PORT, 4040),
    Role.SPARK_WORKER: (SPARK_WORKER_UI_PORT,),
}
_PACKAGES = {
    "sshd": "openssh-server",
    "ssh": "openssh-client",
    "rsyslogd": "rsyslog",
    "setpriv": "util-linux",
}

Endpoint = tuple[str, str, int]  # its owner, address, port


def check_preflight(settings: Settings) -> None:
    """Raise PreflightError with one line for each problem; changes nothing.

    Ports and memory that this installation itself uses already are no problem: ``up`` may be repeated.
    """
    problems = list(platform_of(settings).obstacles())
    checks: list[Callable[[Settings], Iterable[str]]] = [
        _program_problems,
        _artifact_problems,
        _state_problems,
        _account_problems,
        _tls_problems,
        _zone_problems,
    ]
    if not problems:  # else it is unknown which nodes run
        checks += (
            [_port_problems]
            if _runs_already(settings)
            else [_disk_problems, _port_problems, _memory_problems]
        )
    problems += [problem for check in checks for problem in check(settings)]
    if problems:
        raise PreflightError("\n".join(problems))


def _tls_problems(settings: Settings) -> Iterator[str]:
    """A running fleet can't be switched: its servers and clients would not understand each other."""
    wanted, has = settings.fleet.mutual_tls, has_authority(settings)
    if wanted != has and _nodes_were_made(settings):
        yield (
            f"{settings.fleet_file} says mutual_tls: {str(wanted).lower()}, but this installation was made with "
            f"mutual_tls: {str(has).lower()} and can't be switched: set it back to {str(has).lower()}, "
            "or run `make down` first, which deletes all data"
        )


def _nodes_were_made(settings: Settings) -> bool:
    if settings.fleet.hosts:  # where nothing of a node is on our disk
        return read_membership(settings.control) is not None
    return any(settings.node_root(node.name).exists() for node in settings.fleet)


def _zone_problems(settings: Settings) -> Iterator[str]:
    declared, members = settings.declared_fleet, settings.fleet.nodes
    # As declared: a member in force has the zone that it was made with.
    nodes = {name: node for name, node in declared.nodes.items() if name in members}
    if conflict := zone_conflict(settings, replace(declared, nodes=nodes)):
        yield f"{settings.fleet_file}: {conflict}"


def endpoints(settings: Settings) -> Iterator[Endpoint]:
    """Yield every TCP endpoint that this installation listens on, on this machine."""
    fleet = settings.fleet
    plane = fleet.control_plane
    yield "Airflow", plane.address, plane.airflow_port
    yield "S3", plane.address, plane.s3_port
    yield "the log collector", plane.address, plane.log_port
    for node in () if fleet.hosts else fleet:
        yield from ((node.name, node.address, port) for port in (node.ssh_port, *_ROLE_PORTS[node.role]))
        if node.role is Role.CASSANDRA:
            yield f"JMX of {node.name}", "127.0.0.1", cassandra_jmx_port(node)


def _program_problems(settings: Settings) -> Iterator[str]:
    version = _java_version()
    if version is None:
        yield "no Java is installed: run `apt-get install openjdk-17-jre-headless`"
    elif version != JAVA:
        yield f"Java {version} is first on the PATH, Cassandra needs {JAVA}: put Java {JAVA} first on the PATH"
    if find_binaries() is None:
        yield "no Postgres server is installed: run `apt-get install postgresql`"
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    for program, package in _PACKAGES.items():
        if shutil.which(program, path=path) is None:
            yield f"{program} is not installed: run `apt-get install {package}`"


def _account_problems(settings: Settings) -> Iterator[str]:
    if has_own_accounts():
        try:
            accounts.load_accounts(settings)
        except PreflightError as error:
            yield str(error)


def _java_version() -> int | None:
    java = shutil.which("java")
    if java is None:
        return None
    output = subprocess.run([java, "-version"], capture_output=True, text=True, check=False).stderr
    match = re.search(r'version "(?:1\.)?(\d+)', output)
    return int(match[1]) if match else None


def _artifact_problems(settings: Settings) -> Iterator[str]:
    missing = artifacts.missing(settings)
    if missing:
        yield f"the jars of {', '.join(missing)} are not in {settings.artifacts}: run `make setup`"
    yield from artifacts.altered(settings)


def _state_problems(settings: Settings) -> Iterator[str]:
    above = _nearest_existing(settings.state)
    if not os.access(above, os.W_OK | os.X_OK):
        yield f"{above} is not writable: set KINTSUGI_STATE to a directory of your own"
    if os.geteuid() == 0:
        closed = [path for path in (above, *above.parents) if not path.stat().st_mode & 0o001]
        if closed:
            yield (
                f"{closed[-1]} is closed to other users, and Postgres runs as its own: "
                f"set KINTSUGI_STATE to a directory elsewhere, as in /var/lib/kintsugi"
            )


def _disk_problems(settings: Settings) -> Iterator[str]:
    above = _nearest_existing(settings.state)
    free = shutil.disk_usage(above).free
    if free < STATE_NEEDS:
        yield (
            f"too little disk at {settings.state}: {free / GIB:.1f} GiB free, "
            f"{STATE_NEEDS / GIB:.0f} GiB needed; free some, or set KINTSUGI_STATE to another disk"
        )


def _memory_problems(settings: Settings) -> Iterator[str]:
    available = psutil.virtual_memory().available
    needed = MEMORY_NEEDS_ALONE if settings.fleet.hosts else MEMORY_NEEDS
    if available < needed:
        yield (
            f"too little memory: {available / GIB:.1f} GiB available, {needed / GIB:.0f} GiB needed; "
            "stop other programs first"
        )


def _port_problems(settings: Settings) -> Iterator[str]:
    living = _running_nodes(settings)
    for owner, address, port in endpoints(settings):
        if owner in living:
            continue
        holder = find_listener(address, port)
        if holder is None or (holder.pid and carries_marker(holder.pid, settings.control)):
            continue
        if holder.pid and _is_of_a_node(holder.pid, settings):
            continue  # of a node whose init was killed: the next creation of the node ends it
        yield (
            f"port {port} on {address}, needed by {owner}, is taken by {holder}: end it, "
            "or run `make down` if it is of an earlier run, or choose other addresses in the fleet file"
        )


def _running_nodes(settings: Settings) -> set[str]:
    platform = platform_of(settings)
    return {node.name for node in settings.fleet if platform.running(node.name)}


def _is_of_a_node(pid: int, settings: Settings) -> bool:
    return any(pid in node_pids(settings, node.name) for node in settings.fleet)


def _runs_already(settings: Settings) -> bool:
    """Whether the control plane or a node of this installation runs already, and uses memory and disk."""
    if _running_nodes(settings):
        return True
    with contextlib.suppress(OSError, ValueError):
        return carries_marker(int((settings.control / "supervisord.pid").read_text()), settings.control)
    return False


def _nearest_existing(path: Path) -> Path:
    """Return ``path``, or the nearest directory above it that exists."""
    return path if path.exists() else _nearest_existing(path.parent)
