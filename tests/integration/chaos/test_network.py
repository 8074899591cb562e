"""Network faults on real packets: each test has a network namespace, and so a loopback, of its own."""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest

from kintsugi.chaos import network
from kintsugi.chaos.network import NetworkFault
from kintsugi.core.errors import StepFailed
from kintsugi.core.fleet import Node, Role

CLONE_NEWNET = 0x40000000
NODE = Node("cassandra-1", Role.CASSANDRA, "127.98.2.1", 2222)
PEER = Node("cassandra-2", Role.CASSANDRA, "127.98.2.2", 2222)
SERVICE, GOSSIP = 9042, 7000

pytestmark = [
    pytest.mark.timed,
    pytest.mark.skipif(
        network.reason_unavailable("local") is not None, reason=str(network.reason_unavailable("local"))
    ),
]


def in_its_own_network(body: Callable[[], None]) -> None:
    """Run ``body`` in a thread with a network namespace of its own; the machine's own rules stay as they are."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET) != 0:
                pytest.skip("no network namespace can be made here")
            subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
            body()
        except BaseException as failure:  # noqa: BLE001 - raised again by the caller's thread
            failures.append(failure)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]


@dataclass
class Echo:
    """A server that sends back what it gets, on one address and port."""

    address: str
    port: int

    def __post_init__(self) -> None:
        self.listener = socket.create_server((self.address, self.port))
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            connection, _ = self.listener.accept()
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    @staticmethod
    def _serve(connection: socket.socket) -> None:
        with connection:
            while data := connection.recv(100):
                connection.sendall(data)


def connect(node: Node, port: int, timeout_s: float = 1.5) -> socket.socket:
    return socket.create_connection((node.address, port), timeout=timeout_s)


def exchange(connection: socket.socket, timeout_s: float = 1.5) -> float:
    """Seconds that one question and its answer take; raises TimeoutError."""
    connection.settimeout(timeout_s)
    began = time.monotonic()
    connection.sendall(b"x")
    assert connection.recv(1) == b"x"
    return time.monotonic() - began


def soon() -> datetime:
    return datetime.now(UTC) + timedelta(seconds=60)


def test_a_reset_hits_new_connections_only_and_only_the_ports_that_are_probed() -> None:
    def body() -> None:
        Echo(NODE.address, SERVICE), Echo(NODE.address, GOSSIP), Echo(PEER.address, SERVICE)
        established = connect(NODE, SERVICE)
        network.impose_fault(NetworkFault.REJECT, NODE, soon())
        with pytest.raises(ConnectionRefusedError):
            connect(NODE, SERVICE)
        with pytest.raises(ConnectionRefusedError):
            connect(NODE, NODE.ssh_port)
        exchange(established)
        exchange(connect(NODE, GOSSIP))
        exchange(connect(PEER, SERVICE))
        assert network.remove_fault(NODE.name)
        exchange(connect(NODE, SERVICE))

    in_its_own_network(body)


def test_a_drop_is_silence_for_new_connections() -> None:
    def body() -> None:
        Echo(NODE.address, SERVICE), Echo(NODE.address, GOSSIP)
        established = connect(NODE, SERVICE)
        network.impose_fault(NetworkFault.DROP, NODE, soon())
        with pytest.raises(TimeoutError):
            connect(NODE, SERVICE, 0.5)
        exchange(established)
        exchange(connect(NODE, GOSSIP))

    in_its_own_network(body)


def test_one_way_lets_packets_in_and_none_out_also_on_established_connections() -> None:
    def body() -> None:
        Echo(NODE.address, SERVICE), Echo(NODE.address, GOSSIP)
        established = connect(NODE, SERVICE)
        network.impose_fault(NetworkFault.ONE_WAY, NODE, soon())
        with pytest.raises(TimeoutError):
            exchange(established, 0.5)
        exchange(connect(NODE, GOSSIP))

    in_its_own_network(body)


def test_each_packet_to_the_node_is_late_and_passes_at_once_when_the_process_that_holds_it_dies() -> None:
    def body() -> None:
        Echo(NODE.address, SERVICE), Echo(PEER.address, SERVICE)
        network.impose_fault(NetworkFault.DELAY, NODE, soon())
        holder = delaying(0.3, 30)
        try:
            connection = connect(NODE, SERVICE)
            assert exchange(connection) >= 0.3
            assert exchange(connect(PEER, SERVICE)) < 0.3
        finally:
            holder.kill()
            holder.wait()
        assert exchange(connection) < 0.3

    in_its_own_network(body)


def test_a_delay_ends_by_itself() -> None:
    def body() -> None:
        network.impose_fault(NetworkFault.DELAY, NODE, soon())
        assert delaying(0.3, 0.2).wait(timeout=20) == 0

    in_its_own_network(body)


def delaying(delay_s: float, seconds: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "kintsugi.chaos.packet_delay", str(network.queue_of(NODE.name))]
    process = subprocess.Popen(
        [*command, str(delay_s), str(seconds)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": "plugins"},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def test_some_packets_of_the_node_get_lost() -> None:
    def body() -> None:
        network.impose_fault(NetworkFault.LOSS, NODE, soon())
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
            receiver.bind((NODE.address, 4000))
            receiver.setblocking(False)
            received = 0
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                for _ in range(2000):
                    sender.sendto(b"x", receiver.getsockname())
                    try:
                        received += len(receiver.recv(10))
                    except BlockingIOError:
                        continue
        assert 1800 < received < 1980

    in_its_own_network(body)


def test_the_kernel_ends_a_fault_that_nobody_takes_back() -> None:
    def body() -> None:
        Echo(NODE.address, SERVICE)
        network.impose_fault(NetworkFault.REJECT, NODE, datetime.now(UTC) + timedelta(seconds=2))
        with pytest.raises(ConnectionRefusedError):
            connect(NODE, SERVICE)
        until = time.monotonic() + 15
        while True:
            try:
                exchange(connect(NODE, SERVICE))
                return
            except ConnectionRefusedError:
                assert time.monotonic() < until, "the rule outlived its time"

    in_its_own_network(body)


def test_taking_back_twice_and_what_nobody_made_is_harmless_and_leaves_foreign_rules_alone() -> None:
    def body() -> None:
        foreign = ["-A", "INPUT", "-i", "lo", "-d", "127.98.9.9", "-j", "ACCEPT"]
        subprocess.run(["iptables", *foreign], check=True, env={"PATH": "/usr/sbin:/sbin:/usr/bin"})
        before = network._list_rules()
        assert not network.remove_fault(NODE.name)
        for fault in NetworkFault:  # the next one takes the place of the last
            network.impose_fault(fault, NODE, soon())
        network.impose_fault(NetworkFault.DROP, PEER, soon())
        assert network.remove_fault(NODE.name)
        assert not network.remove_fault(NODE.name)
        assert network.remove_fault(PEER.name)
        assert network._list_rules() == before

    in_its_own_network(body)


def test_an_address_outside_of_the_loopback_is_refused_before_any_rule_is_made() -> None:
    with pytest.raises(StepFailed):
        network.impose_fault(NetworkFault.DROP, Node("kafka-1", Role.KAFKA, "192.0.2.1", 22), soon())
