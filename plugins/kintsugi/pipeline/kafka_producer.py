"""Trades and dead letters into Kafka: an idempotent producer that waits for all in-sync replicas."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

from kintsugi.core.errors import NotAcknowledged

FLUSH_SECONDS = 120.0
PRODUCER = {
    "acks": "all",
    "enable_idempotence": True,
    "compression_type": "lz4",
    # A chunk ends with a flush, so waiting for fuller batches costs no latency: 20 ms made batches of 9 kB.
    "linger_ms": 250,
    "batch_size": 256 * 1024,
    "request_timeout_ms": 10_000,
    "delivery_timeout_ms": 90_000,
    "max_block_ms": 60_000,
    "reconnect_backoff_max_ms": 1_000,
    "metadata_max_age_ms": 10_000,
}


class Places:
    """Where the messages of one sender come to lie on a topic, by partition; kept in the order in which it sends.

    Of each partition only the first and the last message are remembered.
    """

    def __init__(self) -> None:
        self._ends: dict[int, tuple[Any, Any]] = {}

    def add(self, partition: int, sent: Any) -> None:
        """Note a message; ``sent``: what Kafka's client promises of it."""
        first, _ = self._ends.get(partition, (sent, sent))
        self._ends[partition] = (first, sent)

    def take(self) -> dict[int, tuple[int, int]]:
        """First offset, and the one after the last, by partition, of what was noted since the last call.

        To be called when all of it is acknowledged.
        """
        ends, self._ends = self._ends, {}
        return {
            partition: (first.get(timeout=0).offset, last.get(timeout=0).offset + 1)
            for partition, (first, last) in ends.items()
        }


class Producer:
    """An idempotent Kafka producer that waits for all in-sync replicas, and keeps the first failure."""

    def __init__(self, bootstrap: list[str]) -> None:
        from kafka import KafkaProducer
        from kafka.errors import KafkaError

        self._error: str | None = None
        self._partitions: dict[str, int] = {}
        try:
            self._client: Any = KafkaProducer(bootstrap_servers=bootstrap, **PRODUCER)
        except KafkaError as error:
            self._error = repr(error)
            raise self._refused() from error

    def _failed(self, error: Exception) -> None:
        self._error = self._error or repr(error)

    def send(
        self, topic: str, *, value: bytes, key: bytes | None = None, places: Places | None = None
    ) -> None:
        """Queue one message; ``places`` learns where it comes to lie.

        Raises NotAcknowledged when Kafka takes no more.
        """
        from kafka.errors import KafkaError

        if self._error is None:
            try:
                partition = None if key is None else partition_of(key, self._count(topic))
                sent = self._client.send(topic, value=value, key=key, partition=partition)
                sent.add_errback(self._failed)
                if places is not None and partition is not None:
                    places.add(partition, sent)
            except KafkaError as error:
                self._failed(error)
        if self._error is not None:
            raise self._refused()

    def _count(self, topic: str) -> int:
        """How many partitions the topic had when this producer first sent to it."""
        if topic not in self._partitions:
            self._partitions[topic] = len(self._client.partitions_for(topic))
        return self._partitions[topic]

    def flush(self, timeout: float = FLUSH_SECONDS) -> None:
        """Wait until Kafka has acknowledged everything that was sent.

        Raises NotAcknowledged if it hasn't after ``timeout`` seconds.
        """
        from kafka.errors import KafkaError

        try:
            self._client.flush(timeout=timeout)
        except KafkaError as error:
            self._failed(error)
        if self._error is not None:
            raise self._refused()

    def _refused(self) -> NotAcknowledged:
        return NotAcknowledged(
            f"Kafka did not acknowledge messages: {self._error}; "
            "the file goes on from its last chunk when it is ingested again"
        )

    def close(self) -> None:
        """Give up what is not acknowledged by now."""
        self._client.close(timeout=0 if self._error else 5)


@contextmanager
def producer(bootstrap: list[str]) -> Iterator[Producer]:
    """A Producer for a ``with`` block, closed at its end."""
    client = Producer(bootstrap)
    try:
        yield client
    finally:
        client.close()


@lru_cache(maxsize=65536)
def partition_of(key: bytes, partitions: int) -> int:
    """The partition that every Kafka client chooses for a key: murmur2 of it, modulo their number.

    Remembered, because kafka-python computes it in Python for each message: 10 of the 63 µs that a message costs it.
    """
    from kafka.partitioner import murmur2

    return int(murmur2(key) & 0x7FFFFFFF) % partitions
