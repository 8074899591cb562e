"""Send trades and dead letters to Kafka, by an idempotent producer that waits for all in-sync replicas."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

from kintsugi.core.certificates import Principal
from kintsugi.core.client_tls import kafka_options
from kintsugi.core.errors import NotAcknowledged

FLUSH_SECONDS = 120.0
PRODUCER = {
    "acks": "all",
    "enable_idempotence": True,
    "compression_type": "lz4",
    # A chunk ends with a flush, so a longer linger time costs no latency; with 20 ms, batches had only 9 kB.
    "linger_ms": 250,
    "batch_size": 256 * 1024,
    "request_timeout_ms": 10_000,
    "delivery_timeout_ms": 90_000,
    "max_block_ms": 60_000,
    "reconnect_backoff_max_ms": 1_000,
    "metadata_max_age_ms": 10_000,
}


class OffsetRanges:
    """The offsets of the messages that one sender sent to a topic, by partition.

    Messages are added in the order in which they are sent, so only the first and the last of each partition are kept.
    """

    def __init__(self) -> None:
        self._ends: dict[int, tuple[Any, Any]] = {}

    def add(self, partition: int, message: Any) -> None:
        """Add a message; ``message``: the future that Kafka's client returned for it."""
        first, _ = self._ends.get(partition, (message, message))
        self._ends[partition] = (first, message)

    def take(self) -> dict[int, tuple[int, int]]:
        """Return and forget, by partition, the first offset and the one after the last.

        Call it when all messages are acknowledged.
        """
        ends, self._ends = self._ends, {}
        return {
            partition: (first.get(timeout=0).offset, last.get(timeout=0).offset + 1)
            for partition, (first, last) in ends.items()
        }


class Producer:
    """An idempotent Kafka producer that waits for all in-sync replicas.

    After the first failure it only raises: `send` and `flush` name that failure.
    """

    def __init__(self, bootstrap: list[str], principal: Principal = Principal.INGEST) -> None:
        from kafka import KafkaProducer
        from kafka.errors import KafkaError

        self._error: str | None = None
        self._partitions: dict[str, int] = {}
        try:
            self._client: Any = KafkaProducer(
                bootstrap_servers=bootstrap, **PRODUCER, **kafka_options(principal)
            )
        except KafkaError as error:
            self._note_failure(error)
            self._raise_failure(error)

    def send(
        self, topic: str, *, value: bytes, key: bytes | None = None, offsets: OffsetRanges | None = None
    ) -> None:
        """Queue one message; its offset is added to ``offsets``. Raises NotAcknowledged when Kafka takes no more."""
        from kafka.errors import KafkaError

        if self._error is None:
            try:
                partition = None if key is None else partition_of(key, self._partition_count(topic))
                message = self._client.send(topic, value=value, key=key, partition=partition)
                message.add_errback(self._note_failure)
                if offsets is not None and partition is not None:
                    offsets.add(partition, message)
            except KafkaError as error:
                self._note_failure(error)
        self._raise_failure()

    def _partition_count(self, topic: str) -> int:
        """Return how many partitions the topic had when this producer first sent to it."""
        if topic not in self._partitions:
            self._partitions[topic] = len(self._client.partitions_for(topic))
        return self._partitions[topic]

    def flush(self, timeout: float = FLUSH_SECONDS) -> None:
        """Wait until Kafka has acknowledged all messages; raises NotAcknowledged after ``timeout`` seconds."""
        from kafka.errors import KafkaError

        try:
            self._client.flush(timeout=timeout)
        except KafkaError as error:
            self._note_failure(error)
        self._raise_failure()

    def _note_failure(self, error: Exception) -> None:
        self._error = self._error or repr(error)

    def _raise_failure(self, cause: Exception | None = None) -> None:
        if self._error is not None:
            raise NotAcknowledged(
                f"Kafka did not acknowledge messages: {self._error}; "
                "the file continues after its last chunk when it is ingested again"
            ) from cause

    def close(self) -> None:
        """Close the connections; messages that aren't acknowledged yet are dropped."""
        self._client.close(timeout=0 if self._error else 5)


@contextmanager
def open_producer(bootstrap: list[str], principal: Principal = Principal.INGEST) -> Iterator[Producer]:
    """Open a Producer for a ``with`` block; it is closed at the end of the block."""
    client = Producer(bootstrap, principal)
    try:
        yield client
    finally:
        client.close()


@lru_cache(maxsize=65536)
def partition_of(key: bytes, partitions: int) -> int:
    """Return the partition that every Kafka client chooses for a key: its murmur2 hash, modulo their number.

    Cached, because kafka-python computes it in Python: 10 of the 63 µs that it needs for a message.
    """
    from kafka.partitioner import murmur2

    return int(murmur2(key) & 0x7FFFFFFF) % partitions
