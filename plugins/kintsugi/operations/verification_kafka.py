"""Verify a recovered Kafka broker: it must lead a partition, accept a record with acks=all, and return it."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from kintsugi.core.certificates import Principal
from kintsugi.core.client_tls import kafka_options
from kintsugi.core.errors import StepFailed
from kintsugi.core.fleet import Fleet, Node, Role
from kintsugi.core.settings import KAFKA_PORT
from kintsugi.probes.peers import ask_peer
from kintsugi.wire import kafka as kafka_wire

if TYPE_CHECKING:
    from kafka import KafkaAdminClient

TOPIC = "kintsugi.verify"
TIMEOUT_MS = 5_000
RETENTION_MS = 3_600_000


def verify_kafka(fleet: Fleet, node: Node, deadline_s: float) -> str:
    """Make ``node`` lead its partition of the topic, write a record with acks=all, and read it back.

    Each broker is the preferred leader of a partition of its own; a broker that was added gets one here. Returns a
    sentence; raises StepFailed with what was missing last.
    """
    from kafka.errors import KafkaError

    brokers = fleet.of(Role.KAFKA)
    ends = time.monotonic() + deadline_s
    while True:
        try:
            with _admin_client(fleet) as admin:
                ids = [broker.index for broker in brokers]
                _ensure_topic(admin, ids)
                number = _own_partition(admin, node.index, ids)
                _prefer_leader(admin, number)
            _await_leader(node, number)
            offset = _write_and_read(fleet, node, number)
        except (KafkaError, StepFailed) as error:
            if time.monotonic() > ends:
                text = f"{type(error).__name__}: {error}" if isinstance(error, KafkaError) else str(error)
                raise StepFailed(
                    f"{node.name} is not verified after {deadline_s:.0f} s: {text}; read its kafka.log"
                ) from error
            time.sleep(0.5)
        else:
            return (
                f"{node.name} led {TOPIC}-{number}, accepted a record with acks=all at offset {offset} "
                "and returned it"
            )


def _admin_client(fleet: Fleet) -> KafkaAdminClient:
    from kafka import KafkaAdminClient

    return KafkaAdminClient(
        bootstrap_servers=fleet.endpoints(Role.KAFKA, KAFKA_PORT),
        request_timeout_ms=TIMEOUT_MS,
        bootstrap_timeout_ms=TIMEOUT_MS,
        **kafka_options(Principal.RECOVERY),
    )


def _ensure_topic(admin: KafkaAdminClient, ids: list[int]) -> None:
    """Create the topic if it is missing: one partition for each broker, three replicas, the broker itself first."""
    from kafka.errors import TopicAlreadyExistsError

    copies = min(3, len(ids))
    wanted = {n: [ids[(n + k) % len(ids)] for k in range(copies)] for n in range(len(ids))}
    spec: dict[str, Any] = {
        "assignments": wanted,
        "configs": {"retention.ms": str(RETENTION_MS), "min.insync.replicas": str(min(2, copies))},
    }
    if TOPIC in admin.list_topics():
        return
    with suppress(TopicAlreadyExistsError):  # another node is being verified at the same time
        admin.create_topics({TOPIC: spec}, timeout_ms=TIMEOUT_MS)


def _own_partition(admin: KafkaAdminClient, broker: int, ids: list[int]) -> int:
    """Return the partition whose preferred leader the broker is; adds one if there is none."""
    (topic,) = admin.describe_topics([TOPIC])
    preferred = {
        int(one["partition_index"]): one["replica_nodes"][0]
        for one in topic["partitions"]
        if one["replica_nodes"]
    }
    own = [number for number, leader in sorted(preferred.items()) if leader == broker]
    if own:
        return own[0]
    if not preferred:
        raise StepFailed(f"the partitions of {TOPIC} are not known yet")
    place, number = ids.index(broker), max(preferred) + 1
    replicas = [ids[(place + k) % len(ids)] for k in range(min(3, len(ids)))]
    admin.create_partitions({TOPIC: {"count": number + 1, "assignments": [replicas]}}, timeout_ms=TIMEOUT_MS)
    return number


def _prefer_leader(admin: KafkaAdminClient, number: int) -> None:
    """Make the preferred leader, which is the broker that is verified, lead the partition again."""
    preferred = 0
    admin.elect_leaders(preferred, {TOPIC: [number]}, timeout_ms=TIMEOUT_MS)  # no error if it leads already


def _await_leader(node: Node, number: int) -> None:
    told = asyncio.run(ask_peer(node, KAFKA_PORT, kafka_wire.read_partitions))
    if isinstance(told, str):
        raise StepFailed(f"it doesn't describe its partitions ({told})")
    replicas = told.get(f"{TOPIC}-{number}")
    if replicas is None or replicas.leader != node.index:
        raise StepFailed(f"it doesn't lead {TOPIC}-{number}")
    if len(replicas.in_sync) < min(2, len(replicas.assigned)):
        raise StepFailed(f"too few replicas of {TOPIC}-{number} are in sync with it")


def _write_and_read(fleet: Fleet, node: Node, number: int) -> int:
    """Produce to the partition with acks=all and read the same record from its leader; returns its offset."""
    import secrets

    from kafka import KafkaConsumer, KafkaProducer, TopicPartition

    text, part = f"{node.name} {secrets.token_hex(8)}".encode(), TopicPartition(TOPIC, number)
    broker = {
        "bootstrap_servers": [f"{node.address}:{KAFKA_PORT}"],
        "request_timeout_ms": TIMEOUT_MS,
        **kafka_options(Principal.RECOVERY),
    }
    producer = KafkaProducer(acks="all", **broker)
    try:
        offset = int(producer.send(TOPIC, text, partition=number).get(timeout=TIMEOUT_MS / 1000).offset)
    finally:
        producer.close(timeout=1)
    consumer = KafkaConsumer(enable_auto_commit=False, **broker)
    try:
        consumer.assign([part])
        consumer.seek(part, offset)
        records = consumer.poll(timeout_ms=TIMEOUT_MS, max_records=1).get(part, [])
    finally:
        consumer.close()
    if not records or records[0].value != text:
        raise StepFailed(f"the record at offset {offset} of {TOPIC}-{number} can't be read back")
    return offset
