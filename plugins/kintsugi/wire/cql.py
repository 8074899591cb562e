"""One read-only query to one particular Cassandra node, in the native protocol v4.

A driver chooses the node that it asks. Here the view of *this* node is needed, within milliseconds and in an event
loop. Only what gossip and the schema need is decoded: no paging, and columns of type int, text, inet, uuid and map of
text to text.
"""

from __future__ import annotations

import ipaddress
import secrets
import struct
import uuid
from typing import Any

from kintsugi.wire.exchange import MAX_BYTES, Connection, NumberReader, ProtocolMismatch

_STARTUP, _READY, _OPTIONS, _SUPPORTED, _QUERY, _RESULT = 0x01, 0x02, 0x05, 0x06, 0x07, 0x08
_ERROR, _AUTHENTICATE, _AUTH_RESPONSE, _AUTH_SUCCESS = 0x00, 0x03, 0x0F, 0x10
ONE, ALL = 0x0001, 0x0005
UNAVAILABLE = "error 0x1000"
_INT, _VARCHAR, _ASCII, _INET, _MAP, _TIMEUUID, _UUID = 0x09, 0x0D, 0x01, 0x10, 0x21, 0x0F, 0x0C

Value = int | str | dict[str, str] | None


class _Reader(NumberReader):
    """Reads the primitive types of the protocol from an answer; raises struct.error at its end."""

    def string(self) -> str:
        return self._bytes(self.take("H")).decode()

    def value(self) -> bytes | None:
        size = self.take("i")
        return None if size < 0 else self._bytes(size)

    def _bytes(self, size: int) -> bytes:
        if self._at + size > len(self._data):
            raise ProtocolMismatch("the answer breaks off")
        self._at += size
        return self._data[self._at - size : self._at]


async def ask_options(connection: Connection) -> None:
    """Ask which options the node supports; it answers that before any authentication."""
    opcode, _ = await _exchange_frames(connection, _OPTIONS, b"")
    if opcode != _SUPPORTED:
        raise ProtocolMismatch(f"opcode {opcode:#04x} instead of SUPPORTED")


async def run_query(
    connection: Connection, cql: str, consistency: int = ONE, *, login: tuple[str, str] | None = None
) -> list[dict[str, Any]]:
    """Run ``cql`` on a fresh connection; returns the rows as dicts by column name.

    ``login``: role and password, for a node that asks for them (RFC 4616).

    Raises ProtocolMismatch with the node's reason. The reason contains UNAVAILABLE if the node takes too many replicas
    for down to reach ``consistency`` (ONE or ALL).
    """
    startup = struct.pack(">H", 1) + _encode_string("CQL_VERSION") + _encode_string("3.0.0")
    opcode, body = await _exchange_frames(connection, _STARTUP, startup)
    if opcode == _AUTHENTICATE and login is not None:
        token = "".join(f"\0{part}" for part in login).encode()
        opcode, body = await _exchange_frames(
            connection, _AUTH_RESPONSE, struct.pack(">i", len(token)) + token
        )
    if opcode not in (_READY, _AUTH_SUCCESS):
        raise ProtocolMismatch(_error_text(opcode, body))
    text = cql.encode()
    opcode, body = await _exchange_frames(
        connection, _QUERY, struct.pack(">i", len(text)) + text + struct.pack(">HB", consistency, 0)
    )
    if opcode != _RESULT:
        raise ProtocolMismatch(_error_text(opcode, body))
    return _read_rows(_Reader(body))


def _read_rows(reader: _Reader) -> list[dict[str, Any]]:
    if reader.take("i") != 2:
        raise ProtocolMismatch("the answer to the query has no rows")
    flags, count = reader.take("i"), reader.take("i")
    if flags != 0x0001:  # one keyspace and table for all columns; no paging state, metadata present
        raise ProtocolMismatch(f"unexpected flags {flags:#x} of the rows")
    reader.string(), reader.string()
    columns = [(reader.string(), _read_type(reader)) for _ in range(count)]
    return [
        {name: _decode_value(kind, reader.value()) for name, kind in columns} for _ in range(reader.take("i"))
    ]


def _read_type(reader: _Reader) -> int:
    kind = reader.take("H")
    if kind == _MAP and (reader.take("H"), reader.take("H")) != (_VARCHAR, _VARCHAR):
        raise ProtocolMismatch("only maps of text to text can be decoded")
    return kind


def _decode_value(kind: int, data: bytes | None) -> Value:
    if data is None:
        return None
    if kind == _INT:
        return int.from_bytes(data, "big", signed=True)
    if kind == _INET:
        return str(ipaddress.ip_address(data))
    if kind in (_UUID, _TIMEUUID):
        return str(uuid.UUID(bytes=data))
    if kind in (_VARCHAR, _ASCII):
        return data.decode()
    if kind == _MAP:
        reader = _Reader(data)
        items = [(reader.value() or b"").decode() for _ in range(2 * reader.take("i"))]
        return dict(zip(items[::2], items[1::2], strict=True))
    raise ProtocolMismatch(f"column type {kind:#x} can't be decoded")


def _error_text(opcode: int, body: bytes) -> str:
    if opcode == _AUTHENTICATE:
        return "the node requires authentication"
    if opcode == _ERROR:
        reader = _Reader(body)
        return f"error {reader.take('i'):#x}: {reader.string()}"
    return f"unexpected opcode {opcode:#04x}"


def _encode_string(text: str) -> bytes:
    return struct.pack(">H", len(text)) + text.encode()


async def _exchange_frames(connection: Connection, opcode: int, body: bytes) -> tuple[int, bytes]:
    """Send one frame; returns opcode and body of its answer."""
    stream_id = secrets.randbelow(2**15)
    connection.writer.write(struct.pack(">BBhBi", 0x04, 0, stream_id, opcode, len(body)) + body)
    version, flags, answered_id, answer, size = struct.unpack(
        ">BBhBi", await connection.reader.readexactly(9)
    )
    if version != 0x84 or answered_id != stream_id:
        raise ProtocolMismatch("not an answer in CQL's native protocol v4 to this question")
    if flags != 0 or not 0 <= size <= MAX_BYTES:
        raise ProtocolMismatch(f"flags {flags:#x}, {size} bytes announced")
    return answer, await connection.reader.readexactly(size)
