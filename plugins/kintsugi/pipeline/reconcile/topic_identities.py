"""Read the identities of the trades on the topic, without joining a consumer group."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

from kintsugi.core.certificates import Principal
from kintsugi.core.client_tls import kafka_options
from kintsugi.core.errors import KintsugiError
from kintsugi.core.settings import TOPIC
from kintsugi.pipeline.consumer_offsets import topic_partitions
from kintsugi.pipeline.trade_identity import SYNTHETIC_SYMBOL

IDENTITY_BYTES = 16


def read_identities(bootstrap: list[str], start: Mapping[int, int] | None = None) -> Iterator[bytes]:
    """Yield the identities of the trades on the topic up to its current end, without synthetic trades.

    ``start``: offsets by partition; default: the beginning. A trade that was sent twice is yielded twice. Raises
    KintsugiError when Kafka can't be read.
    """
    from kafka.errors import KafkaError

    try:
        yield from _consume_identities(bootstrap, start)
    except KafkaError as error:
        raise KintsugiError(
            f"cannot read the topic {TOPIC} from {', '.join(bootstrap)}: {error!r}; check that the Kafka brokers are up"
        ) from error


def _consume_identities(bootstrap: list[str], start: Mapping[int, int] | None) -> Iterator[bytes]:
    from kafka import KafkaConsumer

    consumer = KafkaConsumer(
        bootstrap_servers=bootstrap,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        request_timeout_ms=10_000,
        **kafka_options(Principal.RECOVERY),
    )
    try:
        partitions = topic_partitions(consumer, TOPIC)
        ends = consumer.end_offsets(partitions)
        consumer.assign(partitions)
        for partition in partitions:
            if start is None:
                consumer.seek_to_beginning(partition)
            else:
                consumer.seek(partition, start.get(partition.partition, 0))
        synthetic = SYNTHETIC_SYMBOL.encode()
        while any(consumer.position(partition) < end for partition, end in ends.items()):
            for messages in consumer.poll(timeout_ms=1000, max_records=5000).values():
                identities = (parse_identity(m.value) for m in messages if m.key != synthetic)
                yield from (identity for identity in identities if identity is not None)
    finally:
        consumer.close()


def parse_identity(value: bytes | None) -> bytes | None:
    """Return the identity in a message of the topic, None if it has none.

    It is the first field of our own messages, so it is read without parsing the whole message.
    """
    try:
        if value is None:
            return None
        if value.startswith(b'{"trade_id":"') and value[45:46] == b'"':
            return bytes.fromhex(value[13:45].decode())
        identity = bytes.fromhex(json.loads(value)["trade_id"])
    except (ValueError, TypeError, KeyError, RecursionError):
        return None  # not one of our messages; the stream makes a dead letter of it
    return identity if len(identity) == IDENTITY_BYTES else None
