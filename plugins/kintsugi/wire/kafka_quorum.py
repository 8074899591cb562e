"""Kafka's metadata quorum: who votes, and how to take a voter out or in.

Spoken directly to the leader's controller listener: a Kafka client has no such calls, and the command line
tool costs a JVM start for each. Formats: Kafka's message definitions DescribeQuorum v2 (KIP-853),
AddRaftVoter v0 and RemoveRaftVoter v0, all with flexible encoding (KIP-482).
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from uuid import UUID

from kintsugi.core.errors import StepFailed

_DESCRIBE_QUORUM, _ADD_VOTER, _REMOVE_VOTER = 55, 80, 81
_LISTENER = "CONTROLLER"
_TOPIC = "__cluster_metadata"
_MAX_ANSWER = 16 * 1024 * 1024

NONE, NOT_LEADER, REQUEST_TIMED_OUT, DUPLICATE_VOTER, VOTER_NOT_FOUND = 0, 6, 7, 126, 127


class QuorumError(StepFailed):
    """The quorum didn't do as asked; ``code`` is Kafka's error code, None when no answer came."""

    def __init__(self, text: str, code: int | None = None) -> None:
        super().__init__(text)
        self.code = code


@dataclass(frozen=True, slots=True)
class Replica:
    """One replica of the metadata log: broker ``node_id`` with the data directory ``directory``.

    ``end_offset`` is how far it has fetched, ``fetched_ms`` when it last did, by the leader's clock (-1 when
    the leader doesn't know).
    """

    node_id: int
    directory: UUID
    end_offset: int
    fetched_ms: int


@dataclass(frozen=True, slots=True)
class QuorumDescription:
    """The quorum as its leader sees it. Observers fetch the log, but don't vote."""

    leader_id: int
    high_watermark: int
    voters: tuple[Replica, ...]
    observers: tuple[Replica, ...]


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.data, self.position = data, 0

    def take(self, size: int) -> bytes:
        piece = self.data[self.position : self.position + size]
        if len(piece) != size:
            raise QuorumError("a controller's answer broke off; is it a Kafka 4 controller?")
        self.position += size
        return piece

    def number(self, form: str) -> int:
        value: int = struct.unpack(f">{form}", self.take(struct.calcsize(f">{form}")))[0]
        return value

    def length(self) -> int:
        """An unsigned variable-length integer."""
        value = shift = 0
        while True:
            byte = self.take(1)[0]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7

    def text(self) -> str:
        return self.take(max(self.length() - 1, 0)).decode()

    def items(self) -> range:
        return range(self.length() - 1)

    def tags(self) -> None:
        for _ in range(self.length()):
            self.length()
            self.take(self.length())

    def replicas(self) -> tuple[Replica, ...]:
        found = []
        for _ in self.items():
            node_id, directory = self.number("i"), UUID(bytes=self.take(16))
            end_offset, fetched_ms = self.number("q"), self.number("q")
            self.take(8)  # when it was last caught up
            self.tags()
            found.append(Replica(node_id, directory, end_offset, fetched_ms))
        return tuple(found)


def _length(value: int) -> bytes:
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])


def _text(value: str) -> bytes:
    return _length(len(value.encode()) + 1) + value.encode()


def _ask(address: str, key: int, version: int, body: bytes, timeout_s: float) -> _Reader:
    client = b"kintsugi"
    header = struct.pack(">hhih", key, version, 1, len(client)) + client + b"\0"
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=timeout_s) as connection:
            connection.sendall(struct.pack(">i", len(header + body)) + header + body)
            size = struct.unpack(">i", _receive(connection, 4))[0]
            if not 0 < size < _MAX_ANSWER:
                raise QuorumError(
                    f"the controller at {address} answers {size} bytes; is it a Kafka controller?"
                )
            reader = _Reader(_receive(connection, size))
    except OSError as error:
        raise QuorumError(f"the controller at {address} doesn't answer: {error}") from error
    reader.take(4)  # the number of the request
    reader.tags()
    return reader


def _receive(connection: socket.socket, size: int) -> bytes:
    received = bytearray()
    while len(received) < size:
        piece = connection.recv(size - len(received))
        if not piece:
            raise ConnectionError("it closed the connection")
        received += piece
    return bytes(received)


def describe_quorum(address: str, timeout_s: float = 5.0) -> QuorumDescription:
    """Ask the controller at ``address`` (``host:port``), which must lead; raises QuorumError."""
    body = _length(2) + _text(_TOPIC) + _length(2) + struct.pack(">i", 0) + b"\0\0\0"
    answer = _ask(address, _DESCRIBE_QUORUM, 2, body, timeout_s)
    code, _ = answer.number("h"), answer.text()
    if code == NONE and answer.items():
        answer.text()
        if answer.items():
            answer.take(4)
            code, _ = answer.number("h"), answer.text()
            if code == NONE:
                leader_id, _, high_watermark = answer.number("i"), answer.number("i"), answer.number("q")
                return QuorumDescription(leader_id, high_watermark, answer.replicas(), answer.replicas())
    raise QuorumError(f"the controller at {address} can't tell of the quorum (Kafka error {code})", code)


def find_leader(addresses: Iterable[str], timeout_s: float = 5.0) -> tuple[str, QuorumDescription]:
    """The one of these controllers that leads, and the quorum as it sees it; else raises QuorumError."""
    said = []
    for address in addresses:
        try:
            return address, describe_quorum(address, timeout_s)
        except QuorumError as error:
            said.append(str(error))
    raise QuorumError(f"no controller leads the quorum now: {'; '.join(said)}")


def remove_voter(leader: str, cluster_id: str, replica: Replica, timeout_s: float = 10.0) -> None:
    """Take a voter out; one that isn't there is no error. Raises QuorumError."""
    body = _text(cluster_id) + struct.pack(">i", replica.node_id) + replica.directory.bytes + b"\0"
    _change(leader, _REMOVE_VOTER, body, harmless=(VOTER_NOT_FOUND,), timeout_s=timeout_s)


def add_voter(leader: str, cluster_id: str, replica: Replica, endpoint: str, timeout_s: float = 10.0) -> None:
    """Make an observer a voter, reached at ``endpoint`` (``host:port``); one that is there is no error.

    Raises QuorumError, with REQUEST_TIMED_OUT when the observer hasn't caught up.
    """
    host, _, port = endpoint.rpartition(":")
    listener = _text(_LISTENER) + _text(host) + struct.pack(">H", int(port)) + b"\0"
    body = _text(cluster_id) + struct.pack(">ii", int(timeout_s * 1000), replica.node_id)
    body += replica.directory.bytes + _length(2) + listener + b"\0"
    _change(leader, _ADD_VOTER, body, harmless=(DUPLICATE_VOTER,), timeout_s=timeout_s + 2)


def _change(leader: str, key: int, body: bytes, harmless: Sequence[int], timeout_s: float) -> None:
    answer = _ask(leader, key, 0, body, timeout_s)
    answer.take(4)  # throttle time
    code, message = answer.number("h"), answer.text()
    if code != NONE and code not in harmless:
        raise QuorumError(
            f"the leader at {leader} refused: {message or 'no reason given'} (Kafka error {code})", code
        )
