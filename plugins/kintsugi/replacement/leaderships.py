"""What the other brokers report of the Kafka partitions of one broker: its leaderships, and the replicas beside it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from kintsugi.core.fleet import Fleet, Node
from kintsugi.core.settings import KAFKA_PORT
from kintsugi.probes.peers import ask_each
from kintsugi.wire.kafka import Replicas, read_partitions

Partitions = Mapping[str, Replicas]


async def describe_partitions_of(fleet: Fleet, node: Node) -> list[Partitions]:
    """Return every partition by ``topic-partition``, as each other broker that answers describes it."""
    return list((await ask_each(fleet.peers(node), KAFKA_PORT, read_partitions)).values())


def led_partitions(node_id: int, answers: Iterable[Partitions]) -> list[str]:
    """Return the partitions that broker ``node_id`` leads by any of the answers, sorted. Pure."""
    return sorted(
        {name for answer in answers for name, replicas in answer.items() if replicas.leader == node_id}
    )


def out_of_sync_without(node_id: int, answers: Iterable[Partitions]) -> list[str]:
    """Return the partitions of broker ``node_id`` of which another replica is out of sync by any answer. Pure.

    A broker's metadata may be late. So one answer is enough to count a replica as out of sync.
    """
    return sorted(
        {
            name
            for answer in answers
            for name, replicas in answer.items()
            if node_id in replicas.assigned and replicas.assigned - {node_id} - replicas.in_sync
        }
    )
