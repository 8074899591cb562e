"""Probes against real sockets: what is OK, refused, silent, wrong."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import pytest

from kintsugi.core.fleet import Node, Role
from kintsugi.core.observation import ProbeResult
from kintsugi.probes import protocols
from kintsugi.probes.protocols import Probe
from kintsugi.probes.stream import probe_stream

ADDRESS = "127.35.90.1"
Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
Ask = Callable[..., Awaitable[Probe]]
ALL: list[Ask] = [
    protocols.probe_kafka,
    protocols.probe_cassandra,
    protocols.probe_spark_master,
    protocols.probe_spark_worker,
    protocols.probe_ssh,
    protocols.probe_http,
    protocols.probe_postgres,
]


@asynccontextmanager
async def listening(talk: Talk, port: int = 0) -> AsyncIterator[int]:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await talk(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(handle, ADDRESS, port)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


def say(data: bytes) -> Talk:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await writer.drain()
        await reader.read()

    return talk


def http(status: str, body: bytes) -> Talk:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        await writer.drain()

    return talk


def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind((ADDRESS, 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize("ask", ALL)
async def test_nobody_listening_is_refused(ask: Ask) -> None:
    probe = await ask(ADDRESS, unused_port(), timeout_s=2.0)
    assert probe.answer is ProbeResult.REFUSED
    assert probe.latency_s < 1.0


@pytest.mark.parametrize("ask", ALL)
async def test_an_open_port_that_says_nothing_is_a_timeout(ask: Ask) -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()  # whatever comes, until the other end gives up

    async with listening(silent) as port:
        probe = await ask(ADDRESS, port, timeout_s=0.2)
    assert probe.answer is ProbeResult.TIMEOUT
    assert 0.2 <= probe.latency_s < 1.0


@pytest.mark.parametrize("ask", ALL)
async def test_a_stopped_process_accepts_connections_and_is_still_a_timeout(ask: Ask) -> None:
    with socket.create_server((ADDRESS, 0)) as server:  # the kernel accepts, nobody reads
        probe = await ask(ADDRESS, server.getsockname()[1], timeout_s=0.2)
    assert probe.answer is ProbeResult.TIMEOUT


@pytest.mark.parametrize("ask", ALL)
async def test_garbage_is_wrong(ask: Ask) -> None:
    async with listening(say(b"\x00\x00\x00\x20" + b"nobody here speaks your language\r\n\r\n")) as port:
        probe = await ask(ADDRESS, port, timeout_s=1.0)
    assert probe.answer is ProbeResult.WRONG


@pytest.mark.parametrize("ask", ALL)
async def test_a_connection_closed_without_a_word_is_wrong(ask: Ask) -> None:
    async def leave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with listening(leave) as port:
        assert (await ask(ADDRESS, port, timeout_s=1.0)).answer is ProbeResult.WRONG


async def test_kafka_must_answer_this_very_question() -> None:
    def answering(change: int) -> Talk:
        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            (size,) = struct.unpack(">i", await reader.readexactly(4))
            request = await reader.readexactly(size)
            api, _, correlation = struct.unpack_from(">hhi", request)
            assert api == 18
            writer.write(struct.pack(">iihi", 10, correlation ^ change, 0, 0))
            await writer.drain()

        return talk

    async with listening(answering(0)) as port:
        assert (await protocols.probe_kafka(ADDRESS, port)).answer is ProbeResult.OK
    async with listening(answering(1)) as port:
        assert (await protocols.probe_kafka(ADDRESS, port)).answer is ProbeResult.WRONG


async def test_cassandra_must_say_supported() -> None:
    def answering(opcode: int) -> Talk:
        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            _, _, stream, asked, _ = struct.unpack(">BBhBi", await reader.readexactly(9))
            assert asked == 5
            writer.write(struct.pack(">BBhBi", 0x84, 0, stream, opcode, 2) + b"\0\0")
            await writer.drain()

        return talk

    async with listening(answering(6)) as port:
        assert (await protocols.probe_cassandra(ADDRESS, port)).answer is ProbeResult.OK
    async with listening(answering(0)) as port:
        assert (await protocols.probe_cassandra(ADDRESS, port)).answer is ProbeResult.WRONG


@pytest.mark.parametrize(
    ("status", "answer"),
    [
        ("ALIVE", ProbeResult.OK),
        ("STANDBY", ProbeResult.OK),
        ("RECOVERING", ProbeResult.OK),
        ("COMPLETING_RECOVERY", ProbeResult.OK),
        ("DEAD", ProbeResult.WRONG),
        (None, ProbeResult.WRONG),
    ],
)
async def test_a_spark_master_on_its_way_is_alive(status: str | None, answer: ProbeResult) -> None:
    async with listening(http("200 OK", json.dumps({"status": status}).encode())) as port:
        assert (await protocols.probe_spark_master(ADDRESS, port)).answer is answer


async def test_an_error_page_is_wrong_for_spark_and_a_refusal_is_fine_for_s3() -> None:
    async with listening(http("403 Forbidden", b"<Error/>")) as port:
        assert (await protocols.probe_spark_master(ADDRESS, port)).answer is ProbeResult.WRONG
        assert (await protocols.probe_http(ADDRESS, port)).answer is ProbeResult.OK
    async with listening(http("503 Slow Down", b"")) as port:
        assert (await protocols.probe_http(ADDRESS, port)).answer is ProbeResult.WRONG


async def test_a_long_body_without_its_length_is_read_to_the_end() -> None:
    body = json.dumps({"filler": "x" * 500_000, "status": "ALIVE"}).encode()

    async def in_pieces(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        for start in range(0, len(body), 100_000):
            writer.write(body[start : start + 100_000])
            await writer.drain()

    async with listening(in_pieces) as port:
        assert (await protocols.probe_spark_master(ADDRESS, port)).answer is ProbeResult.OK


async def test_ssh_banner() -> None:
    async with listening(say(b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n")) as port:
        probe = await protocols.probe_ssh(ADDRESS, port)
    assert probe.answer is ProbeResult.OK
    assert "OpenSSH" in probe.detail


async def test_postgres_answers_before_authentication() -> None:
    async with listening(say(b"N")) as port:
        assert (await protocols.probe_postgres(ADDRESS, port)).answer is ProbeResult.OK


async def test_probe_node_asks_in_the_protocol_of_the_role_and_is_named_after_the_node() -> None:
    body = json.dumps({"status": "ALIVE"}).encode()
    async with listening(http("200 OK", body), protocols.PORTS[Role.SPARK_MASTER]):
        probe = await protocols.probe_node(Node("spark-master-1", Role.SPARK_MASTER, ADDRESS, 2222))
    assert (probe.target, probe.answer) == ("spark-master-1", ProbeResult.OK)


async def test_a_large_fleet_is_probed_in_turns_and_the_probes_come_in_its_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    at_once, most = 0, 0

    async def probe(node: Node, timeout_s: float = 2.0) -> Probe:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await asyncio.sleep(0)
        at_once -= 1
        return Probe(node.name, ProbeResult.OK, datetime.now(UTC), 0.0, "")

    monkeypatch.setattr(protocols, "probe_node", probe)
    fleet = [Node(f"kafka-{number}", Role.KAFKA, ADDRESS, 2222) for number in range(1, 1001)]
    probes = await protocols.probe_nodes(fleet)
    assert [probe.target for probe in probes] == [node.name for node in fleet]
    assert most == protocols.MOST_AT_ONCE


@pytest.mark.parametrize(
    ("apps", "answer"),
    [
        ([{"name": "stream_trades", "state": "RUNNING", "cores": 2}], ProbeResult.OK),
        ([{"name": "stream_trades", "state": "WAITING", "cores": 0}], ProbeResult.WRONG),
        ([{"name": "build_baseline", "state": "RUNNING", "cores": 1}], ProbeResult.WRONG),
        ([{"name": "stream_trades", "state": "RUNNING", "cores": 1}] * 2, ProbeResult.WRONG),  # two drivers
        ([], ProbeResult.WRONG),
    ],
)
async def test_stream_is_well_when_exactly_one_application_holds_cores(
    apps: list[dict[str, object]], answer: ProbeResult
) -> None:
    body = json.dumps({"status": "ALIVE", "activeapps": apps}).encode()
    async with listening(http("200 OK", body), protocols.PORTS[Role.SPARK_MASTER]):
        probe = await probe_stream(Node("spark-master-1", Role.SPARK_MASTER, ADDRESS, 2222))
    assert probe.answer is answer


async def test_an_answer_that_came_while_the_watcher_slept_still_counts() -> None:
    async with listening(say(b"SSH-2.0-x\r\n")) as port:
        task = asyncio.create_task(protocols.probe_ssh(ADDRESS, port, timeout_s=0.3))
        await asyncio.sleep(0)
        import time

        time.sleep(0.5)  # noqa: ASYNC251 - the event loop stands still past the probe's deadline
        assert (await task).answer is ProbeResult.OK
