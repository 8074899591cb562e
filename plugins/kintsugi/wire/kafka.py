"""Read-only questions to one particular Kafka broker, spoken directly.

A Kafka client asks whichever broker it likes. Whoever wants *this* peer's view of another broker must speak
to this peer alone; and the triggerer and the confirmation of an incident can't wait for a client to load.
Formats: Kafka's protocol guide, ApiVersions v0, Metadata v1, DescribeQuorum v1,
DescribeTopicPartitions v0.
"""

from __future__ import annotations

import secrets
import struct
from dataclasses import dataclass, field

from kintsugi.wire.exchange import MAX_BYTES, Connection, NumberReader, ProtocolMismatch

_CLIENT = b"kintsugi"
_METADATA, _API_VERSIONS, _DESCRIBE_QUORUM, _DESCRIBE_PARTITIONS = 3, 18, 55, 75
_PAGE = 2000  # partitions in one answer; the broker's own limit


@dataclass(frozen=True, slots=True)
class Voter:
    """One member of the metadata quorum, as its leader sees it; times in ms since 1970 by the leader's clock.

    ``fetched_ms`` and ``caught_up_ms`` are -1 where the leader doesn't know (it was elected a moment ago).
    """

    node_id: int
    end_offset: int
    fetched_ms: int
    caught_up_ms: int


@dataclass(frozen=True, slots=True)
class Quorum:
    """The metadata quorum: its leader, its voters by node id (the leader is one), and who only listens.

    A broker that came back with an empty disk has a new directory id: until it is made a voter anew it is an
    observer, while the voter of the same node id is its dead predecessor.
    """

    leader_id: int
    voters: dict[int, Voter]
    observers: dict[int, Voter] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Replicas:
    """Who holds one partition, by node id; ``leader`` is -1 when there is none.

    ``eligible``: eligible leader replicas (KIP-966): out of sync, but known to hold all that was
    acknowledged.
    """

    leader: int
    assigned: frozenset[int]
    in_sync: frozenset[int]
    eligible: frozenset[int]

    @property
    def under_replicated(self) -> bool:
        return self.in_sync != self.assigned


class _Reader(NumberReader):
    """Reads Kafka's primitive types from an answer; raises struct.error at its end."""

    def skip(self, count: int) -> None:
        self._at += max(0, count)

    def varint(self) -> int:
        value = shift = 0
        while True:
            byte = self.take("B")
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7

    def text(self) -> str:
        """A compact string; empty when it is null."""
        size = max(0, self.varint() - 1)
        self._at += size
        return self._data[self._at - size : self._at].decode()

    def ids(self) -> frozenset[int]:
        """A compact list of node ids; empty when it is null."""
        return frozenset(self.take("i") for _ in range(self.varint() - 1))

    def tags(self) -> None:
        for _ in range(self.varint()):
            self.varint()
            self.skip(self.varint())


async def api_versions(connection: Connection) -> int:
    """How many APIs the broker speaks: every broker answers that, whatever else it can do (KIP-35)."""
    reader = _Reader(await _exchange(connection, _API_VERSIONS, 0, b""))
    _demand_no_error(reader.take("h"))
    return reader.take("i")


async def broker_ids(connection: Connection) -> set[int]:
    """The node ids of the brokers that this broker takes for alive (a fenced one isn't listed)."""
    reader = _Reader(await _exchange(connection, _METADATA, 1, struct.pack(">i", 0)))
    found: set[int] = set()
    for _ in range(reader.take("i")):
        found.add(reader.take("i"))
        reader.skip(reader.take("h"))  # host
        reader.skip(4)  # port
        reader.skip(reader.take("h"))  # rack, -1 when there is none
    return found


async def describe_quorum(connection: Connection) -> Quorum:
    """The quorum as its leader sees it; the broker forwards the question.

    Raises ProtocolMismatch on an error code.
    """
    name = b"__cluster_metadata"
    topic = bytes([len(name) + 1]) + name + b"\x02" + struct.pack(">i", 0) + b"\x00" + b"\x00"
    body = b"\x00" + b"\x02" + topic + b"\x00"  # tags of the header, one topic, tags of the request
    reader = _Reader(await _exchange(connection, _DESCRIBE_QUORUM, 1, body))
    reader.tags()
    _demand_no_error(reader.take("h"))
    if reader.varint() != 2:
        raise ProtocolMismatch("DescribeQuorum did not answer for one topic")
    reader.skip(reader.varint() - 1)
    if reader.varint() != 2:
        raise ProtocolMismatch("DescribeQuorum did not answer for one partition")
    reader.take("i")
    _demand_no_error(reader.take("h"))
    leader_id = reader.take("i")
    reader.skip(4 + 8)  # leader epoch, high watermark
    voters = [_voter(reader) for _ in range(reader.varint() - 1)]
    observers = [_voter(reader) for _ in range(reader.varint() - 1)]
    return Quorum(leader_id, {v.node_id: v for v in voters}, {v.node_id: v for v in observers})


def _voter(reader: _Reader) -> Voter:
    voter = Voter(reader.take("i"), reader.take("q"), reader.take("q"), reader.take("q"))
    reader.tags()
    return voter


async def partitions(connection: Connection) -> dict[str, Replicas]:
    """Every partition of every topic, internal ones too, as ``topic-partition`` → its replicas."""
    found: dict[str, Replicas] = {}
    cursor: tuple[str, int] | None = None
    while True:
        body = b"\x00" + b"\x01" + struct.pack(">i", _PAGE) + _cursor(cursor) + b"\x00"  # all topics
        reader = _Reader(await _exchange(connection, _DESCRIBE_PARTITIONS, 0, body))
        reader.tags()
        reader.skip(4)  # throttle time
        for _ in range(reader.varint() - 1):
            found.update(_topic(reader))
        if reader.take("b") < 0:
            return found
        cursor = (reader.text(), reader.take("i"))


def _cursor(cursor: tuple[str, int] | None) -> bytes:
    if cursor is None:
        return b"\xff"
    name = cursor[0].encode()
    size = len(name) + 1  # topic names have at most 249 bytes: one or two bytes of varint
    varint = bytes([size]) if size < 0x80 else bytes([size & 0x7F | 0x80, size >> 7])
    return b"\x01" + varint + name + struct.pack(">i", cursor[1]) + b"\x00"


def _topic(reader: _Reader) -> dict[str, Replicas]:
    _demand_no_error(reader.take("h"))
    name = reader.text()
    reader.skip(16 + 1)  # topic id, is it internal
    found = {}
    for _ in range(reader.varint() - 1):
        reader.skip(2)  # error code: no leader is no reason to leave the partition out
        number, leader = reader.take("i"), reader.take("i")
        reader.skip(4)  # leader epoch
        assigned, in_sync, eligible = reader.ids(), reader.ids(), reader.ids()
        reader.ids(), reader.ids()  # last known eligible, offline
        reader.tags()
        found[f"{name}-{number}"] = Replicas(leader, assigned, in_sync, eligible)
    reader.skip(4)  # authorized operations
    reader.tags()
    return found


def _demand_no_error(code: int) -> None:
    if code != 0:
        raise ProtocolMismatch(f"Kafka answered with error code {code}")


async def _exchange(connection: Connection, api: int, version: int, body: bytes) -> bytes:
    """Send one request; returns the answer after its correlation id."""
    correlation_id = secrets.randbelow(2**31)
    request = struct.pack(">hhih", api, version, correlation_id, len(_CLIENT)) + _CLIENT + body
    connection.writer.write(struct.pack(">i", len(request)) + request)
    (size,) = struct.unpack(">i", await connection.reader.readexactly(4))
    if not 4 <= size <= MAX_BYTES:
        raise ProtocolMismatch(f"not a Kafka answer: {size} bytes announced")
    answer = await connection.reader.readexactly(size)
    if struct.unpack_from(">i", answer) != (correlation_id,):
        raise ProtocolMismatch("the answer carries another correlation id")
    return answer[4:]
