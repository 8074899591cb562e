"""The quorum's messages, against the bytes of a real controller (Kafka 4.3.1) on a real socket."""

from __future__ import annotations

import re
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

import pytest

from kintsugi.wire.kafka import ReplicaState
from kintsugi.wire.kafka_quorum import (
    DUPLICATE_VOTER,
    NOT_LEADER,
    VOTER_NOT_FOUND,
    QuorumError,
    add_voter,
    describe_quorum,
    find_leader,
    remove_voter,
)

DIRECTORY = UUID("98b13d9e-a103-737f-851c-55e08a146835")
CLUSTER = "4-SdueuS946nqg_t0XddtA"
SECOND = ReplicaState(2, DIRECTORY, 0, 0, 0)


@contextmanager
def controller(*answers: bytes) -> Iterator[tuple[str, list[bytes]]]:
    """A socket that gives these answers, one a connection, with its correlation id; keeps the requests."""
    asked: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            for answer in answers:
                connection, _ = server.accept()
                with connection:
                    size = struct.unpack(">i", connection.recv(4, socket.MSG_WAITALL))[0]
                    asked.append(connection.recv(size, socket.MSG_WAITALL))
                    correlation_id = asked[-1][4:8]
                    connection.sendall(struct.pack(">i", len(answer)) + correlation_id + answer[4:])

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"127.0.0.1:{server.getsockname()[1]}", asked
        thread.join(5)


def replica(node_id: int, end: int) -> bytes:
    return (
        struct.pack(">i", node_id) + DIRECTORY.bytes + struct.pack(">qqq", end, 1000 + node_id, 900) + b"\0"
    )


def quorum(code: int = 0, voters: tuple[bytes, ...] = (), observers: tuple[bytes, ...] = ()) -> bytes:
    topic = bytes([19]) + b"__cluster_metadata"
    partition = struct.pack(">ih", 0, code) + b"\0" + struct.pack(">iiq", 2, 7, 733)
    partition += (
        bytes([len(voters) + 1]) + b"".join(voters) + bytes([len(observers) + 1]) + b"".join(observers)
    )
    return b"\0\0\0\1\0" + struct.pack(">h", 0) + b"\0" + b"\2" + topic + b"\2" + partition + b"\0\0\1\0"


def changed(code: int, message: bytes = b"\0") -> bytes:
    return b"\0\0\0\1\0" + struct.pack(">ih", 0, code) + message + b"\0"


def test_voters_and_observers_are_read_with_their_directories() -> None:
    answer = quorum(voters=(replica(1, 733), replica(2, 730)), observers=(replica(3, 12),))
    with controller(answer) as (address, asked):
        seen = describe_quorum(address)
    assert (seen.leader_id, seen.high_watermark) == (2, 733)
    assert seen.voters == (
        ReplicaState(1, DIRECTORY, 733, 1001, 900),
        ReplicaState(2, DIRECTORY, 730, 1002, 900),
    )
    assert seen.observers == (ReplicaState(3, DIRECTORY, 12, 1003, 900),)
    assert asked[0].startswith(struct.pack(">hh", 55, 2))


def test_the_leader_is_found_among_those_who_are_not_and_those_who_are_gone() -> None:
    with controller(quorum(code=NOT_LEADER)) as (follower, _), controller(quorum()) as (leader, _):
        assert find_leader(["127.0.0.1:1", follower, leader])[0] == leader


def test_without_a_leader_the_error_names_every_controller() -> None:
    with controller(quorum(code=NOT_LEADER)) as (follower, _), pytest.raises(QuorumError) as caught:
        find_leader(["127.0.0.1:1", follower])
    assert "127.0.0.1:1" in str(caught.value)
    assert follower in str(caught.value)
    assert re.search(rf"\b{NOT_LEADER}\b", str(caught.value).replace(follower, ""))


def test_a_voter_is_removed_by_node_and_directory() -> None:
    with controller(changed(0)) as (address, asked):
        remove_voter(address, CLUSTER, SECOND)
    assert asked[0].startswith(struct.pack(">hh", 81, 0))
    assert asked[0].endswith(
        bytes([len(CLUSTER) + 1]) + CLUSTER.encode() + struct.pack(">i", 2) + DIRECTORY.bytes + b"\0"
    )


def test_a_voter_is_added_with_its_controller_listener() -> None:
    with controller(changed(0)) as (address, asked):
        add_voter(address, CLUSTER, SECOND, "127.20.1.2:9093")
    listener = (
        b"\2" + bytes([11]) + b"CONTROLLER" + bytes([11]) + b"127.20.1.2" + struct.pack(">H", 9093) + b"\0\0"
    )
    assert asked[0].endswith(DIRECTORY.bytes + listener)


def test_what_is_done_already_is_no_error() -> None:
    with controller(changed(VOTER_NOT_FOUND), changed(DUPLICATE_VOTER)) as (address, _):
        remove_voter(address, CLUSTER, SECOND)
        add_voter(address, CLUSTER, SECOND, "127.20.1.2:9093")


def test_a_refusal_gives_the_leaders_reason() -> None:
    with (
        controller(changed(7, bytes([9]) + b"too slow")) as (address, _),
        pytest.raises(QuorumError) as caught,
    ):
        add_voter(address, CLUSTER, SECOND, "127.20.1.2:9093")
    assert "too slow" in str(caught.value)
    assert caught.value.code == 7


@pytest.mark.parametrize("size", range(5, len(quorum(voters=(replica(1, 1),)))))
def test_an_answer_that_breaks_off_is_no_stack_trace(size: int) -> None:
    with (
        controller(quorum(voters=(replica(1, 1),))[:size]) as (address, _),
        pytest.raises(QuorumError) as caught,
    ):
        describe_quorum(address)
    assert caught.value.code is None
    assert address in str(caught.value)


def test_a_controller_that_is_silent_or_gone_is_an_error_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(QuorumError) as caught:
            describe_quorum(address, timeout_s=0.2)
        assert isinstance(caught.value.__cause__, TimeoutError)
    with pytest.raises(QuorumError) as caught:
        describe_quorum(address)
    assert isinstance(caught.value.__cause__, ConnectionRefusedError)
