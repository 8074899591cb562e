"""Stand-in nodes: one process that answers, at the address of every node, what the production probes ask.

``python -m benchmarks.fleet_simulation.stand_ins <plan.json>`` serves the fleet of its environment. It prints ``ready``
when all listen. After a line on its standard input it carries out the plan; its times count from that line. After the
second line, or at the end of the input, it prints what it did as JSON and ends.

A stand-in speaks as much of its protocol as a probe needs: ApiVersions of Kafka, OPTIONS and one query of Cassandra
(for the clock), and the page ``/json/`` of Spark. It fails as a server does:

* *refuse*: its socket is closed, so the kernel refuses connections, as after the end of a process.
* *hang*: it no longer accepts; the kernel still does, as for a stopped process.
* *pause*: it hangs, and goes on after PAUSE_S.
"""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import struct
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from kintsugi.core.certificates import node_certificate, trust_file
from kintsugi.core.fleet import Node, Role
from kintsugi.core.settings import Settings, load_settings
from kintsugi.probes.protocols import PORTS

PAUSE_S = 5.0
"""The longest pause that must not count as a failure."""

_BACKLOG = 1024
_KAFKA_APIS = 60
_ENCRYPTED = (Role.KAFKA, Role.CASSANDRA)
_STARTUP, _READY, _OPTIONS, _SUPPORTED, _QUERY, _RESULT = 0x01, 0x02, 0x05, 0x06, 0x07, 0x08


Answers = Callable[[bytearray], bytes | None]
"""Takes one whole question from the front of a buffer and returns its answer; None while it isn't whole."""


class NodeFault(StrEnum):
    """How a stand-in fails."""

    REFUSE = "refuse"
    HANG = "hang"
    PAUSE = "pause"


@dataclass(frozen=True, slots=True)
class PlannedFault:
    """A fault of one node, ``at_s`` seconds after the start of the plan."""

    at_s: float
    node: str
    fault: NodeFault


class StandIn:
    """One stand-in node: a listening socket that can fail."""

    def __init__(self, node: Node, tls: ssl.SSLContext | None) -> None:
        self.node, self._tls = node, tls
        self._answers = _ANSWERS[node.role]
        self._connecting: set[asyncio.Task[object]] = set()
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.setblocking(False)
        self._socket.bind((node.address, PORTS[node.role]))
        self._socket.listen(_BACKLOG)

    def accept(self) -> None:
        """Answer connections from now on."""
        asyncio.get_running_loop().add_reader(self._socket, self._accept_waiting)

    def fail(self, fault: NodeFault) -> None:
        """Fail from now on; a pause ends by itself."""
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._socket)
        if fault is NodeFault.REFUSE:
            self._socket.close()
        elif fault is NodeFault.PAUSE:
            loop.call_later(PAUSE_S, self.accept)

    def _accept_waiting(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = self._socket.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            connection.setblocking(False)
            task: asyncio.Task[object] = loop.create_task(self._serve(connection))
            self._connecting.add(task)
            task.add_done_callback(self._connecting.discard)

    async def _serve(self, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.connect_accepted_socket(lambda: _Answering(self._answers), connection, ssl=self._tls)
        except OSError:
            connection.close()  # the client gave up during the handshake


class _Answering(asyncio.Protocol):
    """One connection: collects what arrives, and sends the answers to every whole question in it."""

    def __init__(self, answers: Answers) -> None:
        self._answers, self._received = answers, bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        while self._received and (answer := self._answers(self._received)) is not None:
            self._transport.write(answer)


class _KafkaAnswers:
    _APIS = b"".join(struct.pack(">hhh", key, 0, 3) for key in range(_KAFKA_APIS))

    def __call__(self, received: bytearray) -> bytes | None:
        if len(received) < 12:
            return None
        size, _, _, correlation_id = struct.unpack_from(">ihhi", received)
        if len(received) < 4 + size:
            return None
        del received[: 4 + size]
        body = struct.pack(">ihi", correlation_id, 0, _KAFKA_APIS) + self._APIS
        return struct.pack(">i", len(body)) + body


class _CassandraAnswers:
    _SUPPORTED_OPTIONS = struct.pack(">H", 1) + struct.pack(">H11sHH5s", 11, b"CQL_VERSION", 1, 5, b"3.4.7")

    def __call__(self, received: bytearray) -> bytes | None:
        if len(received) < 9:
            return None
        _, _, stream_id, opcode, size = struct.unpack_from(">BBhBi", received)
        if len(received) < 9 + size:
            return None
        del received[: 9 + size]
        answer, body = self._answer(opcode)
        return struct.pack(">BBhBi", 0x84, 0, stream_id, answer, len(body)) + body

    def _answer(self, opcode: int) -> tuple[int, bytes]:
        if opcode == _OPTIONS:
            return _SUPPORTED, self._SUPPORTED_OPTIONS
        return (_RESULT, _row_with_now()) if opcode == _QUERY else (_READY, b"")


def _row_with_now() -> bytes:
    """The answer to ``SELECT now() AS now FROM system.local``: one row with one column of type timeuuid."""
    names = b"".join(struct.pack(">H", len(name)) + name for name in (b"system", b"local", b"now"))
    return struct.pack(">iii", 2, 1, 1) + names + struct.pack(">Hii", 0x0F, 1, 16) + uuid.uuid1().bytes


class _SparkAnswers:
    def __init__(self, page: dict[str, object]) -> None:
        body = json.dumps(page).encode()
        self._answer = (
            b"HTTP/1.1 200 OK\r\nContent-Type: text/json;charset=utf-8\r\nContent-Length: %d\r\n\r\n"
            % len(body)
        ) + body

    def __call__(self, received: bytearray) -> bytes | None:
        head, end, _ = received.partition(b"\r\n\r\n")
        if not end:
            return None
        del received[: len(head) + len(end)]
        return self._answer


_ANSWERS: dict[Role, Answers] = {
    Role.KAFKA: _KafkaAnswers(),
    Role.CASSANDRA: _CassandraAnswers(),
    Role.SPARK_MASTER: _SparkAnswers({"status": "ALIVE", "workers": [], "activeapps": []}),
    Role.SPARK_WORKER: _SparkAnswers({"cores": 2, "coresused": 1, "masterurl": "spark://127.96.0.1:7077"}),
}


def server_context(settings: Settings, node: Node) -> ssl.SSLContext:
    """Return what the node needs to ask every client for a certificate of the installation's authority."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(trust_file(settings))
    context.load_cert_chain(node_certificate(settings, node))
    return context


async def serve(plan: list[PlannedFault]) -> dict[str, object]:
    """Serve until the input ends; returns the faults with their times (seconds since 1970) and the processor time."""
    settings = load_settings()
    fleet = settings.fleet
    stand_ins = {
        node.name: StandIn(
            node, server_context(settings, node) if fleet.mutual_tls and node.role in _ENCRYPTED else None
        )
        for node in fleet
    }
    for stand_in in stand_ins.values():
        stand_in.accept()
    print("ready", flush=True)
    lines = await _lines_of_input()
    await lines.readline()
    started_s, started_cpu_s = time.monotonic(), time.process_time()
    faults: list[dict[str, object]] = []

    def inject(planned: PlannedFault) -> None:
        faults.append({"node": planned.node, "fault": planned.fault, "t0": time.time()})
        stand_ins[planned.node].fail(planned.fault)

    for planned in plan:
        asyncio.get_running_loop().call_later(planned.at_s, inject, planned)
    await lines.readline()
    return {
        "faults": faults,
        "cpu_s": time.process_time() - started_cpu_s,
        "seconds": time.monotonic() - started_s,
    }


async def _lines_of_input() -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    return reader


def main() -> None:
    """Serve by the plan that the first argument names: a list of ``[at_s, node, fault]``."""
    plan = [
        PlannedFault(at_s, node, NodeFault(fault))
        for at_s, node, fault in json.loads(Path(sys.argv[1]).read_text())
    ]
    print(json.dumps(asyncio.run(serve(plan))), flush=True)


if __name__ == "__main__":
    main()
