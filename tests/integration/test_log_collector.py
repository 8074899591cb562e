"""A real rsyslogd takes what nodes send, bounds it, and lets no name out of its directory."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kintsugi.controlplane.log_collector import LogCollector
from kintsugi.core.processes import find_listener, wait_until
from tests.installations import installation

Send = Callable[[str], None]


@pytest.fixture
def collector(tmp_path: Path) -> Iterator[LogCollector]:
    collector = dataclasses.replace(LogCollector.of(installation(tmp_path, "127.37")), max_bytes=20_000)
    collector.prepare()
    process = subprocess.Popen(collector.program().command)
    try:
        assert wait_until(lambda: find_listener(collector.address, collector.port) is not None, 10)
        yield collector
    finally:
        process.terminate()
        process.wait(10)


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
    for path in list(folder.glob("*")):
        with contextlib.suppress(FileNotFoundError):
            yield path.read_text()


def test_name_from_the_network_stays_inside(collector: LogCollector, send: Send, tmp_path: Path) -> None:
    send("../../evil ../../../x - - - out of here")
    send("kafka-1 kafka - - - done")
    assert wait_until(lambda: (collector.logs / "kafka-1/kafka.log").exists(), 10)
    written = [Path(folder) / name for folder, _, names in os.walk(tmp_path) for name in names]
    [evil] = [path for path in written if "evil" in str(path)]
    assert evil.is_relative_to(collector.logs)


def test_no_file_with_its_number_keeps_the_next_one_from_starting(collector: LogCollector) -> None:
    """After a crash of the machine a stranger may have that number, and rsyslogd would take it for itself."""
    assert {path.name for path in collector.directory.iterdir()} == {"rsyslog.conf", "rotate"}
