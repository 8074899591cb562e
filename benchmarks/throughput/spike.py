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
from benchmarks.throughput.delivery import deliver_file, open_kafka_python
from benchmarks.throughput.feed import Part, encode_messages, generate_parts, join_parts, parse_trades
from benchmarks.throughput.latency import PERIOD_S, RATE, feed_slowly
from benchmarks.throughput.meters import StreamMeter, measure_usage
from benchmarks.throughput.stored import Expected, compare_identities
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


def measure_spike(bench: Bench) -> Result:
    """``spike`` {trades, lost, drain_s}, how long the sending took, and resident memory before and at its peak."""
    steady = generate_parts("spike", bench.seed, rows=int(RATE * PERIOD_S), seconds=PERIOD_S, first=1_000)
    made = [(part, parse_trades(part)) for part in islice(steady, BEFORE_S + AFTER_S)]
    burst = generate_parts("spike", bench.seed, rows=PART_ROWS, seconds=PERIOD_S, first=100_000)
    part = join_parts(
        f"trades/spike/UnderlyingOptionsTradesCalcs_{bench.seed}.csv", burst, TRADES // PART_ROWS
    )
    ready, expected = encode_messages(part), Expected()
    expected.add(parse_trades(part))
    ledger = IngestLedger(store_dsn(bench.context.settings))
    with (
        bench.stream_meter() as meter,
        open_kafka_python(bench.bootstrap) as kafka,
        feed_steadily(bench, made, expected) as fed,
    ):
        start = meter.last
        memory = [measure_usage(bench.context.settings).rss_mib()]
        time.sleep(max(0.0, BEFORE_S - 2 * PERIOD_S))
        usual = max(USUAL_LAG, *(now.lag for now in meter.readings[len(meter.readings) // 2 :]))
        began = time.time()
        send_s = deliver_file(bench.context.s3(S3Purpose.DELIVERY), ledger, kafka, part, ready)
        bench.print_line(f"{TRADES:,} trades sent in {send_s:.1f} s; lag {meter.last.lag:,}")
        gone_at = await_drained(bench, meter, usual, memory)
        fed.set()
    with bench.stream_meter() as after:
        rows = expected.count
        after.wait_for(lambda now: now.stored - start.stored >= rows, DRAIN_S, "the feed to be stored")
    with bench.open_session() as session:
        found = compare_identities(session, expected)
    roles = memory[0]
    return {
        "spike": {"trades": TRADES, "lost": found.lost, "drain_s": round(gone_at - began, 1)},
        "doubled": found.doubled, "send_s": round(send_s, 1), "trades_beside": rows - TRADES, "usual_lag": usual,
        "memory_mib": {
            role: {"before": round(roles[role]), "peak": round(max(m.get(role, 0.0) for m in memory))} for role in roles
        },
        "series": [(round(now.at - began, 1), now.lag) for now in meter.readings[::2]],
    }  # fmt: skip


def await_drained(bench: Bench, meter: StreamMeter, usual: int, memory: list[dict[str, float]]) -> float:
    """When the lag was back at ``usual`` (seconds since 1970); collects the memory in use until then."""
    done = threading.Event()

    def watch_memory() -> None:
        while not done.wait(3):
            memory.append(measure_usage(bench.context.settings).rss_mib())

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
def feed_steadily(
    bench: Bench, made: list[tuple[Part, list[Trade]]], expected: Expected
) -> Iterator[threading.Event]:
    """A steady feed in a thread of its own until the event is set, or the block ends; ``expected`` learns of it."""
    stop = threading.Event()

    def put_parts() -> None:
        for _, content in feed_slowly(bench, made):
            if stop.is_set():
                return
            expected.add(content)

    thread = threading.Thread(target=put_parts, name="steady feed", daemon=True)
    thread.start()
    try:
        yield stop
    finally:
        stop.set()
        thread.join()
