"""S3 → Kafka → Spark → readable in Cassandra, at full load for minutes, with Airflow and the watchers at work.

Files come into S3 as fast as they are stored: there are always ``OUTSTANDING`` trades under way, enough for the
stream to have work while Airflow goes from one run of the ingest DAG to the next. The figure counts from the first
file's put until the last trade is stored; afterwards every identity is read back at LOCAL_QUORUM.
"""

from __future__ import annotations

import time
from itertools import islice

from kintsugi.bench.context import Bench, Result
from kintsugi.bench.delivery import put
from kintsugi.bench.feed import Part, parts, trades
from kintsugi.bench.figures import rates, spread
from kintsugi.bench.meters import Reading, StreamMeter, usage
from kintsugi.bench.stored import Expected, compare, rows_of
from kintsugi.bench.writers import save
from kintsugi.errors import StepFailed

PART_ROWS = 10_000
PART_S = 90.0  # of the session: ten files fill a partition's quarter of an hour
OUTSTANDING = 80_000
FIRST_ROWS_A_SECOND = 4_000  # what is made beforehand; a faster pipeline has more made while it runs
DRAIN_S = 180.0
INTERVAL_S = 15.0
CEILING_ROWS = 60_000


def end_to_end(bench: Bench) -> Result:
    """``end_to_end_trades_per_s`` over at least ``bench.seconds``; raises StepFailed when the stream stands still."""
    feed = parts("end_to_end", bench.seed, rows=PART_ROWS, seconds=PART_S)
    ahead = int(bench.seconds * FIRST_ROWS_A_SECOND / PART_ROWS) + 1
    bench.say(f"making {ahead} files of {PART_ROWS:,} trades")
    made = list(islice(feed, ahead))
    sent: list[Part] = []
    before = usage(bench.doors.settings)
    with bench.stream_meter() as meter:
        start = meter.last
        s3 = bench.doors.s3()
        began = time.time()
        while time.time() - began < bench.seconds:
            if outstanding(sent, meter, start) < OUTSTANDING:
                part = made.pop(0) if made else next(feed)
                put(s3, part)
                sent.append(part)
            else:
                time.sleep(0.1)
        rows = sum(part.rows for part in sent)
        end = meter.wait_for(
            lambda now: now.stored - start.stored >= rows and not now.lag,
            DRAIN_S,
            f"{rows:,} trades to be stored",
        )
        readings = [(now.at, now.stored) for now in meter.readings if began <= now.at <= end.at]
    used = usage(bench.doors.settings).cpu_since(before)
    seconds = end.at - began
    bench.say(f"{rows:,} trades in {seconds:.0f} s; reading them back")
    expected = Expected()
    for part in sent:
        expected.add(trades(part))
    with bench.cassandra() as session:
        found = compare(session, expected)
        save(bench.folder / "rows.pickle", rows_of(session, list(expected.identities), CEILING_ROWS))
    if found.lost:
        bench.say(f"[red]{found.lost} trades lost[/]")
    return {
        "end_to_end_trades_per_s": round(found.readable / seconds),
        "trades": rows, "seconds": round(seconds, 1), "lost": found.lost, "doubled": found.doubled,
        "spread": spread(rates(readings, INTERVAL_S)).to_json(), "interval_s": INTERVAL_S,
        "series": [(round(at - began, 1), stored - start.stored) for at, stored in readings[::4]],
        "cpu_us_per_trade": {name: round(s / rows * 1e6, 1) for name, s in used.items()},
    }  # fmt: skip


def outstanding(sent: list[Part], meter: StreamMeter, start: Reading) -> int:
    """Trades put into S3 that aren't stored yet; raises StepFailed when nothing has moved for a minute."""
    now = meter.last
    if sent and time.time() - now.at > 60:
        raise StepFailed("Kafka has not told the stream's offsets for a minute; see `make status`")
    return sum(part.rows for part in sent) - (now.stored - start.stored)
