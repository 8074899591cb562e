"""100,000 trades as fast as Kafka takes them, on top of 1000 a second: nothing lost, memory bounded, lag gone.

The spike is over when the lag is as before (at most ``USUAL_LAG`` messages); ``drain_s`` counts from the first message
of the spike.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice

from benchmarks.throughput.context import Bench, Result
from benchmarks.throughput.delivery import deliver, kafka_python
from benchmarks.throughput.feed import Part, joined, messages, parts, trades
from benchmarks.throughput.latency import PERIOD_S, RATE, feed_slowly
from benchmarks.throughput.meters import StreamMeter, usage
from benchmarks.throughput.stored import Expected, compare
from kintsugi.core.connections import store_dsn
from kintsugi.core.s3_keys import S3Purpose
from kintsugi.db.ingest_ledger import IngestLedger
from kintsugi.pipeline.row_parser import Trade

TRADES = 100_000
PART_ROWS = 10_000
BEFORE_S = 20
AFTER_S = 100
USUAL_LAG = 2_500
DRAIN_S = 120.0


def spike(bench: Bench) -> Result:
    """``spike`` {trades, lost, drain_s}, how long the sending took, and resident memory before and at its peak."""
    steady = parts("spike", bench.seed, rows=int(RATE * PERIOD_S), seconds=PERIOD_S, first=1_000)
    made = [(part, trades(part)) for part in islice(steady, BEFORE_S + AFTER_S)]
    burst = parts("spike", bench.seed, rows=PART_ROWS, seconds=PERIOD_S, first=100_000)
    part = joined(f"trades/spike/UnderlyingOptionsTradesCalcs_{bench.seed}.csv", burst, TRADES // PART_ROWS)
    ready, expected = messages(part), Expected()
    expected.add(trades(part))
    ledger = IngestLedger(store_dsn(bench.context.settings))
    with (
        bench.stream_meter() as meter,
        kafka_python(bench.bootstrap) as kafka,
        feeding(bench, made, expected) as fed,
    ):
        start = meter.last
        memory = [usage(bench.context.settings).rss_mib()]
        time.sleep(max(0.0, BEFORE_S - 2 * PERIOD_S))
        usual = max(USUAL_LAG, *(now.lag for now in meter.readings[len(meter.readings) // 2 :]))
        began = time.time()
        send_s = deliver(bench.context.s3(S3Purpose.DELIVERY), ledger, kafka, part, ready)
        bench.say(f"{TRADES:,} trades sent in {send_s:.1f} s; lag {meter.last.lag:,}")
        gone_at = drained_at(bench, meter, usual, memory)
        fed.set()
    with bench.stream_meter() as after:
        rows = expected.count
        after.wait_for(lambda now: now.stored - start.stored >= rows, DRAIN_S, "the feed to be stored")
    with bench.cassandra() as session:
        found = compare(session, expected)
    roles = memory[0]
    return {
        "spike": {"trades": TRADES, "lost": found.lost, "drain_s": round(gone_at - began, 1)},
        "doubled": found.doubled, "send_s": round(send_s, 1), "trades_beside": rows - TRADES, "usual_lag": usual,
        "memory_mib": {
            role: {"before": round(roles[role]), "peak": round(max(m.get(role, 0.0) for m in memory))} for role in roles
        },
        "series": [(round(now.at - began, 1), now.lag) for now in meter.readings[::2]],
    }  # fmt: skip


def drained_at(bench: Bench, meter: StreamMeter, usual: int, memory: list[dict[str, float]]) -> float:
    """When the lag was back at ``usual`` (seconds since 1970); collects the memory in use until then."""
    done = threading.Event()

    def watch_memory() -> None:
        while not done.wait(3):
            memory.append(usage(bench.context.settings).rss_mib())

    thread = threading.Thread(target=watch_memory, name="memory", daemon=True)
    thread.start()
    try:
        return meter.wait_for(
            lambda now: now.lag <= usual, DRAIN_S, f"a lag of {usual} after the spike", fresh=True
        ).at
    finally:
        done.set()
        thread.join()


@contextmanager
def feeding(
    bench: Bench, made: list[tuple[Part, list[Trade]]], expected: Expected
) -> Iterator[threading.Event]:
    """A steady feed in a thread of its own until the event is set, or the block ends; ``expected`` learns of it."""
    stop = threading.Event()

    def run() -> None:
        for _, content in feed_slowly(bench, made):
            if stop.is_set():
                return
            expected.add(content)

    thread = threading.Thread(target=run, name="steady feed", daemon=True)
    thread.start()
    try:
        yield stop
    finally:
        stop.set()
        thread.join()
