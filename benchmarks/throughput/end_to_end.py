"""S3 → Kafka → Spark → readable in Cassandra, at full load for minutes, while Airflow and the watches run.

Files are put into S3 as fast as they are stored: ``OUTSTANDING`` trades are always under way, enough for the stream to
have work between two runs of the ingest DAG. The clock starts at the commit that completes ``WARM_UP`` trades and ends
at the first one after ``bench.seconds``, with as many trades under way at its end as at its start. Afterwards every
identity, also of the warm-up, is read back at LOCAL_QUORUM.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import chain, islice

from benchmarks.throughput.context import Bench, Result
from benchmarks.throughput.delivery import put_part
from benchmarks.throughput.feed import Part, generate_parts, parse_trades
from benchmarks.throughput.figures import compute_rates, compute_spread
from benchmarks.throughput.meters import StreamMeter, StreamReading, measure_usage
from benchmarks.throughput.stored import Expected, compare_identities, read_rows
from benchmarks.throughput.writers import save_rows
from kintsugi.core.errors import StepFailed
from kintsugi.core.s3_keys import S3Purpose

PART_ROWS = 10_000
PART_S = 90.0  # of the session: ten files fill a partition's quarter of an hour
OUTSTANDING = 80_000
WARM_UP = 300_000  # JVMs that have just started compile more than they work: rates still rose after 150,000
WARM_UP_S = 400.0
STANDSTILL_S = 60.0
FIRST_ROWS_A_SECOND = 4_000  # what is made beforehand; a faster pipeline has more made while it runs
DRAIN_S = 180.0
INTERVAL_S = 15.0
CEILING_ROWS = 60_000


def measure_end_to_end(bench: Bench) -> Result:
    """Return ``end_to_end_trades_per_s`` over at least ``bench.seconds``; raises StepFailed when the stream stalls."""
    feed = Feed(bench)
    with bench.stream_meter() as meter:
        start = meter.last
        bench.print_line(f"until {WARM_UP:,} trades are stored nothing counts")
        warm = feed.feed_until(meter, lambda now: now.stored - start.stored >= WARM_UP, WARM_UP_S)
        began = feed.feed_until(meter, lambda now: now.stored > warm.stored, STANDSTILL_S)
        bench.print_line(f"counting for {bench.seconds:.0f} s")
        before = measure_usage(bench.context.settings)
        enough = feed.feed_until(
            meter, lambda now: now.at >= began.at + bench.seconds, bench.seconds + STANDSTILL_S
        )
        end = feed.feed_until(meter, lambda now: now.stored > enough.stored, STANDSTILL_S)
        used = measure_usage(bench.context.settings).cpu_since(before)
        rows = sum(part.rows for part in feed.sent)
        meter.wait_for(
            lambda now: now.stored - start.stored >= rows and not now.lag,
            DRAIN_S,
            f"{rows:,} trades to be stored",
        )
        readings = [(now.at, now.stored) for now in meter.readings if began.at <= now.at <= end.at]
    counted, seconds = end.stored - began.stored, end.at - began.at
    bench.print_line(f"{counted:,} trades in {seconds:.0f} s; reading all {rows:,} back")
    expected = Expected()
    for part in feed.sent:
        expected.add(parse_trades(part))
    with bench.open_session() as session:
        found = compare_identities(session, expected)
        save_rows(bench.folder / "rows.pickle", read_rows(session, list(expected.identities), CEILING_ROWS))
    if found.lost:
        bench.print_line(f"[red]{found.lost} trades lost[/]")
    return {
        "end_to_end_trades_per_s": round(counted / seconds),
        "trades": counted, "trades_with_warm_up": rows, "seconds": round(seconds, 1),
        "lost": found.lost, "doubled": found.doubled,
        "spread": compute_spread(compute_rates(readings, INTERVAL_S)).to_json(), "interval_s": INTERVAL_S,
        "series": [(round(at - began.at, 1), stored - began.stored) for at, stored in readings[::4]],
        "cpu_us_per_trade": {name: round(s / counted * 1e6, 1) for name, s in used.items()},
    }  # fmt: skip


class Feed:
    """Files for this section, put into S3 so that ``OUTSTANDING`` trades are under way."""

    def __init__(self, bench: Bench) -> None:
        files = generate_parts("end_to_end", bench.seed, rows=PART_ROWS, seconds=PART_S)
        ahead = int(bench.seconds * FIRST_ROWS_A_SECOND / PART_ROWS) + (OUTSTANDING + WARM_UP) // PART_ROWS
        bench.print_line(f"making {ahead} files of {PART_ROWS:,} trades")
        self._files = chain(list(islice(files, ahead)), files)
        self._s3 = bench.context.s3(S3Purpose.DELIVERY)
        self._first: int | None = None
        self.sent: list[Part] = []

    def feed_until(
        self, meter: StreamMeter, reached: Callable[[StreamReading], bool], seconds: float
    ) -> StreamReading:
        """Feed until a reading fulfils ``reached``, and return it; raises StepFailed after ``seconds`` in vain."""
        if self._first is None:
            self._first = meter.last.stored
        deadline = time.monotonic() + seconds
        while not reached(now := meter.last):
            if time.monotonic() > deadline:
                raise StepFailed(
                    f"the stream stands at {now.stored} after {seconds:.0f} s; see `make status`"
                )
            if len(self.sent) * PART_ROWS - (now.stored - self._first) < OUTSTANDING:
                part = next(self._files)
                put_part(self._s3, part)
                self.sent.append(part)
            else:
                time.sleep(0.1)
        return now
