"""What a node says of itself: its sockets, its process, its answers."""

from __future__ import annotations

import json
import os
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from kintsugi.core.fleet import Node, Role
from kintsugi.core.observation import NodeView, ProbeResult, ServiceProcess
from kintsugi.core.processes import start_time
from kintsugi.core.settings import load_settings
from kintsugi.probes import node_view
from kintsugi.probes.node_view import (
    ANSWERS,
    GONE,
    KILLED,
    has_connection,
    kill_command,
    parse_look,
    parse_view,
)
from kintsugi.probes.protocols import Probe

ADDRESS = "127.46.1.1"


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.create_server((ADDRESS, 0)) as listener:
        yield listener


def test_an_established_connection_is_found_from_its_far_end(server: socket.socket) -> None:
    port = server.getsockname()[1]
    assert not has_connection(ADDRESS, [port]), "the server listens only"
    with socket.create_connection((ADDRESS, port)):
        assert has_connection(ADDRESS, [port])
        assert not has_connection(ADDRESS, [port + 1])
        assert not has_connection("127.46.1.2", [port])


def test_a_connection_through_a_socket_of_both_families_is_found(server: socket.socket) -> None:
    port = server.getsockname()[1]
    with socket.create_connection((f"::ffff:{ADDRESS}", port)):
        assert has_connection(ADDRESS, [port])


def test_a_socket_that_answers_nothing_is_connected_and_silent(server: socket.socket) -> None:
    """As a stopped service looks: its kernel accepts in its place."""
    node = Node("kafka-1", Role.KAFKA, ADDRESS, 0)
    port = server.getsockname()[1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(node_view, "PORTS", {Role.KAFKA: port})
        patch.setattr("kintsugi.probes.protocols.PORTS", {Role.KAFKA: port})
        view = parse_view(json.dumps(node_view._gather_view("/nonexistent.conf", "kafka", node)))
    assert view == NodeView(
        None, None, listening=True, connected=True, answer=ProbeResult.TIMEOUT, ended=False
    )


LISTEN = """
import socket, sys, time
for endpoint in sys.argv[1:]:
    address, port = endpoint.rsplit(":", 1)
    globals()[endpoint] = socket.create_server((address, int(port)))
print("listens", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize(
    ("role", "listened", "foreign"),
    [
        (Role.KAFKA, ["127.46.1.1:9092", "127.46.1.1:9093"], []),
        (Role.KAFKA, ["127.46.1.1:9992", "127.46.1.1:9093"], ["127.46.1.1:9992"]),
        (Role.KAFKA, ["127.46.1.2:9092"], ["127.46.1.2:9092"]),
        (Role.CASSANDRA, ["127.46.1.1:7000", "127.0.0.1:29611"], []),  # it starts; JMX is on loopback
        (Role.SPARK_WORKER, ["127.46.1.1:8099"], []),  # its processes choose ports by themselves
    ],
)
def test_a_service_on_a_wrong_port_is_told_from_one_that_starts(
    role: Role, listened: list[str], foreign: list[str]
) -> None:
    process = subprocess.Popen([sys.executable, "-c", LISTEN, *listened], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "listens\n"
        assert node_view.foreign_endpoints(process.pid, Node("node-1", role, ADDRESS, 0)) == foreign
    finally:
        process.kill()
        process.wait()


def test_a_process_that_has_ended_listens_nowhere() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert node_view.foreign_endpoints(process.pid, Node("kafka-1", Role.KAFKA, ADDRESS, 0)) == []


@pytest.mark.parametrize("output", [None, "", "Traceback (most recent call last):", "[]", "7"])
def test_what_is_no_view_says_nothing(output: str | None) -> None:
    assert parse_view(output) == NodeView()
    assert parse_look(output) == (None, False)


def test_exactly_the_judged_process_is_killed() -> None:
    victim = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    node = Node("kafka-1", Role.KAFKA, ADDRESS, 0)

    def run_on_node(start: int) -> str:
        command = kill_command(load_settings(), node, ServiceProcess(victim.pid, start))
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        began = start_time(victim.pid)
        assert began is not None
        assert run_on_node(began + 1) == GONE
        assert victim.poll() is None
        assert run_on_node(began) == KILLED
        assert victim.wait(10) == -9
        assert run_on_node(began) == GONE
    finally:
        victim.kill()


def test_a_service_that_answers_by_the_time_the_command_arrives_is_not_killed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    victim = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])

    async def serves(node: Node, timeout_s: float) -> Probe:
        return Probe(node.name, ProbeResult.OK, datetime.now(UTC), 0.1, "")

    monkeypatch.setattr(node_view, "probe_node", serves)
    try:
        began = start_time(victim.pid)
        assert began is not None
        process = ServiceProcess(victim.pid, began)
        assert node_view.kill_silent(Node("kafka-1", Role.KAFKA, ADDRESS, 0), process) == ANSWERS
        assert victim.poll() is None
    finally:
        victim.kill()
        victim.wait()


@pytest.mark.parametrize(
    ("output", "ended"),
    [("0\n", True), ("error: <class 'TimeoutError'>\n", False), ("unix:///x no such file\n", False)],
)
def test_only_an_init_that_says_so_shows_that_no_process_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: str, ended: bool
) -> None:
    program = tmp_path / "supervisorctl"
    program.write_text(f"#!/bin/sh\nprintf '%s' {shlex.quote(output)}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert node_view._read_process("x.conf", "kafka") == (None, None, ended)


def test_a_process_that_waits_for_the_processor_is_told_from_one_that_is_stopped() -> None:
    """The kernel counts the time on a run queue: busy loops that share one processor wait, a stopped one doesn't."""
    processor = {min(os.sched_getaffinity(0))}
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(4)]
    try:
        for loop in loops:
            os.sched_setaffinity(loop.pid, processor)
        deadline = time.monotonic() + 20
        while node_view.processor_ns(loops[0].pid)[1] < 200_000_000:
            assert time.monotonic() < deadline, "a busy loop among four never waited for its processor"
            time.sleep(0.05)
        loops[0].send_signal(19)
        while os.waitid(os.P_PID, loops[0].pid, os.WSTOPPED | os.WNOHANG | os.WNOWAIT) is None:
            assert time.monotonic() < deadline, "it was not stopped"
            time.sleep(0.01)
        stopped = node_view.processor_ns(loops[0].pid)
        other = node_view.processor_ns(loops[1].pid)
        while node_view.processor_ns(loops[1].pid)[1] - other[1] < 100_000_000:
            assert time.monotonic() < deadline, "the others did not go on waiting"
            time.sleep(0.05)
        assert node_view.processor_ns(loops[0].pid)[1] - stopped[1] < 10_000_000
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()
