"""How much of the topic waits for the stream, and how much of it Kafka's retention leaves room for."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kintsugi.core.settings import CONSUMER_GROUP, TOPIC

log = logging.getLogger(__name__)

MESSAGE_BYTES = (
    1024  # of a message on disk, where Kafka doesn't tell the size of a log: far more than a trade takes
)
LAG_MESSAGES = 50_000
"""The watch of the flow and the pager take a larger lag for a stream that can't keep up (`FlowRules`)."""
RETENTION_SHARE = 0.25


@dataclass(frozen=True, slots=True)
class Backlog:
    """What waits for the stream at one moment, by partition, in messages and in bytes on disk.

    ``retention``: bytes that the topic's configuration keeps of each partition; None where it sets no limit.
    """

    messages: dict[int, int]
    size: dict[int, int]
    retention: int | None

    @property
    def total(self) -> int:
        """Messages over all partitions."""
        return sum(self.messages.values())

    def room(self) -> int:
        """How many messages more may be sent now, wherever their keys put them; 0 or less: wait.

        1. At most LAG_MESSAGES wait for the stream, so that a trade is stored soon after it was sent.
        2. At most RETENTION_SHARE of what Kafka keeps of a partition waits in it, so that nothing is deleted unread.
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
        kept = "no limit" if self.retention is None else f"{self.retention / 2**20:.0f} MiB a partition"
        largest = max(self.size.values(), default=0) / 2**20
        return (
            f"{self.total:,} messages wait for the stream, at most {largest:.1f} MiB in a partition; "
            f"the topic keeps {kept}"
        )


def backlog_of(
    begin: Mapping[int, int], end: Mapping[int, int], committed: Mapping[int, int], disk: Mapping[int, int],
    retention: int | None,
) -> Backlog:  # fmt: skip
    """The backlog from offsets, by partition (``committed`` lacks or is negative where nobody committed one).

    ``disk``: bytes of each partition's log; the share that waits is taken by the number of its messages.
    """
    messages, size = {}, {}
    for partition, ends in end.items():
        begins = begin.get(partition, 0)
        waits = max(0, ends - max(begins, committed.get(partition, -1)))
        held = ends - begins
        messages[partition] = waits
        known = disk.get(partition)
        size[partition] = waits * MESSAGE_BYTES if known is None else known * waits // held if held else 0
    return Backlog(messages, size, retention)


class BacklogGauge:
    """Reads the backlog from Kafka, over connections that it keeps."""

    def __init__(self, bootstrap: list[str], timeout_ms: int = 6_000) -> None:
        self._bootstrap = bootstrap
        self._timeout_ms = timeout_ms
        self._admin: Any = None

    def read(self) -> Backlog | None:
        """The backlog now; None when Kafka doesn't tell (no broker, no topic, no coordinator)."""
        from kafka.errors import KafkaError

        try:
            return self._read()
        except (KafkaError, KeyError, ValueError) as error:
            log.warning("Kafka doesn't tell what waits for the stream: %r", error)
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
                bootstrap_timeout_ms=self._timeout_ms,
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
            {part.partition: at.offset for part, at in committed.items()},
            self._disk(), self._retention(),
        )  # fmt: skip

    def _disk(self) -> dict[int, int]:
        """Bytes of the log of each partition, of its largest replica; empty when a broker doesn't tell."""
        from kafka.errors import KafkaError

        found: dict[int, int] = {}
        try:
            for broker in self._admin.describe_log_dirs([TOPIC]):
                for folder in broker["log_dirs"]:
                    for topic in folder["topics"]:
                        if topic["name"] != TOPIC:
                            continue
                        for part in topic["partitions"]:
                            number = part["partition_index"]
                            found[number] = max(found.get(number, 0), part["partition_size"])
        except KafkaError as error:
            log.info("no sizes of logs: %r", error)
        return found

    def _retention(self) -> int | None:
        """The topic's ``retention.bytes``; None for no limit."""
        from kafka.admin import ConfigFilterType, ConfigResource, ConfigResourceType

        found = self._admin.describe_configs(
            [ConfigResource(ConfigResourceType.TOPIC, TOPIC)], config_filter=ConfigFilterType.ALL
        )
        value = int(found["topic"][TOPIC]["retention.bytes"]["value"])
        return None if value < 0 else value
