"""What somebody does who reaches the ports of an installation and knows none of its secrets.

1. The ports are found by the sockets of its processes, so a new one is not overlooked.
2. Each has its attack; a port that has none is unknown, which fails.
3. An attack raises AssertionError when the port lets it in.
"""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import os
import socket
import ssl
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from kintsugi.core.certificates import (
    Principal,
    client_certificate,
    create_authority,
    has_authority,
    trust_file,
)
from kintsugi.core.fleet import Role
from kintsugi.core.processes import owned_pids
from kintsugi.core.settings import Settings, cassandra_jmx_port
from kintsugi.environments.local import node as nodes
from kintsugi.infra.class_data_sharing import cassandra_modules, java_home

CONTROL_PLANE = "control plane"
NOT_SIGNED_IN = (401, 403)
# What `mutual_tls: true` of the fleet file closes: docs/security.md.
TLS_PORTS = {(Role.KAFKA, 9092), (Role.KAFKA, 9093), (Role.CASSANDRA, 9042), (Role.CASSANDRA, 7000)}
SPARK_PAGES = {(Role.SPARK_MASTER, 8080), (Role.SPARK_MASTER, 4040), (Role.SPARK_WORKER, 8081)}
_SCRIPT = "from pyspark.sql import SparkSession\nSparkSession.builder.getOrCreate().range(1).count()\nprint('RAN')\n"
_TLS_ALERT = 21
_OPTIONS = struct.pack(">BBhBi", 4, 0, 0, 5, 0)  # CQL's native protocol v4
_API_VERSIONS = struct.pack(">ihhihc", 11, 18, 0, 7, 1, b"x")  # Kafka's, version 0
_RPC_REQUEST = 3  # Spark's network protocol: type of a request that wants an answer


@dataclass(frozen=True, slots=True)
class OpenPort:
    """A port on which a node or the control plane listens."""

    node: str
    address: str
    number: int


Attack = Callable[[OpenPort, Path], None]


def open_ports(settings: Settings) -> set[OpenPort]:
    """Every TCP port on which a process of the installation listens."""
    owner = {pid: node.name for node in settings.fleet for pid in nodes.node_pids(settings, node.name)}
    owner |= dict.fromkeys(owned_pids(settings.control), CONTROL_PLANE)
    return {
        OpenPort(owner[found.pid], found.laddr.ip.removeprefix("::ffff:"), found.laddr.port)
        for found in psutil.net_connections("tcp")
        if found.status == psutil.CONN_LISTEN and found.pid in owner
    }


def attack_on(settings: Settings, port: OpenPort) -> Attack | None:
    """Choose the attack; None for a port that is known to be open. Raises AssertionError for an unknown port."""
    if port.node == CONTROL_PLANE:
        return _attack_on_control_plane(settings, port)
    node = settings.fleet.node(port.node)
    if node.role is Role.CASSANDRA and port.number == cassandra_jmx_port(node):
        jars = f"{settings.jars('cassandra')}/*"
        return use_jmx([str(java_home() / "bin" / "java"), *cassandra_modules(), "-cp", jars])
    if port.number == node.ssh_port:
        return log_in
    if (node.role, port.number) in TLS_PORTS:
        return knock_without_certificate(settings) if has_authority(settings) else None
    if (node.role, port.number) == (Role.SPARK_MASTER, 7077):
        return submit_application
    if (node.role, port.number) in SPARK_PAGES:
        return open_page
    assert node.role in (Role.SPARK_MASTER, Role.SPARK_WORKER), f"unknown open port {port}"
    if port.address == "127.0.0.1":  # between a JVM and its Python processes
        return call_gateway
    assert port.address == node.address, f"unknown open port {port}"
    return call_spark


def _attack_on_control_plane(settings: Settings, port: OpenPort) -> Attack | None:
    plane = settings.fleet.control_plane
    assert port.address == plane.address, f"unknown open port {port}"
    attacks = {
        plane.airflow_port: open_airflow,
        plane.s3_port: list_bucket,
        plane.log_port: send_log_line(settings) if has_authority(settings) else None,
    }
    assert port.number in attacks, f"unknown open port {port}"
    return attacks[port.number]


def open_airflow(port: OpenPort, scratch: Path) -> None:
    """Read Airflow's API and Pipeline Health, act by them, and call the webhook, without signing in."""
    for method, path, refusals in (
        ("GET", "/api/v2/dags", NOT_SIGNED_IN),
        ("POST", "/api/v2/dags/recover_node/dagRuns", NOT_SIGNED_IN),
        ("GET", "/pipeline-health/", NOT_SIGNED_IN),
        ("GET", "/pipeline-health/incidents", NOT_SIGNED_IN),
        ("POST", "/pipeline-health/actions/recover", NOT_SIGNED_IN),
        ("POST", "/pipeline-health/deeds/recover", NOT_SIGNED_IN),  # its name in the last release
        ("GET", "/pipeline-health/docs", (404,)),
        ("POST", "/honeycomb/trigger", (503,)),  # no secret is set, so nobody may call it
    ):
        status = _http_status(port, method, path)
        assert status in refusals, f"{port}: {method} {path} is answered with {status}"


def list_bucket(port: OpenPort, scratch: Path) -> None:
    """Read and write S3 without a key."""
    for method, path in (("GET", "/"), ("GET", "/kintsugi"), ("PUT", "/kintsugi/stranger")):
        assert _http_status(port, method, path) == 403, f"{port}: {method} {path} is answered"


def call_gateway(port: OpenPort, scratch: Path) -> None:
    """Call a JVM of Spark as its Python process does, without the token that they share."""
    command = b"c\nz:java.lang.System\ngetenv\ne\n"  # py4j: call a static method
    with socket.create_connection((port.address, port.number), timeout=10) as connection:
        connection.sendall(command)
        connection.settimeout(5)
        try:
            answer = connection.recv(4096)
        except (TimeoutError, ConnectionError):
            answer = b""
    assert not answer.startswith(b"!y"), f"{port}: answered {answer[:200]!r}"


def send_log_line(settings: Settings, also: ssl.SSLContext | None = None) -> Attack:
    """Choose the attack that writes a line into the log of a node. ``also``: one more way to connect."""

    def attack(port: OpenPort, scratch: Path) -> None:
        for context in (*_contexts_of_strangers(settings, scratch), *([also] if also else [])):
            with contextlib.suppress(ConnectionError, ssl.SSLError):
                _send_and_wait(port, context)

    return attack


def _send_and_wait(port: OpenPort, context: ssl.SSLContext | None) -> None:
    """Send a line; rsyslog answers nothing, but an open connection says that it waits for the next one."""
    with contextlib.ExitStack() as stack:
        connection = stack.enter_context(socket.create_connection((port.address, port.number), timeout=5))
        if context is not None:
            connection = stack.enter_context(context.wrap_socket(connection, server_hostname=port.address))
        connection.sendall(b"<14>1 2026-01-01T00:00:00Z kafka-1 kafka - - - forged\n")
        try:
            connection.recv(1)
        except TimeoutError:
            raise AssertionError(f"{port}: it waits for more") from None


def _contexts_of_strangers(settings: Settings, scratch: Path) -> list[ssl.SSLContext | None]:
    """How somebody connects who knows the authority's certificate, and has none that it signed."""
    trust = str(trust_file(settings))
    other = dataclasses.replace(settings, state=scratch / "other authority")
    create_authority(other)
    nobody, stranger = (ssl.create_default_context(cafile=trust) for _ in range(2))
    stranger.load_cert_chain(client_certificate(other, Principal.RECOVERY))
    return [None, nobody, stranger]


def knock_without_certificate(settings: Settings) -> Attack:
    """Choose the attack on a port of Kafka or Cassandra."""

    def attack(port: OpenPort, scratch: Path) -> None:
        for context in _contexts_of_strangers(settings, scratch):
            answer = _first_byte_of_answer(port, context)
            assert not answer or answer[0] == _TLS_ALERT, f"{port}: answered {answer!r}"

    return attack


def _first_byte_of_answer(port: OpenPort, context: ssl.SSLContext | None) -> bytes:
    """What the server answers to a question that needs no right in its protocol; empty without an answer."""
    question = _API_VERSIONS if port.number in (9092, 9093) else _OPTIONS
    try:
        with contextlib.ExitStack() as stack:
            connection = stack.enter_context(
                socket.create_connection((port.address, port.number), timeout=10)
            )
            if context is not None:
                connection = stack.enter_context(
                    context.wrap_socket(connection, server_hostname=port.address)
                )
            connection.sendall(question)
            # In TLS 1.3 a client learns of a refusal when it reads.
            return connection.recv(1)
    except OSError:
        return b""


def open_page(port: OpenPort, scratch: Path) -> None:
    """Read a page of Spark, and end an application by it."""
    for method, path in (("GET", "/"), ("GET", "/json/"), ("POST", "/app/kill/"), ("POST", "/driver/kill/")):
        assert _http_status(port, method, path) == 403, f"{port}: {method} {path} is answered"


def submit_application(port: OpenPort, scratch: Path) -> None:
    """Run an application on the cluster, as somebody with Spark and without the secret."""
    application = scratch / "application.py"
    application.write_text(_SCRIPT)
    settings = {
        "spark.driver.host": port.address,
        "spark.driver.bindAddress": port.address,
        "spark.ui.enabled": "false",
    }
    flags = [part for name, value in settings.items() for part in ("--conf", f"{name}={value}")]
    done = _run(
        [
            _beside_python("spark-submit"),
            "--master",
            f"spark://{port.address}:{port.number}",
            *flags,
            str(application),
        ]
    )
    assert "RAN" not in done.stdout, f"{port}: an application ran"
    assert done.returncode != 0
    assert "SASL" in done.stderr or "auth" in done.stderr.lower(), done.stderr[-2000:]


def call_spark(port: OpenPort, scratch: Path) -> None:
    """Call Spark's own protocol without the handshake."""
    body = b"nobody"
    frame = struct.pack(">bqi", _RPC_REQUEST, 1, len(body)) + body
    with socket.create_connection((port.address, port.number), timeout=10) as connection:
        connection.sendall(struct.pack(">q", len(frame) + 8) + frame)
        answer = b""
        while chunk := connection.recv(65536):
            answer += chunk
            if b"\tat " in answer:
                break
    assert b"network.crypto" in answer or b"network.sasl" in answer, f"{port}: answered {answer[:200]!r}"


def use_jmx(java: list[str]) -> Callable[[OpenPort, Path], None]:
    """Manage Cassandra by nodetool without a password, and with a wrong one. ``java``: the command up to the class."""

    def attack(port: OpenPort, scratch: Path) -> None:
        assert port.address == "127.0.0.1", f"{port}: JMX is open to others than the node itself"
        tool = [
            *java,
            f"-Duser.home={scratch}",
            "org.apache.cassandra.tools.NodeTool",
            "-h",
            port.address,
            "-p",
            str(port.number),
        ]
        for credentials in ([], ["-u", "nodetool", "-pw", "wrong"]):
            done = _run([*tool, *credentials, "status"])
            assert done.returncode != 0, f"{port}: nodetool {credentials} works"
            assert "Login" in done.stderr, done.stderr[-2000:]

    return attack


def log_in(port: OpenPort, scratch: Path) -> None:
    """Log in over SSH without a key."""
    done = _run(["ssh", "-p", str(port.number), "-F", "none", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no",
                 "-o", f"UserKnownHostsFile={scratch / 'hosts'}", "-o", "IdentitiesOnly=yes", "-o", "IdentityFile=none",
                 f"root@{port.address}", "true"])  # fmt: skip
    assert done.returncode == 255, f"{port}: a login without a key works"
    assert "Permission denied" in done.stderr, done.stderr[-500:]


def _http_status(port: OpenPort, method: str, path: str) -> int:
    connection = http.client.HTTPConnection(port.address, port.number, timeout=10)
    try:
        connection.request(method, path, headers={"Authorization": "Bearer e30.e30.e30"})
        return connection.getresponse().status
    finally:
        connection.close()


def _beside_python(program: str) -> str:
    return str(Path(sys.executable).with_name(program))


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    """Run it with nothing of our environment but the path to programs."""
    environment = {"PATH": os.environ["PATH"], "PYSPARK_PYTHON": sys.executable}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=180)
