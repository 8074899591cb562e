"""Read-only questions to one particular Kafka broker.

A Kafka client chooses the broker that it asks. A question for the view of *this* broker needs a connection to this
broker alone, without waiting for a client to start. The messages are kafka-python's, loaded at the first question that
needs them: ApiVersions, which each probe asks every second, does without.
"""

from __future__ import annotations

import secrets
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from kintsugi.wire.exchange import MAX_BYTES, Connection, ProtocolMismatch

CLIENT = "kintsugi"
METADATA_TOPIC = "__cluster_metadata"
METADATA_FEATURE = "metadata.version"
_API_VERSIONS = 18
# What kafka-python raises for bytes that are no message of the expected type.
_DECODE_ERRORS = (struct.error, IndexError, KeyError, OverflowError, TypeError, ValueError)


@dataclass(frozen=True, slots=True)
class ReplicaState:
    """One replica of the metadata log, as the quorum's leader sees it: broker ``node_id`` with its data ``directory``.

    ``end_offset`` is how far it has fetched. ``fetched_ms`` is when it last did, and ``caught_up_ms`` when it last had
    all: ms since 1970 by the leader's clock, -1 where the leader doesn't know (it was elected a moment ago).
    """

    node_id: int
    directory: UUID
    end_offset: int
    fetched_ms: int
    caught_up_ms: int


@dataclass(frozen=True, slots=True)
class Quorum:
    """The metadata quorum as its leader sees it. The leader is a voter. Observers fetch the log, but don't vote.

    A broker that came back with an empty disk has a new directory id. It is an observer until it is made a voter, while
    the voter of the same node id is its dead predecessor. So a node id may stand in it more than once.
    """

    leader_id: int
    high_watermark: int
    voters: tuple[ReplicaState, ...]
    observers: tuple[ReplicaState, ...] = ()

    @classmethod
    def from_partition(cls, partition: Any) -> Quorum:
        """Return the quorum that a ``DescribeQuorumResponse.PartitionData`` without an error code describes."""
        return cls(
            partition.leader_id,
            partition.high_watermark,
            _replica_states(partition.current_voters),
            _replica_states(partition.observers),
        )

    @property
    def leader(self) -> ReplicaState | None:
        return next((voter for voter in self.voters if voter.node_id == self.leader_id), None)


@dataclass(frozen=True, slots=True)
class Replicas:
    """The replicas of one partition, by node id; ``leader`` is -1 when there is none.

    ``eligible``: eligible leader replicas (KIP-966): out of sync, but they are known to hold all acknowledged messages.
    """

    leader: int
    assigned: frozenset[int]
    in_sync: frozenset[int]
    eligible: frozenset[int]

    @property
    def under_replicated(self) -> bool:
        return self.in_sync != self.assigned


@dataclass(frozen=True, slots=True)
class Features:
    """Levels of Kafka's features by name, as one broker tells them. METADATA_FEATURE decides what its disk looks like.

    ``supported``: the highest level that this broker's program knows, so it tells one version of Kafka from another.
    ``finalized``: the level that the cluster uses.
    """

    supported: Mapping[str, int]
    finalized: Mapping[str, int]


async def count_apis(connection: Connection) -> int:
    """Return how many APIs the broker supports: every broker answers that in any state (KIP-35)."""
    correlation_id = secrets.randbelow(2**31)
    header = struct.pack(">hhih", _API_VERSIONS, 0, correlation_id, len(CLIENT)) + CLIENT.encode()
    response = await _exchange_frames(connection, struct.pack(">i", len(header)) + header)
    response_id, error_code, count = struct.unpack_from(">ihi", response)
    _require_correlation(response_id, correlation_id)
    require_success(error_code)
    return int(count)


async def read_features(connection: Connection) -> Features:
    """Return the features that this broker knows, and those that its cluster uses (KIP-584).

    Raises ProtocolMismatch on an error code.
    """
    from kafka.protocol.metadata import ApiVersionsRequest, ApiVersionsResponse

    # Since version 4 a broker also tells features whose lowest level is 0.
    request = ApiVersionsRequest(version=4, client_software_name=CLIENT, client_software_version="1")
    response = await exchange_messages(connection, request, ApiVersionsResponse)
    require_success(response.error_code)
    return Features(
        {one.name: one.max_version for one in response.supported_features or ()},
        {one.name: one.max_version_level for one in response.finalized_features or ()},
    )


async def read_broker_ids(connection: Connection) -> set[int]:
    """Return the node ids of the brokers that this broker takes for live (a fenced one isn't listed)."""
    from kafka.protocol.metadata import MetadataRequest, MetadataResponse

    response = await exchange_messages(connection, MetadataRequest(version=1, topics=[]), MetadataResponse)
    return {broker.node_id for broker in response.brokers or ()}


async def describe_quorum(connection: Connection) -> Quorum:
    """Return the quorum as its leader sees it; the broker forwards the question.

    Raises ProtocolMismatch on an error code.
    """
    partition = await read_quorum(connection)
    require_success(partition.error_code)
    return Quorum.from_partition(partition)


async def read_quorum(connection: Connection) -> Any:
    """Return ``DescribeQuorumResponse.PartitionData`` of the metadata log, whatever its error code is.

    Raises ProtocolMismatch when there is none.
    """
    from kafka.protocol.admin import DescribeQuorumRequest, DescribeQuorumResponse

    topic = DescribeQuorumRequest.TopicData
    partition = topic.PartitionData(partition_index=0)
    request = DescribeQuorumRequest(
        version=2, topics=[topic(topic_name=METADATA_TOPIC, partitions=[partition])]
    )
    response = await exchange_messages(connection, request, DescribeQuorumResponse)
    require_success(response.error_code)
    partitions = [partition for topic in response.topics or () for partition in topic.partitions or ()]
    if len(partitions) != 1:
        raise ProtocolMismatch(f"DescribeQuorum answered for {len(partitions)} partitions instead of one")
    return partitions[0]


def _replica_states(states: Iterable[Any]) -> tuple[ReplicaState, ...]:
    return tuple(
        ReplicaState(
            state.replica_id,
            state.replica_directory_id,
            state.log_end_offset,
            state.last_fetch_timestamp,
            state.last_caught_up_timestamp,
        )
        for state in states
    )


async def read_partitions(connection: Connection) -> dict[str, Replicas]:
    """Return the replicas of every partition by ``topic-partition``, those of internal topics too."""
    from kafka.protocol.admin import DescribeTopicPartitionsRequest, DescribeTopicPartitionsResponse

    replicas: dict[str, Replicas] = {}
    cursor: Any = None
    while True:
        page = None if cursor is None else DescribeTopicPartitionsRequest.Cursor(
            topic_name=cursor.topic_name, partition_index=cursor.partition_index
        )  # fmt: skip
        request = DescribeTopicPartitionsRequest(version=0, topics=[], cursor=page)  # no topics: all of them
        response = await exchange_messages(connection, request, DescribeTopicPartitionsResponse)
        for topic in response.topics or ():
            require_success(topic.error_code)
            # The error code of a partition doesn't matter: one without a leader is listed too.
            replicas |= {
                f"{topic.name}-{one.partition_index}": _replicas_of(one) for one in topic.partitions or ()
            }
        cursor = response.next_cursor
        if cursor is None:
            return replicas


def _replicas_of(partition: Any) -> Replicas:
    return Replicas(
        partition.leader_id,
        frozenset(partition.replica_nodes),
        frozenset(partition.isr_nodes),
        frozenset(partition.eligible_leader_replicas or ()),
    )


def require_success(code: int) -> None:
    """Raise ProtocolMismatch for an error code of Kafka."""
    if code != 0:
        raise ProtocolMismatch(f"Kafka answered with error code {code}")


async def exchange_messages(connection: Connection, request: Any, response_type: Any) -> Any:
    """Send a request of kafka-python, which has its version; returns the response, an object of ``response_type``.

    Raises ProtocolMismatch when the answer is no such response.
    """
    correlation_id = secrets.randbelow(2**31)
    request.with_header(correlation_id=correlation_id, client_id=CLIENT)
    answer = await _exchange_frames(connection, request.encode(header=True, framed=True))
    try:
        response = response_type.decode(answer, version=request.API_VERSION, header=True)
    except _DECODE_ERRORS as error:
        raise ProtocolMismatch(f"the answer is no {response_type.__name__}: {error}") from error
    _require_correlation(response.header.correlation_id, correlation_id)
    return response


async def _exchange_frames(connection: Connection, request: bytes) -> bytes:
    """Send a request with its length before it; returns the answer without its length."""
    connection.writer.write(request)
    (size,) = struct.unpack(">i", await connection.reader.readexactly(4))
    if not 4 <= size <= MAX_BYTES:
        raise ProtocolMismatch(f"not a Kafka answer: {size} bytes announced")
    return await connection.reader.readexactly(size)


def _require_correlation(answered_id: int, correlation_id: int) -> None:
    if answered_id != correlation_id:
        raise ProtocolMismatch("the answer has another correlation id")
