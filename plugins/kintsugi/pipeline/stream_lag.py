"""How the flow is doing: the stream's lag, and what still waits in S3."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kintsugi.core.connections import data_sources, store_dsn
from kintsugi.core.fleet import Role
from kintsugi.core.settings import KAFKA_PORT, TOPIC, Settings
from kintsugi.db.ingest_ledger import IngestLedger
from kintsugi.pipeline.consumer_offsets import group_consumer
from kintsugi.pipeline.object_listing import trade_files, unfinished

if TYPE_CHECKING:
    from kintsugi.pipeline.object_listing import S3Object


@dataclass(frozen=True, slots=True)
class Lag:
    """Messages by Kafka partition: the ends of the topic, and where the stream's group is (None: nowhere)."""

    end: dict[int, int]
    beginning: dict[int, int]
    committed: dict[int, int | None]

    @property
    def messages(self) -> int:
        """How many messages the stream has yet to store."""
        total = 0
        for partition, end in self.end.items():
            begins, at = self.beginning.get(partition, 0), self.committed.get(partition)
            total += max(0, end - (begins if at is None else max(at, begins)))
        return total

    @property
    def deleted(self) -> int:
        """How many messages Kafka has deleted before the stream came to them; the next driver records them."""
        return sum(
            max(0, self.beginning.get(partition, 0) - at)
            for partition, at in self.committed.items()
            if at is not None
        )

    @property
    def stored(self) -> int:
        """How many of the messages that the topic still holds are stored."""
        return sum(
            max(0, at - self.beginning.get(partition, 0))
            for partition, at in self.committed.items()
            if at is not None
        )


def lag(bootstrap: list[str]) -> Lag | None:
    """The stream's lag by partition; None when Kafka doesn't tell (no broker, no topic, no coordinator)."""
    from kafka import TopicPartition
    from kafka.errors import KafkaError

    try:
        consumer = group_consumer(bootstrap)
    except KafkaError:
        return None
    try:
        partitions = [TopicPartition(TOPIC, number) for number in consumer.partitions_for_topic(TOPIC) or ()]
        if not partitions:
            return None
        ends = consumer.end_offsets(partitions)
        beginnings = consumer.beginning_offsets(partitions)
        committed = {tp.partition: consumer.committed(tp) for tp in partitions}
    except KafkaError:
        return None
    finally:
        consumer.close()
    return Lag(
        {tp.partition: offset for tp, offset in ends.items()},
        {tp.partition: offset for tp, offset in beginnings.items()},
        committed,
    )


def consumer_lag(bootstrap: list[str]) -> int | None:
    """Messages that are in Kafka but not yet stored; None when Kafka doesn't tell."""
    found = lag(bootstrap)
    return None if found is None else found.messages


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The flow at one moment, all in messages or files.

    ``stored``: messages that the stream has stored, ``lag``: that it hasn't yet; both None when Kafka
    doesn't tell. ``pending``: trade files in S3 that aren't ingested yet.
    """

    stored: int | None
    lag: int | None
    pending: int


def waiting_files(settings: Settings) -> list[S3Object]:
    """The trade files in S3 that aren't ingested yet; raises what S3 and Postgres raise."""
    return unfinished(trade_files(data_sources(settings)), IngestLedger(store_dsn(settings)))


def snapshot(settings: Settings) -> Snapshot:
    """How far the flow of this installation is; raises what S3 and Postgres raise."""
    files = waiting_files(settings)
    found = lag(settings.fleet.endpoints(Role.KAFKA, KAFKA_PORT))
    return Snapshot(found.stored if found else None, found.messages if found else None, len(files))
