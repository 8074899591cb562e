"""From produced to readable at LOCAL_QUORUM, and from the file's put in S3, at 1000 trades a second.

A consumer of the bench reads the topic and picks a sample regularly. The sampled trades are read from Cassandra by
their full key every ``RESOLUTION_S`` until they are there. The start is Kafka's timestamp of the message (the
producer's clock at ``send``), the end is when the answer arrived. So a sample is at most one resolution and one read
too long, and never too short.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, Self

from benchmarks.throughput.context import Bench, Result
from benchmarks.throughput.delivery import put_part
from benchmarks.throughput.feed import Part, generate_parts, parse_trades
from benchmarks.throughput.figures import compute_percentiles_ms, compute_spread
from benchmarks.throughput.stored import Expected, compare_identities
from kintsugi.core.certificates import Principal
from kintsugi.core.client_tls import kafka_options
from kintsugi.core.errors import StepFailed
from kintsugi.core.s3_keys import S3Purpose
from kintsugi.core.settings import KEYSPACE, TOPIC
from kintsugi.pipeline.consumer_offsets import topic_partitions
from kintsugi.pipeline.row_parser import Trade

if TYPE_CHECKING:
    from cassandra.cluster import Session

RATE = 1_000
PERIOD_S = 1.0
SECONDS = 75
SETTLE_S = 15.0  # the first files wait for the ingest DAG to begin its run
# Fewer and coarser than one would like: 320 reads a second took a third of a core of what was measured.
SAMPLES_A_SECOND = 16  # at most: a file comes in one burst, so about three a file
RESOLUTION_S = 0.25
ASKED_AT_ONCE = 64
AWAIT_S = 90.0


@dataclass(slots=True)
class Sample:
    """One sampled trade: times in seconds since 1970, ``readable`` None until it was seen."""

    trade: dict[str, Any]
    produced: float
    readable: float | None = None


def measure_latency(bench: Bench) -> Result:
    """``latency_ms`` (produced → readable) and ``latency_s3_ms`` (put → readable): p50, p95, p99."""
    made = list(
        islice(generate_parts("latency", bench.seed, rows=int(RATE * PERIOD_S), seconds=PERIOD_S), SECONDS)
    )
    puts: dict[str, float] = {}
    expected = Expected()
    by_part = [(part, parse_trades(part)) for part in made]
    with bench.open_session() as session:
        with bench.stream_meter() as meter, Sampler(bench.bootstrap, session) as sampler:
            start = meter.last
            began = time.time()
            for _, content in feed_slowly(bench, by_part):
                puts.update(dict.fromkeys((trade.trade_id for trade in content), time.time()))
                expected.add(content)
            rows = sum(part.rows for part in made)
            meter.wait_for(lambda now: now.stored - start.stored >= rows, AWAIT_S, "the feed to be stored")
            sampler.await_all(AWAIT_S)
        found = compare_identities(session, expected)
    mine = [s for s in sampler.seen if s.trade["trade_id"] in puts]
    settled = [s for s in mine if puts[s.trade["trade_id"]] - began >= SETTLE_S and s.readable is not None]
    waits = [s.readable - s.produced for s in settled if s.readable is not None]
    whole = [s.readable - puts[s.trade["trade_id"]] for s in settled if s.readable is not None]
    lag = [now.lag for now in meter.readings if now.at - began >= SETTLE_S]
    return {
        "latency_ms": compute_percentiles_ms(waits), "latency_s3_ms": compute_percentiles_ms(whole), "n": len(waits),
        "resolution_ms": round(RESOLUTION_S * 1000), "rate": RATE, "lost": found.lost, "doubled": found.doubled,
        "spread_ms": compute_spread([wait * 1000 for wait in waits]).to_json(), "lag": compute_spread(lag).to_json(),
    }  # fmt: skip


def feed_slowly(
    bench: Bench, some: list[tuple[Part, list[Trade]]], period_s: float = PERIOD_S
) -> Iterator[tuple[Part, list[Trade]]]:
    """Put a file into S3 every ``period_s`` seconds; each is given to the caller just before its put."""
    s3 = bench.context.s3(S3Purpose.DELIVERY)
    began = time.monotonic()
    for number, (part, content) in enumerate(some):
        time.sleep(max(0.0, began + number * period_s - time.monotonic()))
        yield part, content
        put_part(s3, part)


@dataclass
class Sampler:
    """Samples the topic and looks for the samples in Cassandra, in a thread of its own, as long as the block runs."""

    bootstrap: list[str]
    session: Session
    seen: list[Sample] = field(default_factory=list)
    _waiting: list[Sample] = field(default_factory=list)
    _error: BaseException | None = None

    def __post_init__(self) -> None:
        self._stop = threading.Event()
        self._listening = threading.Event()
        self._thread = threading.Thread(target=self._run, name="latency sampler", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        if not self._listening.wait(30):
            raise StepFailed(
                "the sampler could not read the topic within 30 s; look at the health of the brokers"
            )
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(10)

    def await_all(self, seconds: float) -> None:
        """Wait until every sample was readable; raises StepFailed with the number that wasn't."""
        deadline = time.monotonic() + seconds
        while self._waiting and self._error is None:
            if time.monotonic() > deadline:
                raise StepFailed(
                    f"{len(self._waiting)} sampled trades are not readable after {seconds:.0f} s"
                )
            time.sleep(RESOLUTION_S)
        if self._error is not None:
            raise StepFailed(f"the sampler failed: {self._error!r}")

    def _run(self) -> None:
        try:
            with consumer_at_end(self.bootstrap) as consumer:
                self._listening.set()
                self._take_samples(consumer)
        except Exception as error:  # noqa: BLE001 - told to whoever waits
            self._error = error

    def _take_samples(self, consumer: Any) -> None:
        import orjson

        ask = self.session.prepare(
            f"SELECT trade_id FROM {KEYSPACE}.trade "
            "WHERE symbol = ? AND trade_date = ? AND slot = ? AND ts = ? AND trade_id = ?"
        )
        next_sample = 0.0
        while not self._stop.is_set():
            tick = time.monotonic()
            for records in consumer.poll(timeout_ms=5, max_records=2_000).values():
                for record in records:
                    if record.timestamp / 1000 >= next_sample:
                        self._waiting.append(Sample(orjson.loads(record.value), record.timestamp / 1000))
                        next_sample = record.timestamp / 1000 + 1 / SAMPLES_A_SECOND
            self._read_samples(ask)
            self._stop.wait(max(0.0, tick + RESOLUTION_S - time.monotonic()))

    def _read_samples(self, ask: Any) -> None:
        """Ask for the oldest samples that wait."""
        asked = [(s, self.session.execute_async(ask, key_of(s.trade))) for s in self._waiting[:ASKED_AT_ONCE]]
        for sample, future in asked:
            if future.result().one() is not None:
                sample.readable = time.time()
                self.seen.append(sample)
        self._waiting[:] = [sample for sample in self._waiting if sample.readable is None]


def key_of(trade: dict[str, Any]) -> tuple[Any, ...]:
    """The primary key of the table ``trade`` of a message."""
    return trade["symbol"], trade["trade_date"], trade["slot"], trade["ts"], bytes.fromhex(trade["trade_id"])


@contextmanager
def consumer_at_end(bootstrap: list[str]) -> Iterator[Any]:
    """A consumer of all partitions of the topic, from now on."""
    from kafka import KafkaConsumer

    consumer = KafkaConsumer(
        bootstrap_servers=bootstrap,
        enable_auto_commit=False,
        fetch_max_wait_ms=20,
        **kafka_options(Principal.RECOVERY),
    )
    try:
        places = topic_partitions(consumer, TOPIC)
        consumer.assign(places)
        consumer.seek_to_end(*places)
        for place in places:
            consumer.position(place)
        yield consumer
    finally:
        consumer.close()
