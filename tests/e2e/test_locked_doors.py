"""Who knows no secret gets nowhere, and no secret is shown. With everything running, the stream included."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from kintsugi.core.s3_keys import S3Purpose, secret_name
from kintsugi.core.settings import CASSANDRA_JMX_SECRET, SPARK_RPC_SECRET, SPARK_UI_SECRET, Settings
from kintsugi.environments.local import node as nodes
from tests import strangers
from tests.e2e.conftest import Command

# Files of the installation that hold a secret by design; each is its owner's alone.
HOLDERS = (
    "secrets/*", "control/airflow.env", "control/watchdog.env", "control/airflow/passwords.json",
    "control/spark/conf/spark-defaults.conf", "control/s3/keys.properties",
    "nodes/*/etc/spark/spark-defaults.conf", "nodes/*/etc/cassandra/jmx.password", "secrets/tls/*",
    "nodes/*/etc/tls/*",
)  # fmt: skip
# Spark hands its secret to an executor in this variable, whatever is configured.
SPARK_HANDS_ON = b"_SPARK_AUTH_SECRET="


@pytest.fixture
def settings(kintsugi: Command, report: dict[str, Any]) -> Settings:
    return kintsugi.settings


@pytest.mark.timeout(1200)
def test_no_port_lets_a_stranger_in(settings: Settings, tmp_path: Path) -> None:
    ports = strangers.open_ports(settings)
    attacks = {port: strangers.attack_on(settings, port) for port in ports}
    assert {port.node for port in ports} == {node.name for node in settings.fleet} | {strangers.CONTROL_PLANE}
    for port, attack in attacks.items():
        if attack is not None:
            with suppress(ConnectionRefusedError):  # a port of one Spark task, closed by now
                attack(port, tmp_path)


def test_no_process_of_a_node_shows_a_secret(settings: Settings) -> None:
    shown = set()
    for node in settings.fleet:
        for pid in nodes.node_pids(settings, node.name):
            parts = (Path(f"/proc/{pid}") / part for part in ("cmdline", "environ"))
            words = b"\0".join(part.read_bytes() for part in parts).split(b"\0")
            text = b"\0".join(word for word in words if not word.startswith(SPARK_HANDS_ON))
            shown |= {(node.name, pid, name) for name, value in secrets(settings).items() if value in text}
    assert shown == set()


def test_no_file_shows_a_secret_but_those_that_must(settings: Settings) -> None:
    """Among them are all logs, S3 with the journals, and the database with Terraform's state and XCom."""
    holders = {path for pattern in HOLDERS for path in settings.state.glob(pattern)}
    shown = {
        (str(path.relative_to(settings.state)), name)
        for path in settings.state.rglob("*")
        if path.is_file() and path not in holders
        for name, value in secrets(settings).items()
        if value in path.read_bytes()
    }
    assert shown == set()
    assert [str(path) for path in holders if path.is_file() and path.stat().st_mode & 0o077] == []


def secrets(settings: Settings) -> dict[str, bytes]:
    """The installation's secrets by name, each as one line: of a key its first, of a login the password."""
    found = {path.name: path.read_bytes().strip() for path in settings.secrets.iterdir() if path.is_file()}
    assert {SPARK_RPC_SECRET, SPARK_UI_SECRET, CASSANDRA_JMX_SECRET} <= found.keys()
    assert {secret_name(purpose) for purpose in S3Purpose} <= found.keys()
    for path in settings.tls.glob("*.login"):
        found[path.name] = path.read_bytes().split()[1]
    for path in settings.tls.glob("*.pem"):
        first, second, *_ = path.read_bytes().splitlines()
        if b"PRIVATE KEY" in first:
            found[path.name] = second
    assert {"authority.pem", "stream.login", "recovery.pem"} <= found.keys()
    return found
