"""Identities of the trades on the topic, read without joining any group."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

from kintsugi.core.errors import KintsugiError
from kintsugi.core.settings import TOPIC
from kintsugi.pipeline.trade_identity import SYNTHETIC_SYMBOL

IDENTITY_BYTES = 16


def read_identities(bootstrap: list[str], start: Mapping[int, int] | None = None) -> Iterator[bytes]:
    """The identities of the trades on the topic, canaries aside, to its present end.

    ``start``: offsets by partition, or the beginning. One that was sent twice comes twice. Raises KintsugiError
    when Kafka can't be read.
    """
    from kafka.errors import KafkaError

    try:
        yield from _consume_identities(bootstrap, start)
    except KafkaError as error:
        raise KintsugiError(
            f"cannot read the topic {TOPIC} from {', '.join(bootstrap)}: {error!r}; are enough Kafka brokers up?"
        ) from error


def _consume_identities(bootstrap: list[str], start: Mapping[int, int] | None) -> Iterator[bytes]:
    from kafka import KafkaConsumer, TopicPartition

    consumer = KafkaConsumer(
        bootstrap_servers=bootstrap,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        request_timeout_ms=10_000,
    )
    try:
        partitions = [TopicPartition(TOPIC, n) for n in consumer.partitions_for_topic(TOPIC) or ()]
        ends = consumer.end_offsets(partitions)
        consumer.assign(partitions)
        for partition in partitions:
            if start is None:
                consumer.seek_to_beginning(partition)
            else:
                consumer.seek(partition, start.get(partition.partition, 0))
        canary = SYNTHETIC_SYMBOL.encode()
        while any(consumer.position(partition) < end for partition, end in ends.items()):
            for messages in consumer.poll(timeout_ms=1000, max_records=5000).values():
                found = (parse_identity(m.value) for m in messages if m.key != canary)
                yield from (identity for identity in found if identity is not None)
    finally:
        consumer.close()


def parse_identity(value: bytes | None) -> bytes | None:
    """The identity in a message of the topic; it is the first field, so it can be cut out. None: it has none."""
    try:
        if value is None:
            return None
        if value.startswith(b'{"trade_id":"') and value[45:46] == b'"':
            return bytes.fromhex(value[13:45].decode())
        identity = bytes.fromhex(json.loads(value)["trade_id"])
    except (ValueError, TypeError, KeyError, RecursionError):
        return None  # anybody may have put it there; the stream makes a dead letter of it
    return identity if len(identity) == IDENTITY_BYTES else None
