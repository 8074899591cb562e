"""How the rival is tuned, and its rate from its batches. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any

from kintsugi.core.errors import StepFailed

CONCURRENT_WRITES = (16, 128)
BATCH_BYTES = (65_536, 262_144)
ROWS_PER_TRIGGER = (50_000,)
# To be warm; the start and the defaults; the variations; and all messages with the best.
DRAINS = 1 + 2 + len(CONCURRENT_WRITES) + len(BATCH_BYTES) + len(ROWS_PER_TRIGGER) + 1
COUNTED_BATCHES = 2


@dataclass(frozen=True, slots=True)
class RivalTuning:
    """``concurrent_writes`` and ``batch_bytes`` are the connector's settings, for each of Spark's tasks."""

    rows_per_trigger: int
    concurrent_writes: int
    batch_bytes: int

    def __str__(self) -> str:
        return (
            f"{self.rows_per_trigger} rows a trigger, {self.concurrent_writes} concurrent writes, "
            f"batches of {self.batch_bytes} bytes"
        )

    def to_json(self) -> dict[str, int]:
        return asdict(self)

    def to_options(self) -> dict[str, str]:
        """Return the connector's options of a write."""
        return {
            "spark.cassandra.output.concurrent.writes": str(self.concurrent_writes),
            "spark.cassandra.output.batch.size.bytes": str(self.batch_bytes),
        }

    def messages_to_measure(self, least: int, available: int) -> int:
        """Return how many messages give a rate: ``least``, but a batch more than the counted ones; if there are."""
        return min(available, max(least, (COUNTED_BATCHES + 1) * self.rows_per_trigger))


START = RivalTuning(20_000, 64, 16_384)
CONNECTORS_DEFAULTS = RivalTuning(20_000, 5, 1_024)


def vary_writes(best: RivalTuning) -> Iterator[RivalTuning]:
    """The same with fewer and with more writes under way."""
    return (replace(best, concurrent_writes=number) for number in CONCURRENT_WRITES)


def vary_batches(best: RivalTuning) -> Iterator[RivalTuning]:
    """The same with larger batches."""
    return (replace(best, batch_bytes=size) for size in BATCH_BYTES)


def vary_triggers(best: RivalTuning) -> Iterator[RivalTuning]:
    """The same with more rows a trigger."""
    return (replace(best, rows_per_trigger=rows) for rows in ROWS_PER_TRIGGER)


@dataclass(frozen=True, slots=True)
class RivalBatch:
    """A finished batch of the rival: ``end`` in seconds since 1970."""

    end: float
    rows: int


def read_batches(plain: Iterable[Sequence[Any]]) -> list[RivalBatch]:
    """Batches from Spark's reports (start as ISO 8601, milliseconds, rows); triggers without rows are none."""
    return [
        RivalBatch(datetime.fromisoformat(start).timestamp() + milliseconds / 1_000, rows)
        for start, milliseconds, rows in plain
        if rows
    ]


def rate_of_batches(batches: Sequence[RivalBatch]) -> float:
    """Rows a second from the end of the first batch to the end of the last, as the stream's own drain is measured.

    Raises StepFailed with fewer than two batches: then there is no such time.
    """
    if len(batches) < 2:
        raise StepFailed(f"{len(batches)} batches of the rival give no rate: give it more messages")
    return sum(batch.rows for batch in batches[1:]) / (batches[-1].end - batches[0].end)
