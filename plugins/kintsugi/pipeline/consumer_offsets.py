"""The consumer group of the stream: for any Kafka tool, and for a driver that has no checkpoint."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kintsugi.core.settings import CONSUMER_GROUP, TOPIC

if TYPE_CHECKING:
    from kafka import KafkaConsumer, TopicPartition
    from pyarrow import Table

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


@dataclass(frozen=True, slots=True)
class LostRange:
    """Messages of a partition of the topic that Kafka deleted before they were stored: ``first`` to ``end`` - 1."""

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
class Start:
    """Where a driver begins to read, by partition, and what of the topic it will never see.

    ``log``: the first offset that Kafka holds, and the one after the last.
    """

    offsets: dict[int, int]
    lost: tuple[LostRange, ...] = ()
    log: dict[int, tuple[int, int]] = field(default_factory=dict)

    def can_serve(self, position: Mapping[int, int]) -> bool:
        """Whether Kafka still holds everything from this position on; False for no position at all."""
        held = [
            self.log[number][0] <= at <= self.log[number][1]
            for number, at in position.items()
            if number in self.log
        ]
        return bool(held) and all(held) and len(held) == len(position)

    def to_spark(self) -> str:
        """Spark's ``startingOffsets``."""
        if not self.offsets:
            return "earliest"
        return json.dumps({TOPIC: {str(number): at for number, at in sorted(self.offsets.items())}})


def clamp(position: Mapping[int, int | None], beginning: Mapping[int, int], end: Mapping[int, int]) -> Start:
    """The nearest start that the log can serve; all by partition.

    ``position``: the next offset to read, None where nobody ever committed one. ``beginning``, ``end``: the log's
    first offset and the one after its last.

    1. A position within the log stays.
    2. A position before the log's beginning moves to the beginning; what lies between is lost.
    3. Without a position the start is the beginning; what was deleted before it is lost, for nobody stored it.
    4. A position beyond the end is of a topic that was made anew: all of the log is unread.
    """
    offsets: dict[int, int] = {}
    lost: list[LostRange] = []
    for partition, begins in sorted(beginning.items()):
        at = position.get(partition) or 0
        beyond = at > end.get(partition, begins)
        offsets[partition] = begins if beyond else max(at, begins)
        if at < begins:
            lost.append(LostRange(partition, at, begins))
    log = {number: (begins, end.get(number, begins)) for number, begins in beginning.items()}
    return Start(offsets, tuple(lost), log)


def starting_offsets(bootstrap: list[str], checkpoint: Mapping[int, int] | None = None) -> Start:
    """Where the driver is to begin; raises KafkaError when Kafka doesn't tell.

    ``checkpoint``: the next offset to read by Spark's checkpoint, by partition, where there is one. The group's offset
    counts where it is further: both say that everything before is stored.
    """
    from kafka import TopicPartition

    consumer = group_consumer(bootstrap)
    try:
        partitions = [TopicPartition(TOPIC, number) for number in consumer.partitions_for_topic(TOPIC) or ()]
        committed = _committed(consumer, partitions, needed=not checkpoint)
        beginning = {tp.partition: at for tp, at in consumer.beginning_offsets(partitions).items()}
        end = {tp.partition: at for tp, at in consumer.end_offsets(partitions).items()}
    finally:
        consumer.close()
    return clamp(furthest(committed, checkpoint or {}), beginning, end)


def _committed(
    consumer: KafkaConsumer, partitions: list[TopicPartition], *, needed: bool
) -> dict[int, int | None]:
    """The group's offsets by partition; without ``needed``, none at all while the group's coordinator is away."""
    from kafka.errors import KafkaError

    try:
        return {tp.partition: consumer.committed(tp, timeout_ms=6_000) for tp in partitions}
    except KafkaError as error:
        if needed:
            raise
        log.warning(
            "the offsets of %s can't be read: %r; the checkpoint's count alone", CONSUMER_GROUP, error
        )
        return dict.fromkeys(tp.partition for tp in partitions)


def furthest(one: Mapping[int, int | None], other: Mapping[int, int]) -> dict[int, int | None]:
    """The larger offset of the two, by partition; None where neither knows one."""
    known = {**dict.fromkeys(one), **dict.fromkeys(other)}
    return {
        number: max((at for at in (one.get(number), other.get(number)) if at is not None), default=None)
        for number in known
    }


def checkpoint_position(checkpoint: Path) -> dict[int, int]:
    """The next offset to read by partition, after the last batch that Spark's checkpoint has as done; else empty.

    Spark writes the end offsets of batch n to ``offsets/<n>`` before the batch, and ``commits/<n>`` after it.
    Of the offset file, the line that is a JSON object with the topic's name counts.
    """
    done = [int(file.name) for file in (checkpoint / "commits").glob("[0-9]*") if file.name.isdigit()]
    planned = checkpoint / "offsets" / str(max(done, default=-1))
    if not planned.is_file():
        return {}
    for line in planned.read_text(errors="replace").splitlines():
        try:
            found = json.loads(line)
            return {int(number): int(at) for number, at in found[TOPIC].items()}
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
    return {}


def batch_ends(rows: Table) -> dict[int, int]:
    """The next offset to read by partition after these rows (columns ``partition offset``), one a message."""
    found = rows.group_by("partition").aggregate([("offset", "max")]).to_pydict()
    return {number: last + 1 for number, last in zip(found["partition"], found["offset_max"], strict=True)}


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
