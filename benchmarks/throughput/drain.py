"""How fast the stream drains messages that wait in Kafka, with all of its derived tables.

1. The stream stores ``WARM_UP`` messages, which don't count.
2. The others are sent as fast as Kafka takes them. What the stream stores meanwhile doesn't count.
3. The clock starts at its first commit after that, and stops at the commit that completes them. Nothing is sent then.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from benchmarks.throughput.context import Bench
from benchmarks.throughput.delivery import Message, deliver_file, open_kafka_python
from benchmarks.throughput.feed import Part, encode_messages, generate_parts, parse_trades
from benchmarks.throughput.meters import StreamMeter, StreamReading
from benchmarks.throughput.stored import Expected
from kintsugi.core.connections import store_dsn
from kintsugi.core.errors import StepFailed
from kintsugi.core.s3_keys import S3Purpose
from kintsugi.db.ingest_ledger import IngestLedger
from kintsugi.pipeline.consumer_offsets import StartPosition
from kintsugi.pipeline.stream_lag import read_lag

if TYPE_CHECKING:
    from kafka import KafkaProducer

PART_ROWS = 10_000
PART_S = 90.0
WARM_UP = 300_000
STANDSTILL_S = 60.0
LEAST_RATE = 500  # trades/s: a slower stream counts as standing still
COUNTED_SHARE = 0.2


@dataclass(frozen=True, slots=True)
class Drained:
    """What the stream has drained: how fast, how much of it was counted, and what must be stored now.

    ``starting_offsets``: where the messages without the warm-up begin, as Spark's Kafka source reads it.
    """

    trades_per_s: float
    counted: int
    messages: int
    starting_offsets: str
    expected: Expected


def measure_drain(bench: Bench, messages: int) -> Drained:
    """Send at least ``messages`` after the warm-up, and measure how fast the stream stores what waits then.

    Raises StepFailed when the stream stands still, or has stored nearly all when the last message was sent.
    """
    files = generate_parts("rival", bench.seed, rows=PART_ROWS, seconds=PART_S)
    bench.print_line(f"making {messages:,} messages, and {WARM_UP:,} to warm up")
    warming = _encode_parts(files, WARM_UP)
    sent = _encode_parts(files, messages)
    expected, count = Expected(), sum(part.rows for part, _ in sent)
    for part, _ in sent:
        expected.add(parse_trades(part))
    with bench.stream_meter() as meter, open_kafka_python(bench.bootstrap) as kafka:
        start = meter.last
        warm_count = _send_parts(bench, kafka, warming)
        _wait_until_stored(meter, start, warm_count)
        offsets = _end_offsets(bench)
        bench.print_line(f"warm after {warm_count:,}; sending {count:,}")
        _send_parts(bench, kafka, sent)
        all_sent = meter.wait_for(
            lambda _: True, STANDSTILL_S, "a reading of the stream's offsets", fresh=True
        )
        first = meter.wait_for(
            lambda now: now.stored > all_sent.stored or not now.lag, STANDSTILL_S, "a commit", fresh=True
        )
        end = _wait_until_stored(meter, start, warm_count + count)
    counted = end.stored - first.stored
    return Drained(rate_between(first, end, count), counted, count, offsets, expected)


def rate_between(first: StreamReading, end: StreamReading, messages: int) -> float:
    """Trades a second between two commits; raises StepFailed when they are too few of the messages to say it."""
    counted = end.stored - first.stored
    if counted < messages * COUNTED_SHARE:
        raise StepFailed(
            f"of {messages:,} messages only {counted:,} waited when all were sent: measure with more messages"
        )
    return counted / (end.at - first.at)


def _encode_parts(files: Iterator[Part], messages: int) -> list[tuple[Part, list[Message]]]:
    return [(part, encode_messages(part)) for part in islice(files, -(-messages // PART_ROWS))]


def _send_parts(bench: Bench, kafka: KafkaProducer, parts: list[tuple[Part, list[Message]]]) -> int:
    s3, ledger = bench.context.s3(S3Purpose.DELIVERY), IngestLedger(store_dsn(bench.context.settings))
    for part, messages in parts:
        deliver_file(s3, ledger, kafka, part, messages)
    return sum(part.rows for part, _ in parts)


def _wait_until_stored(meter: StreamMeter, start: StreamReading, count: int) -> StreamReading:
    return meter.wait_for(
        lambda now: now.stored - start.stored >= count,
        STANDSTILL_S + count / LEAST_RATE,
        f"{count:,} trades to be stored",
        fresh=True,
    )


def _end_offsets(bench: Bench) -> str:
    lag = read_lag(bench.bootstrap)
    if lag is None:
        raise StepFailed("Kafka doesn't report the ends of the topic; look at the brokers in `make status`")
    return StartPosition(lag.end).to_spark()
