"""Questions to one broker, against answers on a real socket."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar
from uuid import UUID

import pytest
from kafka.protocol.admin import DescribeTopicPartitionsResponse
from kafka.protocol.metadata import ApiVersionsResponse, MetadataResponse

from kintsugi.wire.exchange import Connection, ProtocolMismatch, ask_endpoint
from kintsugi.wire.kafka import (
    Features,
    Quorum,
    Replicas,
    ReplicaState,
    count_apis,
    describe_quorum,
    read_broker_ids,
    read_features,
    read_partitions,
)

T = TypeVar("T")


def ask(
    question: Callable[[Connection], Awaitable[T]], *answers: bytes, shift: int = 0
) -> tuple[T, list[bytes]]:
    """The result of ``question`` to a broker with these answers, and its requests.

    ``shift``: by how much the correlation id of an answer differs from that of its request.
    """
    requests: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in answers:
            (size,) = struct.unpack(">i", await reader.readexactly(4))
            requests.append(await reader.readexactly(size))
            correlation_id = struct.unpack_from(">i", requests[-1], 4)[0] + shift
            writer.write(struct.pack(">ii", len(answer) + 4, correlation_id) + answer)
        await writer.drain()
        await reader.read()
        writer.close()

    async def converse() -> T:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            return await asyncio.wait_for(ask_endpoint("127.0.0.1", port, question), 10)

    return asyncio.run(converse()), requests


def quorum_answer(code: int = 0) -> bytes:
    """DescribeQuorum v2 by hand: leader 2, voters 1 and 2, observer 3."""

    def replica(node_id: int) -> bytes:
        times = struct.pack(">qqq", 700 + node_id, 1000 + node_id, 900)
        return struct.pack(">i", node_id) + UUID(int=node_id).bytes + times + b"\0"

    partition = struct.pack(">ih", 0, code) + b"\0" + struct.pack(">iiq", 2, 7, 733)
    partition += b"\3" + replica(1) + replica(2) + b"\2" + replica(3) + b"\0"
    return (
        b"\0"
        + struct.pack(">h", 0)
        + b"\0"
        + b"\2"
        + bytes([19])
        + b"__cluster_metadata"
        + b"\2"
        + partition
        + b"\0\1\0"
    )


def encoded(response: Any) -> bytes:
    """With the tags of a flexible response header before it."""
    tags = b"\0" if response.flexible_version_q(response.version) else b""
    return tags + bytes(response.encode())


def page(name: str, number: int, cursor: Any = None) -> bytes:
    topic = DescribeTopicPartitionsResponse.DescribeTopicPartitionsResponseTopic
    partition = topic.DescribeTopicPartitionsResponsePartition(
        version=0, error_code=5, partition_index=number, leader_id=1,
        replica_nodes=[1, 2], isr_nodes=[1], eligible_leader_replicas=None, offline_replicas=[],
    )  # fmt: skip
    topics = [topic(version=0, error_code=0, name=name, partitions=[partition])]
    return encoded(DescribeTopicPartitionsResponse(version=0, topics=topics, next_cursor=cursor))


def test_a_broker_counts_its_apis() -> None:
    count, requests = ask(count_apis, struct.pack(">hi", 0, 61))
    assert count == 61
    assert requests[0][:4] == struct.pack(">hh", 18, 0)


def test_the_live_brokers_are_read_from_the_metadata() -> None:
    broker = MetadataResponse.MetadataResponseBroker
    brokers = [broker(version=1, node_id=number, host="h", port=9092) for number in (1, 3)]
    ids, requests = ask(read_broker_ids, encoded(MetadataResponse(version=1, brokers=brokers, topics=[])))
    assert ids == {1, 3}
    assert requests[0][:4] == struct.pack(">hh", 3, 1)


def test_the_quorum_has_its_voters_and_observers() -> None:
    quorum, requests = ask(describe_quorum, quorum_answer())
    first, leader, observer = (
        ReplicaState(number, UUID(int=number), 700 + number, 1000 + number, 900) for number in (1, 2, 3)
    )
    assert quorum == Quorum(2, 733, (first, leader), (observer,))
    assert quorum.leader == leader
    assert requests[0][:4] == struct.pack(">hh", 55, 2)


def test_partitions_are_read_page_by_page() -> None:
    cursor = DescribeTopicPartitionsResponse.Cursor(version=0, topic_name="b", partition_index=4)
    partitions, requests = ask(read_partitions, page("a", 0, cursor), page("b", 4))
    replicas = Replicas(1, frozenset({1, 2}), frozenset({1}), frozenset())
    assert partitions == {"a-0": replicas, "b-4": replicas}
    assert replicas.under_replicated
    assert requests[1].endswith(b"\x01\x02b" + struct.pack(">i", 4) + b"\0\0")


@pytest.mark.parametrize("question", [describe_quorum, count_apis])
def test_an_error_code_is_a_mismatch(question: Any) -> None:
    answer = struct.pack(">hi", 35, 0) if question is count_apis else quorum_answer(code=6)
    with pytest.raises(ProtocolMismatch):
        ask(question, answer)


def test_lists_that_are_null_are_empty() -> None:
    """Kafka's protocol has null lists. A broker that sends them must not break the step that asks."""
    with pytest.raises(ProtocolMismatch, match="0 partitions"):
        ask(describe_quorum, b"\0" + struct.pack(">h", 0) + b"\0" + b"\0" + b"\1\0")
    partitions, _ = ask(read_partitions, b"\0" + struct.pack(">i", 0) + b"\0" + b"\xff" + b"\0")
    assert partitions == {}


@pytest.mark.parametrize("question", [describe_quorum, count_apis])
def test_an_answer_to_another_request_is_a_mismatch(question: Any) -> None:
    answer = struct.pack(">hi", 0, 61) if question is count_apis else quorum_answer()
    with pytest.raises(ProtocolMismatch):
        ask(question, answer, shift=1)


@pytest.mark.parametrize("size", range(len(quorum_answer())))
def test_an_answer_that_breaks_off_is_a_mismatch(size: int) -> None:
    with pytest.raises(ProtocolMismatch):
        ask(describe_quorum, quorum_answer()[:size])


def test_what_is_no_kafka_is_a_mismatch() -> None:
    async def ask_http() -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with server:
            await ask_endpoint("127.0.0.1", server.sockets[0].getsockname()[1], describe_quorum)

    with pytest.raises(ProtocolMismatch):
        asyncio.run(ask_http())


def test_a_broker_tells_the_features_that_it_knows_and_those_that_its_cluster_uses() -> None:
    answer = ApiVersionsResponse(
        version=4,
        error_code=0,
        api_keys=[],
        throttle_time_ms=0,
        supported_features=[
            ApiVersionsResponse.SupportedFeatureKey(
                version=4, name="metadata.version", min_version=7, max_version=33
            ),
            ApiVersionsResponse.SupportedFeatureKey(
                version=4, name="share.version", min_version=0, max_version=2
            ),
        ],
        finalized_features_epoch=3,
        finalized_features=[
            ApiVersionsResponse.FinalizedFeatureKey(
                version=4, name="metadata.version", max_version_level=30, min_version_level=7
            )
        ],
        zk_migration_ready=False,
    )
    features, requests = ask(read_features, bytes(answer.encode()))
    assert features == Features({"metadata.version": 33, "share.version": 2}, {"metadata.version": 30})
    assert requests[0][:4] == struct.pack(">hh", 18, 4)


def test_a_broker_that_refuses_to_tell_its_features_is_a_mismatch() -> None:
    with pytest.raises(ProtocolMismatch, match="35"):
        ask(read_features, struct.pack(">hi", 35, 0))
