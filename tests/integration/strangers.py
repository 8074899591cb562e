"""What somebody does who reaches a node's ports and knows none of its secrets.

Each attack raises AssertionError when the port lets it in.
"""

from __future__ import annotations

import http.client
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kintsugi.core.settings import Settings

_SCRIPT = "from pyspark.sql import SparkSession\nSparkSession.builder.getOrCreate().range(1).count()\nprint('RAN')\n"
_RPC_REQUEST = 3  # Spark's network protocol: type of a request that wants an answer


@dataclass(frozen=True, slots=True)
class OpenPort:
    """A port on which a node listens."""

    node: str
    address: str
    number: int


def open_page(port: OpenPort, scratch: Path) -> None:
    """Read a page of Spark, and end an application by it."""
    for method, path in (("GET", "/"), ("GET", "/json/"), ("POST", "/app/kill/"), ("POST", "/driver/kill/")):
        connection = http.client.HTTPConnection(port.address, port.number, timeout=10)
        try:
            connection.request(method, path, headers={"Authorization": "Bearer e30.e30.e30"})
            assert connection.getresponse().status == 403, f"{port}: {method} {path} is answered"
        finally:
            connection.close()


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


def secret_values(settings: Settings) -> dict[str, str]:
    """The installation's secrets that are one line of text, by name."""
    return {path.name: path.read_text().strip() for path in settings.secrets.iterdir() if path.is_file()}


def _beside_python(program: str) -> str:
    return str(Path(sys.executable).with_name(program))


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    """Run it with nothing of our environment but the path to programs."""
    environment = {"PATH": os.environ["PATH"], "PYSPARK_PYTHON": sys.executable}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=180)
