"""The offsets of the stream's consumer group: read by any Kafka tool, and by a driver without a checkpoint."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kintsugi.core.certificates import Principal
from kintsugi.core.client_tls import kafka_options
from kintsugi.core.settings import CONSUMER_GROUP, TOPIC

if TYPE_CHECKING:
    from kafka import KafkaConsumer, TopicPartition
    from pyarrow import Table

log = logging.getLogger(__name__)

METADATA_REQUESTS = 3  # a topic that none of them names doesn't exist


def topic_partitions(consumer: KafkaConsumer, topic: str) -> list[TopicPartition]:
    """Return the topic's partitions in their order; raises UnknownTopicOrPartitionError when Kafka names none.

    kafka-python 3.0 takes the answer to an older request, one without the topic, as the answer to this one when the
    two cross: so an answer without partitions is believed only after several requests.
    """
    from kafka import TopicPartition
    from kafka.errors import UnknownTopicOrPartitionError

    for _ in range(METADATA_REQUESTS):
        if numbers := consumer.partitions_for_topic(topic):
            return [TopicPartition(topic, number) for number in sorted(numbers)]
    raise UnknownTopicOrPartitionError(f"Kafka doesn't know the topic {topic}")


def group_consumer(bootstrap: list[str], principal: Principal = Principal.STREAM) -> KafkaConsumer:
    """Return a consumer that reads and commits the offsets of the stream's group, and doesn't join the group."""
    from kafka import KafkaConsumer

    return KafkaConsumer(
        bootstrap_servers=bootstrap,
        group_id=CONSUMER_GROUP,
        enable_auto_commit=False,
        request_timeout_ms=6_000,
        reconnect_backoff_max_ms=1_000,
        metadata_max_age_ms=10_000,
        **kafka_options(principal),
    )


@dataclass(frozen=True, slots=True)
class LostRange:
    """Offsets of a partition, ``first`` to ``end`` - 1, whose messages Kafka deleted before they were stored."""

    partition: int
    first: int
    end: int

    @property
    def messages(self) -> int:
        return self.end - self.first

    def __str__(self) -> str:
        return (
            f"partition {self.partition}: offsets {self.first} to {self.end - 1} ({self.messages} messages)"
        )


@dataclass(frozen=True, slots=True)
class StartPosition:
    """The offsets from which a driver reads, by partition, and the messages that it can't read any more.

    ``log``: by partition, the first offset that Kafka holds, and the one after the last.
    """

    offsets: dict[int, int]
    lost: tuple[LostRange, ...] = ()
    log: dict[int, tuple[int, int]] = field(default_factory=dict)

    def can_serve(self, position: Mapping[int, int]) -> bool:
        """Whether Kafka still holds everything from this position on; False for an empty position."""
        return bool(position) and all(
            number in self.log and self.log[number][0] <= offset <= self.log[number][1]
            for number, offset in position.items()
        )

    def to_spark(self) -> str:
        """Return Spark's ``startingOffsets``."""
        if not self.offsets:
            return "earliest"
        return json.dumps({TOPIC: {str(number): offset for number, offset in sorted(self.offsets.items())}})


def nearest_start(
    position: Mapping[int, int | None], beginning: Mapping[int, int], end: Mapping[int, int]
) -> StartPosition:
    """Return the start that Kafka can serve and that is nearest to ``position``; all by partition.

    ``position``: the next offset to read, None where none was ever committed. ``beginning``, ``end``: the log's
    first offset and the one after its last.

    1. A position within the log stays.
    2. A position before the log's beginning moves to the beginning; the offsets between them are lost.
    3. Without a position the start is the beginning; the offsets before it are lost, because none was stored.
    4. A position after the end belongs to a topic that was deleted and created again: all of the log is unread.
    """
    offsets: dict[int, int] = {}
    lost: list[LostRange] = []
    for partition, first in sorted(beginning.items()):
        offset = position.get(partition) or 0
        is_after_end = offset > end.get(partition, first)
        offsets[partition] = first if is_after_end else max(offset, first)
        if offset < first:
            lost.append(LostRange(partition, offset, first))
    log = {number: (first, end.get(number, first)) for number, first in beginning.items()}
    return StartPosition(offsets, tuple(lost), log)


def starting_offsets(bootstrap: list[str], checkpoint: Mapping[int, int] | None = None) -> StartPosition:
    """Return where the driver must start; raises KafkaError when Kafka doesn't report its offsets.

    ``checkpoint``: the next offset to read by Spark's checkpoint, by partition, if there is one. By partition, the
    larger offset of the checkpoint and the group counts: both mean that everything before it is stored.
    """
    consumer = group_consumer(bootstrap)
    try:
        partitions = topic_partitions(consumer, TOPIC)
        committed = _read_committed(consumer, partitions, needed=not checkpoint)
        beginning = {tp.partition: at for tp, at in consumer.beginning_offsets(partitions).items()}
        end = {tp.partition: at for tp, at in consumer.end_offsets(partitions).items()}
    finally:
        consumer.close()
    return nearest_start(furthest_offsets(committed, checkpoint or {}), beginning, end)


def _read_committed(
    consumer: KafkaConsumer, partitions: list[TopicPartition], *, needed: bool
) -> dict[int, int | None]:
    """Read the group's offsets by partition; unless ``needed``, all are None if the coordinator doesn't answer."""
    from kafka.errors import KafkaError

    try:
        return {tp.partition: consumer.committed(tp, timeout_ms=6_000) for tp in partitions}
    except KafkaError as error:
        if needed:
            raise
        log.warning("the offsets of %s can't be read: %r; only the checkpoint counts", CONSUMER_GROUP, error)
        return dict.fromkeys(tp.partition for tp in partitions)


def furthest_offsets(
    committed: Mapping[int, int | None], checkpoint: Mapping[int, int]
) -> dict[int, int | None]:
    """Return the larger offset of the two, by partition; None where neither has one."""
    return {
        number: max(
            (offset for offset in (committed.get(number), checkpoint.get(number)) if offset is not None),
            default=None,
        )
        for number in {**dict.fromkeys(committed), **checkpoint}
    }


def checkpoint_position(checkpoint: Path) -> dict[int, int]:
    """Return the next offset to read, by partition, after the last finished batch of Spark's checkpoint; else empty.

    Spark writes the end offsets of batch n to ``offsets/<n>`` before the batch, and ``commits/<n>`` after it.
    The line of the offset file that counts is the JSON object with the topic's name.
    """
    finished = [int(file.name) for file in (checkpoint / "commits").glob("[0-9]*") if file.name.isdigit()]
    offsets_file = checkpoint / "offsets" / str(max(finished, default=-1))
    if not offsets_file.is_file():
        return {}
    for line in offsets_file.read_text(errors="replace").splitlines():
        try:
            return {int(number): int(offset) for number, offset in json.loads(line)[TOPIC].items()}
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
    return {}


def batch_ends(rows: Table) -> dict[int, int]:
    """Return the next offset to read, by partition, after these rows (columns ``partition offset``)."""
    last = rows.group_by("partition").aggregate([("offset", "max")]).to_pydict()
    return {number: offset + 1 for number, offset in zip(last["partition"], last["offset_max"], strict=True)}


class OffsetCommitter:
    """Commits the stream's offsets in a thread of its own.

    A dead group coordinator must not delay the batches. Only the newest offsets matter: `offer` replaces those that
    weren't committed yet. A missing commit does no harm: a driver without a checkpoint repeats more batches, and their
    rows are upserts. So a failure is logged, and the commit is tried again.
    """

    def __init__(self, bootstrap: list[str]) -> None:
        self._bootstrap = bootstrap
        self._offers: dict[int, int] = {}
        self._changed = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="offset-committer", daemon=True)
        self._thread.start()

    def offer(self, offsets: Mapping[int, int]) -> None:
        """Queue offsets (the next to read, by partition) whose rows are stored."""
        with self._changed:
            self._offers.update(offsets)
            self._changed.notify()

    def close(self, timeout: float = 5.0) -> None:
        """Commit the queued offsets if that takes at most ``timeout`` seconds, and end the thread."""
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
                commit_offsets(consumer, offers)
            except Exception as error:  # noqa: BLE001 - whatever Kafka's client raises, it is tried again
                log.warning("could not commit the offsets of %s: %r; trying again", CONSUMER_GROUP, error)
                with self._changed:
                    self._offers = offers | self._offers
                    if self._closing:
                        break
                    self._changed.wait(1.0)
        if consumer is not None:
            consumer.close()


def commit_offsets(consumer: KafkaConsumer, offsets: Mapping[int, int]) -> None:
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
