"""A real rsyslogd takes what nodes send, bounds it, and lets no name out of its directory."""

from __future__ import annotations

import contextlib
import dataclasses
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from kintsugi.controlplane.log_collector import MESSAGE_BYTES, OTHER, UNKNOWN, LogCollector
from kintsugi.core import certificates
from kintsugi.core.certificates import (
    Principal,
    client_certificate,
    create_authority,
    node_certificate,
    trust_file,
)
from kintsugi.core.fleet import Node
from kintsugi.core.processes import find_listener, wait_until
from kintsugi.core.settings import Settings
from kintsugi.environments.local.node_config import write_configuration
from kintsugi.environments.local.node_isolation import Isolation
from tests.installations import installation, open_directory
from tests.strangers import OpenPort, send_log_line

Send = Callable[[str], None]


@pytest.fixture
def collector(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[LogCollector]:
    """A running collector; its parameter: whether nodes send from their own addresses."""
    settings = installation(tmp_path, "127.51")
    collector = dataclasses.replace(LogCollector.of(settings), max_bytes=20_000)
    if getattr(request, "param", False):
        senders = {node.name: node.address for node in settings.fleet}
        collector = dataclasses.replace(collector, senders=senders)
    with run_collector(collector):
        yield collector


@contextlib.contextmanager
def run_collector(collector: LogCollector) -> Iterator[LogCollector]:
    collector.prepare()
    with run_rsyslogd(collector.program().command):
        assert wait_until(lambda: find_listener(collector.address, collector.port) is not None, 10)
        yield collector


@contextlib.contextmanager
def run_rsyslogd(command: Sequence[str]) -> Iterator[None]:
    process = subprocess.Popen(command)
    try:
        yield
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture
def locked_settings() -> Iterator[Settings]:
    with open_directory() as directory:
        settings = installation(directory, "127.51")
        create_authority(settings)
        yield settings


@pytest.fixture
def locked_collector(locked_settings: Settings) -> Iterator[LogCollector]:
    """A running collector of an installation with an authority."""
    with run_collector(LogCollector.of(locked_settings)) as collector:
        yield collector


@pytest.fixture
def send(collector: LogCollector) -> Iterator[Send]:
    with socket.create_connection((collector.address, collector.port)) as connection:
        yield lambda line: connection.sendall(f"<14>1 2026-01-01T00:00:00Z {line}\n".encode())


def test_each_service_of_each_node_has_its_log(collector: LogCollector, send: Send) -> None:
    send("cassandra-1 cassandra - - - Startup complete")
    send("kafka-2 sshd - - - Server listening")
    log = collector.logs / "cassandra-1/cassandra.log"
    assert wait_until(log.exists, 10)
    assert wait_until(lambda: log.read_text() == "2026-01-01T00:00:00Z Startup complete\n", 10)
    assert wait_until(lambda: (collector.logs / "kafka-2/sshd.log").exists(), 10)


def test_log_that_never_ends_takes_bounded_space_and_keeps_the_newest(
    collector: LogCollector, send: Send
) -> None:
    for number in range(5_000):
        send(f"kafka-1 kafka - - - line {number} with some words to fill it")
    assert wait_until(lambda: "line 4999 " in "".join(_held(collector.logs / "kafka-1")), 20)
    assert sum(map(len, _held(collector.logs / "kafka-1"))) < 3 * collector.max_bytes


def _held(folder: Path) -> Iterator[str]:
    """What each file of the folder holds; one may be moved while we look (a full one becomes `<service>.log.1`)."""
    for path in [path for path in folder.glob("*") if not path.is_dir()]:
        with contextlib.suppress(FileNotFoundError):
            yield path.read_text()


def test_a_name_from_the_network_becomes_no_path(collector: LogCollector, send: Send, tmp_path: Path) -> None:
    send("../../evil ../../../x - - - out of here")
    send("stranger kafka - - - who is this")
    send("KAFKA-1 kafka - - - shouted")
    send("kafka-1 ../../../x - - - out of there")
    send("kafka-1 kafka - - - done")
    known = collector.logs / "kafka-1"
    assert wait_until((known / "kafka.log").exists, 10)
    assert wait_until(lambda: "out of there" in _text(known / OTHER), 10)
    assert wait_until(lambda: "shouted" in _text(collector.logs / UNKNOWN), 10)
    assert "stranger kafka: who is this" in _text(collector.logs / UNKNOWN)
    written = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    logs = str(collector.logs.relative_to(tmp_path))
    own = {f"{logs}/kafka-1/kafka.log", f"{logs}/kafka-1/{OTHER}", f"{logs}/{UNKNOWN}"}
    assert {path for path in written if path.startswith(logs)} == own
    assert not [path for path in written if "evil" in path or path.endswith("x.log")]


def test_all_that_strangers_send_takes_bounded_space(collector: LogCollector, send: Send) -> None:
    for number in range(4_000):
        send(f"stranger-{number} kafka - - - line {number} with some words to fill it")
        send(f"kafka-1 service-{number} - - - line {number} with some words to fill it")
    assert wait_until(lambda: "line 3999 " in "".join(_held(collector.logs / "kafka-1")), 60)
    assert wait_until(lambda: "line 3999 " in "".join(_held(collector.logs)), 60)
    files = [path for path in collector.logs.rglob("*") if path.is_file()]
    assert {path.name for path in files} <= {OTHER, f"{OTHER}.1", UNKNOWN, f"{UNKNOWN}.1"}
    assert len(files) <= 2 * collector.most_files
    assert sum(path.stat().st_size for path in files) < 4 * (collector.max_bytes + 2 * MESSAGE_BYTES)


@pytest.mark.parametrize("collector", [True], indirect=True)
def test_a_name_counts_only_from_the_address_of_its_node(collector: LogCollector) -> None:
    own = str(collector.senders["kafka-1"])
    for source in ("127.51.99.99", own):
        with socket.create_connection(
            (collector.address, collector.port), source_address=(source, 0)
        ) as sender:
            sender.sendall(f"<14>1 2026-01-01T00:00:00Z kafka-1 kafka - - - from {source}\n".encode())
    log = collector.logs / "kafka-1/kafka.log"
    assert wait_until(lambda: f"from {own}" in _text(log), 10)
    assert wait_until(lambda: "127.51.99.99 kafka-1 kafka: from" in _text(collector.logs / UNKNOWN), 10)
    assert "99.99" not in _text(log)


def test_in_docker_each_node_sends_from_its_own_address(tmp_path: Path) -> None:
    settings = installation(tmp_path, "127.51")
    assert set(LogCollector.of(settings).senders.values()) == {None}
    settings.fleet_file.write_text(
        settings.fleet_file.read_text().replace("environment: local", "environment: docker")
    )
    assert LogCollector.of(settings).senders["kafka-2"] == "127.51.1.2"


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def test_no_file_with_its_number_keeps_the_next_one_from_starting(collector: LogCollector) -> None:
    """After a crash of the machine a stranger may have that number, and rsyslogd would take it for itself."""
    assert {path.name for path in collector.directory.iterdir()} == {"rsyslog.conf", "rotate"}


def test_a_node_sends_its_logs_over_tls(locked_settings: Settings, locked_collector: LogCollector) -> None:
    node = locked_settings.fleet.node("kafka-1")
    plane = locked_settings.fleet.control_plane
    write_configuration(locked_settings, node, plane, Isolation.DEATH_SIGNAL, "root")
    root = locked_settings.node_root(node.name)
    collected = locked_collector.logs / "kafka-1/kafka.log"
    with run_rsyslogd(["rsyslogd", "-n", "-f", str(root / "etc/rsyslog.conf"), "-iNONE"]):
        (root / "log/kafka.log").write_text("Kafka Server started\n")
        assert wait_until(lambda: "Kafka Server started" in _text(collected), 20)


def test_a_node_sends_its_logs_over_tls_when_its_authority_is_replaced(locked_settings: Settings) -> None:
    """Its rsyslogd is never restarted: it reads the files of its node when it connects."""
    node = locked_settings.fleet.node("kafka-1")
    write_configuration(
        locked_settings, node, locked_settings.fleet.control_plane, Isolation.DEATH_SIGNAL, "root"
    )
    root = locked_settings.node_root(node.name)
    log = root / "log/kafka.log"
    log.write_text("begun\n")
    first = certificates.trust_file(locked_settings).read_text()
    with run_rsyslogd(["rsyslogd", "-n", "-f", str(root / "etc/rsyslog.conf"), "-iNONE"]):
        for rotation in range(4):
            collector = LogCollector.of(locked_settings)
            with run_collector(collector):
                with log.open("a") as file:
                    file.write(f"rotation {rotation}\n")
                collected = collector.logs / "kafka-1/kafka.log"
                assert wait_until(lambda: f"rotation {rotation}\n" in _text(collected), 40), rotation  # noqa: B023
            rotate_authority(locked_settings, node)
    assert first not in certificates.trust_file(locked_settings).read_text()


def rotate_authority(settings: Settings, node: Node) -> None:
    """What a whole rotation does to the files of the control plane and of ``node``."""
    certificates.publish_next_authority(settings)
    certificates.renew_certificates(settings)
    for name, text in certificates.node_files(settings, node).items():
        (settings.node_tls(node.name) / name).write_text(text)
    assert certificates.promote_next_authority(settings)


def test_who_is_no_node_sends_nothing(
    locked_settings: Settings, locked_collector: LogCollector, tmp_path: Path
) -> None:
    port = OpenPort("control plane", locked_collector.address, locked_collector.port)
    send_log_line(locked_settings)(port, tmp_path)
    page = ssl.create_default_context(cafile=str(trust_file(locked_settings)))
    page.load_cert_chain(client_certificate(locked_settings, Principal.PAGE))
    with pytest.raises(AssertionError, match="waits for more"):
        send_log_line(locked_settings, also=context_of_node(locked_settings))(port, tmp_path)
    send_log_line(locked_settings, also=page)(port, tmp_path)
    assert [path for path in locked_collector.logs.rglob("*.log") if "forged" in path.read_text()] == [
        locked_collector.logs / "kafka-1/kafka.log"
    ]


def context_of_node(settings: Settings) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(trust_file(settings)))
    context.load_cert_chain(node_certificate(settings, settings.fleet.node("kafka-1")))
    return context
