"""The state of the flow: the stream's lag, and the files that wait in S3."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kintsugi.core.certificates import Principal
from kintsugi.core.connections import data_sources, store_dsn
from kintsugi.core.fleet import Role
from kintsugi.core.s3_keys import S3Purpose
from kintsugi.core.settings import KAFKA_PORT, TOPIC, Settings
from kintsugi.db.ingest_ledger import IngestLedger
from kintsugi.pipeline.consumer_offsets import group_consumer, topic_partitions
from kintsugi.pipeline.object_listing import list_trade_files, select_waiting

if TYPE_CHECKING:
    from kintsugi.pipeline.object_listing import S3Object


@dataclass(frozen=True, slots=True)
class Lag:
    """Offsets by Kafka partition: the end and the beginning of the topic, and what the stream's group committed.

    ``committed``: None where the group never committed an offset.
    """

    end: dict[int, int]
    beginning: dict[int, int]
    committed: dict[int, int | None]

    @property
    def messages(self) -> int:
        """The number of messages that the stream hasn't stored yet."""
        total = 0
        for partition, end in self.end.items():
            beginning, position = self.beginning.get(partition, 0), self.committed.get(partition)
            total += max(0, end - (beginning if position is None else max(position, beginning)))
        return total

    @property
    def deleted(self) -> int:
        """The number of messages that Kafka deleted before the stream read them; the next driver reports them."""
        return sum(
            max(0, self.beginning.get(partition, 0) - position)
            for partition, position in self.committed.items()
            if position is not None
        )

    @property
    def stored(self) -> int:
        """The number of messages that are stored and still on the topic."""
        return sum(
            max(0, position - self.beginning.get(partition, 0))
            for partition, position in self.committed.items()
            if position is not None
        )


def read_lag(bootstrap: list[str]) -> Lag | None:
    """Read the stream's lag; None when Kafka doesn't report it (no broker, no topic, no coordinator)."""
    from kafka.errors import KafkaError

    try:
        consumer = group_consumer(bootstrap, Principal.PROBE)
    except KafkaError:
        return None
    try:
        partitions = topic_partitions(consumer, TOPIC)
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


def read_consumer_lag(bootstrap: list[str]) -> int | None:
    """Read how many messages in Kafka aren't stored yet; None when Kafka doesn't report it."""
    lag = read_lag(bootstrap)
    return None if lag is None else lag.messages


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The flow at one moment, in messages and files.

    ``stored``: messages that the stream has stored. ``lag``: messages that it hasn't stored yet. Both are None when
    Kafka doesn't report them. ``pending``: trade files in S3 that aren't ingested yet.
    """

    stored: int | None
    lag: int | None
    pending: int


def list_all_waiting_files(settings: Settings) -> list[S3Object]:
    """List the trade files in S3 that aren't ingested yet; raises what S3 and Postgres raise."""
    return select_waiting(
        list_trade_files(data_sources(settings, S3Purpose.MONITOR)), IngestLedger(store_dsn(settings))
    )


def read_snapshot(settings: Settings) -> Snapshot:
    """Read the state of the flow of this installation; raises what S3 and Postgres raise."""
    files = list_all_waiting_files(settings)
    lag = read_lag(settings.fleet.endpoints(Role.KAFKA, KAFKA_PORT))
    return Snapshot(lag.stored if lag else None, lag.messages if lag else None, len(files))
