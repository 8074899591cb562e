"""Nodes that only seem to be: sockets on the fleet's addresses that answer the watch's questions and nothing else."""

from __future__ import annotations

import asyncio
import json
import struct
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Self

from kintsugi.core.fleet import Fleet, Node, Role
from kintsugi.probes.protocols import PORTS

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
MASTER = {"status": "ALIVE", "activeapps": [{"name": "stream_trades", "state": "RUNNING", "cores": 2}]}
WORKER = {"cores": 2, "coresused": 1, "masterurl": "spark://pretended"}


async def _kafka(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    (size,) = struct.unpack(">i", await reader.readexactly(4))
    correlation = (await reader.readexactly(size))[4:8]
    body = correlation + struct.pack(">hihhh", 0, 1, 18, 0, 3)
    writer.write(struct.pack(">i", len(body)) + body)


async def _cassandra(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    header = await reader.readexactly(9)
    writer.write(struct.pack(">BB", 0x84, 0) + header[2:4] + struct.pack(">BiH", 0x06, 2, 0))


def _http(document: dict[str, Any]) -> Talk:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        body = json.dumps(document).encode()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

    return talk


async def _ssh(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"SSH-2.0-pretended\r\n")


TALKS: dict[Role, Talk] = {
    Role.KAFKA: _kafka,
    Role.CASSANDRA: _cassandra,
    Role.SPARK_MASTER: _http(MASTER),
    Role.SPARK_WORKER: _http(WORKER),
}


class PretendFleet:
    """All nodes of ``fleet``, in a thread; ``kill`` makes one refuse connections, ``start`` brings it back."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._servers: dict[str, list[asyncio.Server]] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="pretended fleet", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        for node in self._fleet:
            self.start(node.name)
        return self

    def __exit__(self, *_: object) -> None:
        for name in list(self._servers):
            self.kill(name)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    def start(self, name: str) -> None:
        """Let the node answer."""
        self._servers[name] = self._run(self._serve(self._fleet.node(name)))

    def kill(self, name: str) -> None:
        """Let the node refuse."""
        self._run(self._close(self._servers.pop(name)))

    async def _serve(self, node: Node) -> list[asyncio.Server]:
        context = ((PORTS[node.role], TALKS[node.role]), (node.ssh_port, _ssh))
        return [await asyncio.start_server(_politely(talk), node.address, port) for port, talk in context]

    @staticmethod
    async def _close(servers: list[asyncio.Server]) -> None:
        for server in servers:
            server.close()

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)


def _politely(talk: Talk) -> Talk:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await talk(reader, writer)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client has gone, or asks what a pretended node can't answer
        finally:
            writer.close()

    return handle
