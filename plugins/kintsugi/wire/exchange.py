"""One question to one TCP endpoint, on a connection of its own."""

from __future__ import annotations

import asyncio
import ssl
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

MAX_BYTES = 8 * 1024 * 1024  # no valid answer is longer

T = TypeVar("T")


class ProtocolMismatch(Exception):
    """The endpoint answered, but not as its protocol demands; the text says what is wrong."""


class NumberReader:
    """Reads the numbers of an answer one after another, in network byte order; raises struct.error at its end."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, form: str) -> int:
        """Return the next number; ``form``: its format character of the module `struct`."""
        (value,) = struct.unpack_from(f">{form}", self._data, self._at)
        self._at += struct.calcsize(f">{form}")
        return int(value)


@dataclass(frozen=True, slots=True)
class Connection:
    """The two halves of one TCP connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter


async def ask_endpoint(
    address: str,
    port: int,
    question: Callable[[Connection], Awaitable[T]],
    *,
    tls: ssl.SSLContext | None = None,
) -> T:
    """Connect, put ``question``, close; raises what the network (OSError, EOFError) or ``question`` raises.

    ``tls``: what a TLS connection needs; a failed handshake is an OSError. There is no deadline: the caller sets one.
    """
    reader, writer = await asyncio.open_connection(address, port, limit=MAX_BYTES, ssl=tls)
    try:
        return await question(Connection(reader, writer))
    finally:
        writer.transport.abort()  # a probe each second would leave many connections in TIME_WAIT
