"""The backlog: how many messages wait for the stream, and how many more fit before Kafka's retention deletes them."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kintsugi.core.certificates import Principal
from kintsugi.core.client_tls import kafka_options
from kintsugi.core.settings import CONSUMER_GROUP, TOPIC

log = logging.getLogger(__name__)

# Bytes of a message on disk, if Kafka doesn't report the size of its logs: far more than a trade needs.
MESSAGE_BYTES = 1024
# The flow's sensor and the pager report a larger lag as a stream that can't keep up (`FlowRules`).
LAG_MESSAGES = 50_000
RETENTION_SHARE = 0.25


@dataclass(frozen=True, slots=True)
class Backlog:
    """The messages that wait for the stream at one moment, by partition: their number, and their bytes on disk.

    ``retention``: bytes that the topic's configuration keeps of each partition; None for no limit.
    """

    messages: dict[int, int]
    size: dict[int, int]
    retention: int | None

    @property
    def total(self) -> int:
        """Messages over all partitions."""
        return sum(self.messages.values())

    def room(self) -> int:
        """Return how many more messages may be sent now, to any partitions; 0 or less: wait.

        1. At most LAG_MESSAGES may wait for the stream, so that a trade is stored soon after it was sent.
        2. At most RETENTION_SHARE of the bytes that Kafka keeps of a partition may wait, so that no message is deleted
           before the stream reads it.
        """
        room = LAG_MESSAGES - self.total
        if self.retention is None:
            return room
        limit = RETENTION_SHARE * self.retention
        bytes_left = min((limit - size for size in self.size.values()), default=limit)
        return min(room, int(bytes_left / self._message_bytes()))

    def _message_bytes(self) -> float:
        return max(1.0, sum(self.size.values()) / self.total) if self.total else MESSAGE_BYTES

    def __str__(self) -> str:
        limit = "no limit" if self.retention is None else f"{self.retention / 2**20:.0f} MiB a partition"
        largest = max(self.size.values(), default=0) / 2**20
        return (
            f"{self.total:,} messages wait for the stream, at most {largest:.1f} MiB in a partition; "
            f"the topic's retention: {limit}"
        )


def backlog_of(
    begin: Mapping[int, int], end: Mapping[int, int], committed: Mapping[int, int], disk: Mapping[int, int],
    retention: int | None,
) -> Backlog:  # fmt: skip
    """Compute the backlog from offsets, by partition (``committed``: missing or negative where none was committed).

    ``disk``: bytes of each partition's log. The bytes that wait are their share by the number of messages.
    """
    messages, size = {}, {}
    for partition, last in end.items():
        first = begin.get(partition, 0)
        waiting = max(0, last - max(first, committed.get(partition, -1)))
        total = last - first
        messages[partition] = waiting
        log_size = disk.get(partition)
        if log_size is None:
            size[partition] = waiting * MESSAGE_BYTES
        else:
            size[partition] = log_size * waiting // total if total else 0
    return Backlog(messages, size, retention)


class BacklogGauge:
    """Reads the backlog from Kafka, and keeps its connections open."""

    def __init__(self, bootstrap: list[str], timeout_ms: int = 6_000) -> None:
        self._bootstrap = bootstrap
        self._timeout_ms = timeout_ms
        self._admin: Any = None

    def read(self) -> Backlog | None:
        """Return the backlog now; None when Kafka doesn't report it (no broker, no topic, no coordinator)."""
        from kafka.errors import KafkaError

        try:
            return self._read()
        except (KafkaError, KeyError, ValueError) as error:
            log.warning("Kafka doesn't report what waits for the stream: %r", error)
            self.close()
            return None

    def close(self) -> None:
        if self._admin is not None:
            self._admin.close()
            self._admin = None

    def _read(self) -> Backlog:
        from kafka import KafkaAdminClient, TopicPartition
        from kafka.admin import OffsetSpec

        if self._admin is None:
            self._admin = KafkaAdminClient(
                bootstrap_servers=self._bootstrap, request_timeout_ms=self._timeout_ms,
                bootstrap_timeout_ms=self._timeout_ms, **kafka_options(Principal.INGEST),
            )  # fmt: skip
        (topic,) = self._admin.describe_topics([TOPIC])
        parts = [TopicPartition(TOPIC, part["partition_index"]) for part in topic["partitions"]]
        if not parts:
            raise ValueError(f"there is no topic {TOPIC}")
        end = self._admin.list_partition_offsets(dict.fromkeys(parts, OffsetSpec.LATEST))
        begin = self._admin.list_partition_offsets(dict.fromkeys(parts, OffsetSpec.EARLIEST))
        groups = self._admin.list_group_offsets({CONSUMER_GROUP: parts})
        committed = groups.get(CONSUMER_GROUP, {})
        return backlog_of(
            {part.partition: begin[part].offset for part in parts},
            {part.partition: end[part].offset for part in parts},
            {part.partition: position.offset for part, position in committed.items()},
            self._read_log_sizes(), self._read_retention(),
        )  # fmt: skip

    def _read_log_sizes(self) -> dict[int, int]:
        """Return the bytes of each partition's log, by its largest replica; empty when a broker doesn't report them."""
        from kafka.errors import KafkaError

        sizes: dict[int, int] = {}
        try:
            for broker in self._admin.describe_log_dirs([TOPIC]):
                for folder in broker["log_dirs"]:
                    for topic in folder["topics"]:
                        if topic["name"] != TOPIC:
                            continue
                        for part in topic["partitions"]:
                            number = part["partition_index"]
                            sizes[number] = max(sizes.get(number, 0), part["partition_size"])
        except KafkaError as error:
            log.info("Kafka doesn't report the sizes of its logs: %r", error)
        return sizes

    def _read_retention(self) -> int | None:
        """Return the topic's ``retention.bytes``; None for no limit."""
        from kafka.admin import ConfigFilterType, ConfigResource, ConfigResourceType

        configs = self._admin.describe_configs(
            [ConfigResource(ConfigResourceType.TOPIC, TOPIC)], config_filter=ConfigFilterType.ALL
        )
        value = int(configs["topic"][TOPIC]["retention.bytes"]["value"])
        return None if value < 0 else value
