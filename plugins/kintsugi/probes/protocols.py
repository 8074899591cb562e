"""Probes: one question to one endpoint, in its own protocol, with a deadline.

A port that accepts connections proves little, because the kernel also accepts for a stopped process. So every probe
waits for an answer that only a live server of that kind can give. Only the standard library is used, because the
triggerer and the command line load this module when they start.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import struct
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from kintsugi.core.certificates import Principal
from kintsugi.core.client_tls import client_context
from kintsugi.core.fleet import Node, Role
from kintsugi.core.observation import ProbeResult
from kintsugi.core.settings import (
    CASSANDRA_PORT,
    KAFKA_PORT,
    SPARK_MASTER_UI_PORT,
    SPARK_WORKER_UI_PORT,
)
from kintsugi.core.spark_security import spark_page_headers
from kintsugi.wire import cql, kafka
from kintsugi.wire.exchange import MAX_BYTES, Connection, ProtocolMismatch, ask_endpoint

PROBE_TIMEOUT_S = 2.0
MOST_AT_ONCE = 128
"""Probes of a fleet at a time. They take 0.2 s of processor time, far below a probe's deadline."""

# After the deadline the event loop gets a little more time. If our own process was not scheduled, the answer
# may be in the socket's buffer already, and the loop handled the timer first.
_LAST_LOOK_S = 0.2


@dataclass(frozen=True, slots=True)
class Probe:
    """The result of one probe.

    ``target``: a node's name or ``address:port``. ``at``: when the question was sent, UTC.
    ``latency_s``: seconds until the answer, or until the probe gave up. ``detail``: for people.
    """

    target: str
    answer: ProbeResult
    at: datetime
    latency_s: float
    detail: str


Question = Callable[[Connection], Awaitable[str]]


async def probe_kafka(address: str, port: int = KAFKA_PORT, timeout_s: float = PROBE_TIMEOUT_S) -> Probe:
    """Ask a broker for the API versions it speaks; OK when the answer carries our correlation id."""
    return await _run_probe(address, port, timeout_s, _ask_api_versions, client_context(Principal.PROBE))


async def probe_cassandra(
    address: str, port: int = CASSANDRA_PORT, timeout_s: float = PROBE_TIMEOUT_S
) -> Probe:
    """Send OPTIONS in native protocol v4; OK when the answer is SUPPORTED."""
    return await _run_probe(address, port, timeout_s, _ask_options, client_context(Principal.PROBE))


async def probe_spark_master(
    address: str, port: int = SPARK_MASTER_UI_PORT, timeout_s: float = PROBE_TIMEOUT_S
) -> Probe:
    """Ask a Spark master for its state; OK when ALIVE, and also while it is recovering its state.

    A master in STANDBY, RECOVERING or COMPLETING_RECOVERY is starting: it is alive and must not be killed.
    """

    def check_master(document: Mapping[str, Any]) -> str:
        state = document.get("status")
        if state not in ("ALIVE", "STANDBY", "RECOVERING", "COMPLETING_RECOVERY"):
            raise ProtocolMismatch(f"the answer is not a Spark master's: status {state!r}")
        return f"master {state}"

    return await probe_spark_page(address, port, "/json/", check_master, timeout_s)


async def probe_spark_worker(
    address: str, port: int = SPARK_WORKER_UI_PORT, timeout_s: float = PROBE_TIMEOUT_S
) -> Probe:
    """Ask a Spark worker for its state; OK when it names its cores."""

    def check_worker(document: Mapping[str, Any]) -> str:
        if "cores" not in document or "masterurl" not in document:
            raise ProtocolMismatch("the answer is not a Spark worker's")
        return f"worker with {document.get('coresused', 0)} of {document['cores']} cores used"

    return await probe_spark_page(address, port, "/json/", check_worker, timeout_s)


async def probe_spark_page(
    address: str,
    port: int,
    path: str,
    check: Callable[[Mapping[str, Any]], str],
    timeout_s: float = PROBE_TIMEOUT_S,
) -> Probe:
    """GET ``path`` of a Spark page; OK when the status is 200, the body a JSON object, and ``check`` accepts it.

    ``check`` returns the detail, or raises ProtocolMismatch.
    """

    async def ask_json(connection: Connection) -> str:
        body = await http_get(connection, f"{address}:{port}", path, spark_page_headers())
        try:
            document = json.loads(body)
        except ValueError as error:
            raise ProtocolMismatch(f"{path} did not answer in JSON") from error
        if not isinstance(document, dict):
            raise ProtocolMismatch(f"{path} did not answer with a JSON object")
        return check(document)

    return await _run_probe(address, port, timeout_s, ask_json)


async def probe_http(address: str, port: int, timeout_s: float = PROBE_TIMEOUT_S) -> Probe:
    """Ask an HTTP server for ``/``; any status below 500 is OK, also the 403 of an S3 server without credentials."""

    async def ask_root(connection: Connection) -> str:
        status, _ = await _http_exchange(connection, f"{address}:{port}", "/")
        if status >= 500:
            raise ProtocolMismatch(f"HTTP status {status}")
        return f"HTTP status {status}"

    return await _run_probe(address, port, timeout_s, ask_root)


async def probe_ssh(address: str, port: int, timeout_s: float = PROBE_TIMEOUT_S) -> Probe:
    """Read the banner that sshd sends first; OK when it begins with SSH-2.0."""

    async def read_banner(connection: Connection) -> str:
        line = (await connection.reader.readline()).decode("ascii", "replace").strip()
        if not line.startswith("SSH-2.0"):
            raise ProtocolMismatch(f"no SSH banner but {line[:40]!r}")
        return line

    return await _run_probe(address, port, timeout_s, read_banner)


async def probe_postgres(address: str, port: int, timeout_s: float = PROBE_TIMEOUT_S) -> Probe:
    """Send SSLRequest, to which PostgreSQL answers with one byte before any authentication."""

    async def request_ssl(connection: Connection) -> str:
        connection.writer.write(struct.pack(">ii", 8, 80877103))
        reply = await connection.reader.readexactly(1)
        if reply not in (b"S", b"N"):
            raise ProtocolMismatch(f"not PostgreSQL's answer: {reply!r}")
        return "answers SSLRequest"

    return await _run_probe(address, port, timeout_s, request_ssl)


async def probe_node(node: Node, timeout_s: float = PROBE_TIMEOUT_S) -> Probe:
    """Ask ``node`` in the protocol of its role; the probe's target is the node's name. Never raises."""
    probe = await _PROBES[node.role](node.address, PORTS[node.role], timeout_s)
    return Probe(node.name, probe.answer, probe.at, probe.latency_s, probe.detail)


async def probe_nodes(nodes: Iterable[Node]) -> list[Probe]:
    """Probe every node, at most MOST_AT_ONCE of them at a time; returns the probes in the order of ``nodes``.

    A probe's deadline includes the time that our own process spends on the others. Without the bound, a question to a
    thousand nodes at once would find many of them silent that aren't (docs/decisions/0155).
    """
    turns = asyncio.Semaphore(MOST_AT_ONCE)

    async def probe_in_turn(node: Node) -> Probe:
        async with turns:
            return await probe_node(node)

    return await asyncio.gather(*map(probe_in_turn, nodes))


async def silent_nodes(nodes: Iterable[Node]) -> list[str]:
    """Return the names of the nodes that don't answer their own protocol now, in the order of ``nodes``."""
    return [probe.target for probe in await probe_nodes(nodes) if probe.answer is not ProbeResult.OK]


async def answering_nodes(nodes: Iterable[Node]) -> list[str]:
    """Return the names of the nodes that answer their own protocol now, in the order of ``nodes``."""
    return [probe.target for probe in await probe_nodes(nodes) if probe.answer is ProbeResult.OK]


_PROBES: Mapping[Role, Callable[[str, int, float], Awaitable[Probe]]] = {
    Role.KAFKA: probe_kafka,
    Role.CASSANDRA: probe_cassandra,
    Role.SPARK_MASTER: probe_spark_master,
    Role.SPARK_WORKER: probe_spark_worker,
}
PORTS: Mapping[Role, int] = {
    Role.KAFKA: KAFKA_PORT,
    Role.CASSANDRA: CASSANDRA_PORT,
    Role.SPARK_MASTER: SPARK_MASTER_UI_PORT,
    Role.SPARK_WORKER: SPARK_WORKER_UI_PORT,
}


async def _run_probe(
    address: str, port: int, timeout_s: float, question: Question, tls: ssl.SSLContext | None = None
) -> Probe:
    """Put ``question`` on a fresh connection; an error of the network becomes a ProbeResult, never an exception."""
    at, started = datetime.now(UTC), time.monotonic()
    task = asyncio.ensure_future(ask_endpoint(address, port, question, tls=tls))
    try:
        done, _ = await asyncio.wait({task}, timeout=timeout_s)
        if not done:
            done, _ = await asyncio.wait({task}, timeout=_LAST_LOOK_S)
    finally:
        task.cancel()  # it has no effect on a task that is done
    answer, detail = (
        _result_of(task, timeout_s) if done else (ProbeResult.TIMEOUT, f"no answer in {timeout_s:g} s")
    )
    return Probe(f"{address}:{port}", answer, at, time.monotonic() - started, detail)


def _result_of(task: asyncio.Future[str], timeout_s: float) -> tuple[ProbeResult, str]:
    """Return result and detail of a finished probe."""
    error = task.exception()
    if error is None:
        return ProbeResult.OK, task.result()
    if isinstance(error, ConnectionRefusedError):
        return ProbeResult.REFUSED, "connection refused"
    if isinstance(error, ProtocolMismatch):
        return ProbeResult.WRONG, str(error)
    if isinstance(error, ssl.SSLError):
        # Somebody answers, but no server with a certificate of this installation.
        return ProbeResult.WRONG, f"no TLS connection: {error.reason or error}"
    if isinstance(error, EOFError | ConnectionError | ValueError | struct.error):
        # A reset connection may be that of a dying process or of a busy one; the next probe decides.
        return ProbeResult.WRONG, f"closed the connection without a valid answer ({type(error).__name__})"
    if isinstance(error, OSError):  # no route, host unreachable, out of buffers: there was no answer
        return ProbeResult.TIMEOUT, f"unreachable: {error.strerror or type(error).__name__}"
    raise error


async def _ask_api_versions(connection: Connection) -> str:
    return f"{await kafka.count_apis(connection)} APIs"


async def _ask_options(connection: Connection) -> str:
    await cql.ask_options(connection)
    return "SUPPORTED"


async def http_get(connection: Connection, host: str, path: str, headers: Mapping[str, str]) -> bytes:
    """Return the body of ``path``; raises ProtocolMismatch unless the status is 200."""
    status, body = await _http_exchange(connection, host, path, headers)
    if status != 200:
        raise ProtocolMismatch(f"HTTP status {status} for {path}")
    return body


async def _http_exchange(
    connection: Connection, host: str, path: str, headers: Mapping[str, str] | None = None
) -> tuple[int, bytes]:
    """Send one GET; returns status and body. With HTTP/1.0 the end of the stream is the end of the body."""
    fields = {"Host": host, "Accept": "application/json", **(headers or {})}
    lines = [f"GET {path} HTTP/1.0", *(f"{name}: {value}" for name, value in fields.items()), "", ""]
    connection.writer.write("\r\n".join(lines).encode("ascii"))
    status_line = (await connection.reader.readline()).decode("latin-1").split(maxsplit=2)
    if len(status_line) < 2 or not status_line[0].startswith("HTTP/1.") or not status_line[1].isdigit():
        raise ProtocolMismatch("not an HTTP answer")
    length: int | None = None
    while (line := (await connection.reader.readline()).strip()) != b"":
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-length":
            length = int(value)
    if length is None:
        return int(status_line[1]), await _read_rest(connection.reader)
    return int(status_line[1]), await connection.reader.readexactly(length)


async def _read_rest(reader: asyncio.StreamReader) -> bytes:
    """Read until the end of the stream; raises ProtocolMismatch after more than MAX_BYTES."""
    body = bytearray()
    while chunk := await reader.read(65536):
        body += chunk
        if len(body) > MAX_BYTES:
            raise ProtocolMismatch(f"more than {MAX_BYTES} bytes of answer")
    return bytes(body)
