"""When the stream counts as failed: a pure state machine over readings, and how a reading is taken.

1. Absent: the streaming application has been gone, or without a core, for 20 s. A driver that starts again from its
   checkpoint is back within that time.
2. Stalled: the application runs, there is lag, and no offset was committed for 90 s. The first batch after a cold start
   takes up to 23 s on an idle machine, and three times that on a busy one. A batch that loses its worker takes about
   11 s more. A restart of a stream that only warms up would make it start over.
3. Growing: the lag is above 50,000 messages and has only grown for 180 s.

A reading that failed counts for nothing: the nodes that should have answered have watches of their own.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import UTC, datetime

from kintsugi.core.certificates import Principal
from kintsugi.core.client_tls import kafka_options
from kintsugi.core.fleet import Fleet, Role
from kintsugi.core.observation import ProbeResult
from kintsugi.core.settings import CONSUMER_GROUP, KAFKA_PORT, TOPIC
from kintsugi.probes.stream import probe_stream


@dataclass(frozen=True, slots=True)
class FlowReading:
    """The stream at one moment (``at``, UTC). None means unknown.

    ``running``: the application is registered and holds cores. ``committed``, ``produced``: sums over the
    topic's partitions of the group's offsets and of the end offsets, in messages.
    """

    at: datetime
    running: bool | None
    committed: int | None
    produced: int | None
    detail: str = ""

    @property
    def lag(self) -> int | None:
        """Messages that are produced and not stored yet; None if unknown."""
        if self.produced is None or self.committed is None:
            return None
        return max(0, self.produced - self.committed)


@dataclass(frozen=True, slots=True)
class FlowRules:
    """Thresholds: times in seconds, lag in messages."""

    absent_s: float = 20.0
    stalled_s: float = 90.0
    growing_s: float = 180.0
    growing_lag: int = 50_000


@dataclass(frozen=True, slots=True)
class FlowFinding:
    """The stream counts as failed: ``symptom`` is absent, stalled or growing. Times UTC."""

    symptom: str
    first_failed_at: datetime
    detected_at: datetime
    evidence: tuple[str, ...]


@dataclass(slots=True)
class StreamProgressDetector:
    """What the watch remembers; it takes readings in order of time."""

    rules: FlowRules = field(default_factory=FlowRules)
    _absent_since: datetime | None = None
    _stuck_since: datetime | None = None
    _growing_since: datetime | None = None
    _committed: int = -1
    _lag: int = 0

    def observe(self, reading: FlowReading) -> FlowFinding | None:
        """Take the next reading; returns a finding as long as a rule is broken, else None."""
        self._note_application(reading)
        self._note_offsets(reading)
        at, rules = reading.at, self.rules
        if _seconds_since(self._absent_since, at) >= rules.absent_s:
            return _finding_of("absent", self._absent_since, reading, reading.detail)
        if _seconds_since(self._stuck_since, at) >= rules.stalled_s:
            sentence = f"{reading.lag} messages wait, and no offset was committed"
            return _finding_of("stalled", self._stuck_since, reading, sentence)
        if _seconds_since(self._growing_since, at) >= rules.growing_s:
            return _finding_of(
                "growing", self._growing_since, reading, f"the lag has grown to {reading.lag} messages"
            )
        return None

    def _note_application(self, reading: FlowReading) -> None:
        if reading.running is not None:
            self._absent_since = None if reading.running else self._absent_since or reading.at

    def _note_offsets(self, reading: FlowReading) -> None:
        lag = reading.lag
        if lag is None or reading.committed is None:
            return
        moved = reading.committed > self._committed
        idle = lag == 0 or moved or reading.running is False
        self._stuck_since = None if idle else self._stuck_since or reading.at
        grows = lag > self.rules.growing_lag and lag > self._lag
        self._growing_since = (self._growing_since or reading.at) if grows else None
        self._committed, self._lag = max(self._committed, reading.committed), lag


def _seconds_since(since: datetime | None, at: datetime) -> float:
    return -1.0 if since is None else (at - since).total_seconds()


def _finding_of(symptom: str, since: datetime | None, reading: FlowReading, sentence: str) -> FlowFinding:
    return FlowFinding(symptom, since or reading.at, reading.at, (sentence,))


async def read_flow(fleet: Fleet) -> FlowReading:
    """Take one reading within about 6 s; never raises on network trouble."""
    bootstrap = fleet.endpoints(Role.KAFKA, KAFKA_PORT)
    at = datetime.now(UTC)
    probe, offsets = await asyncio.gather(
        probe_stream(fleet.of(Role.SPARK_MASTER)[0]), asyncio.to_thread(read_offsets, bootstrap)
    )
    running = {ProbeResult.OK: True, ProbeResult.WRONG: False}.get(probe.answer)
    committed, produced = offsets or (None, None)
    return FlowReading(at, running, committed, produced, probe.detail)


def read_offsets(bootstrap: list[str], timeout_ms: int = 4000) -> tuple[int, int] | None:
    """Return the sums over the topic of the group's committed offsets and of the end offsets; None if unknown.

    A partition without a committed offset counts from its beginning. Blocks, because kafka-python does.
    """
    from kafka import KafkaAdminClient, TopicPartition
    from kafka.admin import OffsetSpec
    from kafka.errors import KafkaError

    try:
        admin = KafkaAdminClient(
            bootstrap_servers=bootstrap,
            request_timeout_ms=timeout_ms,
            bootstrap_timeout_ms=timeout_ms,
            **kafka_options(Principal.PROBE),
        )
    except KafkaError:
        return None
    try:
        (topic,) = admin.describe_topics([TOPIC])
        parts = [TopicPartition(TOPIC, part["partition_index"]) for part in topic["partitions"]]
        ends = admin.list_partition_offsets(dict.fromkeys(parts, OffsetSpec.LATEST))
        begins = admin.list_partition_offsets(dict.fromkeys(parts, OffsetSpec.EARLIEST))
        groups = admin.list_group_offsets({CONSUMER_GROUP: parts})
        committed = groups.get(CONSUMER_GROUP, {})
        stored = sum(max(_offset_of(committed.get(part)), begins[part].offset) for part in parts)
        return stored, sum(ends[part].offset for part in parts)
    except (KafkaError, ValueError, KeyError):
        return None
    finally:
        admin.close()


def _offset_of(committed: object) -> int:
    return int(getattr(committed, "offset", -1))
