"""The consumer group of the stream: for any Kafka tool, and for a driver that has no checkpoint."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from kintsugi.settings import CONSUMER_GROUP, TOPIC

if TYPE_CHECKING:
    from kafka import KafkaConsumer

log = logging.getLogger(__name__)


def group_consumer(bootstrap: list[str]) -> KafkaConsumer:
    """A consumer that speaks for the stream's group without joining it: to read and commit its offsets."""
    from kafka import KafkaConsumer

    return KafkaConsumer(
        bootstrap_servers=bootstrap,
        group_id=CONSUMER_GROUP,
        enable_auto_commit=False,
        request_timeout_ms=6_000,
        reconnect_backoff_max_ms=1_000,
        metadata_max_age_ms=10_000,
    )


def starting_offsets(bootstrap: list[str]) -> str:
    """Spark's ``startingOffsets`` for a driver without a checkpoint: the group's offsets, else the beginning.

    A partition without a committed offset starts at its beginning. The answer is Spark's JSON, or
    ``earliest``.
    """
    from kafka import TopicPartition

    consumer = group_consumer(bootstrap)
    try:
        partitions = consumer.partitions_for_topic(TOPIC) or set()
        committed = {number: consumer.committed(TopicPartition(TOPIC, number)) for number in partitions}
    finally:
        consumer.close()
    if not any(offset is not None for offset in committed.values()):
        return "earliest"
    return json.dumps(
        {TOPIC: {str(n): -2 if offset is None else offset for n, offset in sorted(committed.items())}}
    )


class OffsetCommitter:
    """Commits the stream's offsets in a thread of its own.

    A dead group coordinator must not hold up the batches. Only the newest offsets matter; `offer`
    replaces what hasn't been committed yet. Not being committed is harmless (a driver without a
    checkpoint repeats more, and rows are upserts), so a failure is logged and tried again.
    """

    def __init__(self, bootstrap: list[str]) -> None:
        self._bootstrap = bootstrap
        self._offers: dict[int, int] = {}
        self._changed = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="offset-committer", daemon=True)
        self._thread.start()

    def offer(self, offsets: Mapping[int, int]) -> None:
        """Offsets (the next to read, by partition) whose rows are stored."""
        with self._changed:
            self._offers.update(offsets)
            self._changed.notify()

    def close(self, timeout: float = 5.0) -> None:
        """Commit what is offered, if it can be done within ``timeout`` seconds."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(timeout)

    def _run(self) -> None:
        consumer: Any = None
        while True:
            with self._changed:
                while not self._offers and not self._closing:
                    self._changed.wait()
                if not self._offers:
                    break
                offers, self._offers = self._offers, {}
            try:
                consumer = consumer or group_consumer(self._bootstrap)
                commit(consumer, offers)
            except Exception as error:  # noqa: BLE001 - whatever Kafka's client raises, the next offer is the retry
                log.warning("could not commit the offsets of %s: %r; will try again", CONSUMER_GROUP, error)
                with self._changed:
                    self._offers = offers | self._offers
                    if self._closing:
                        break
                    self._changed.wait(1.0)
        if consumer is not None:
            consumer.close()


def commit(consumer: KafkaConsumer, offsets: Mapping[int, int]) -> None:
    """Commit offsets (the next to read, by partition) for the consumer's group; raises KafkaError."""
    from kafka import TopicPartition
    from kafka.structs import OffsetAndMetadata

    consumer.commit(
        {
            TopicPartition(TOPIC, number): OffsetAndMetadata(offset, "", -1)
            for number, offset in offsets.items()
        },
        timeout_ms=6_000,
    )
