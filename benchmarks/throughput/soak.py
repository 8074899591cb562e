"""Kill the streaming driver with SIGKILL at random, twenty times, while trades flow; then compare the tables.

1. A day of trades comes into S3 at a steady pace, informed traders among them (`soak_feed`). One of the driver's
   processes is killed repeatedly: half of the times while it starts, half of the times while it stores.
2. The same day, with every date moved, goes through undisturbed.
3. Both days are read from Cassandra, the second is moved back, and every column of every table is compared.
"""

from __future__ import annotations

import json
import random
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.harness import report_path
from benchmarks.throughput import driver, soak_feed, tables
from benchmarks.throughput.context import Bench, await_quiet
from benchmarks.throughput.delivery import put_part
from benchmarks.throughput.feed import Part, parse_trades
from benchmarks.throughput.meters import StreamMeter
from benchmarks.throughput.stored import Expected, compare_identities
from kintsugi.core.errors import StepFailed
from kintsugi.core.s3_keys import S3Purpose
from kintsugi.core.settings import Settings
from kintsugi.environments.local.node_process import signal_process
from kintsugi.installation.unpause import unpause_dags
from kintsugi.operations.context import Context

if TYPE_CHECKING:
    from rich.console import Console

KILLS = 20
PERIOD_S = 3.0
STARTS_WITHIN_S = 60.0
STORES_WITHIN_S = 120.0
DRAIN_S = 120.0
LEAST_RATE = 500  # trades a second below which the stream counts as standing still
LIMIT_S = 1_500.0


def run_soak(
    settings: Settings, *, kills: int = KILLS, seed: int | None = None, report: Path | None = None
) -> int:
    """Run the soak test; 0 when both days are the same in every table and nothing is lost or doubled."""
    from rich.console import Console

    report = report or report_path(settings, "soak-kill", old_command="soak")
    console = Console(soft_wrap=True, highlight=False)
    seed = int(time.time()) if seed is None else seed
    bench = Bench(Context.from_environment(), console, seed, 0, report.parent / "bench")
    days = soak_feed.SoakDays.from_seed(seed)
    console.print(f"seed {seed}: {days.disturbed} disturbed, {days.undisturbed} undisturbed")
    unpause_dags(bench.context)  # what is measured is the pipeline as it lives
    await_quiet(bench)
    shown = run_soak_parts(bench, kills, days)
    report.parent.mkdir(parents=True, exist_ok=True)
    report.write_text(json.dumps(shown, indent=1) + "\n")
    print_soak(console, shown, report)
    return 0 if shown["same"] and not (shown["empty"] or shown["lost"] or shown["doubled"]) else 1


def run_soak_parts(bench: Bench, kills: int, days: soak_feed.SoakDays) -> dict[str, Any]:
    """All three parts; raises StepFailed when the stream doesn't come back, or not within ``LIMIT_S`` in all."""
    bench.print_line("making a day on which informed traders are at work, and what measures it")
    made = soak_feed.generate_informed_day(bench.seed, bench.folder / "soak")
    soak_feed.deliver_baseline(bench.context.s3(S3Purpose.DELIVERY), soak_feed.end_of_day_files(made, days))
    began = time.monotonic()
    story: list[dict[str, Any]] = []
    with bench.stream_meter() as meter:
        start = meter.last
        with feed_files(bench, soak_feed.iterate_soak_parts(bench.seed, made)) as fed:
            chance = random.Random(bench.seed)  # noqa: S311 - when to kill, nothing to guess
            for number in range(kills):
                story.append(kill_once(bench, meter, chance, storing=number % 2 == 0))
                if time.monotonic() - began > LIMIT_S:
                    raise StepFailed(
                        f"{number + 1} kills took {LIMIT_S / 60:.0f} minutes; look at the driver's log"
                    )
        rows = sum(part.rows for part in fed.sent)
        meter.wait_for(
            lambda now: now.stored - start.stored >= rows and not now.lag,
            DRAIN_S + rows / LEAST_RATE,
            "all to be stored",
        )
    bench.print_line(f"{kills} kills over {rows:,} trades; the same undisturbed")
    undisturbed = [soak_feed.move_part(part, days) for part in fed.sent]
    with bench.stream_meter() as meter:
        start, s3 = meter.last, bench.context.s3(S3Purpose.DELIVERY)
        for part in undisturbed:
            put_part(s3, part)
        meter.wait_for(
            lambda now: now.stored - start.stored >= rows and not now.lag,
            DRAIN_S + rows / LEAST_RATE,
            "all to be stored",
        )
    return {"kills": story, "trades": rows, "seconds": round(time.monotonic() - began, 1),
            **judge_soak(bench, fed.sent, undisturbed, days)}  # fmt: skip


def judge_soak(
    bench: Bench, disturbed: list[Part], undisturbed: list[Part], days: soak_feed.SoakDays
) -> dict[str, Any]:
    """Compare what Cassandra holds of both days."""
    expected, identities = Expected(), {}
    for killed, calm in zip(disturbed, undisturbed, strict=True):
        for one, other in zip(parse_trades(killed), parse_trades(calm), strict=True):
            identities[bytes.fromhex(one.trade_id)] = bytes.fromhex(other.trade_id)
            expected.add((one, other))
    found: dict[str, Any] = {}
    with bench.open_session() as session:
        counted = compare_identities(session, expected)
        for table, key in tables.tables_of_days(session).items():
            first = dict(tables.rows_of_day(session, table, key, days.undisturbed))
            second = tables.key_rows(
                tables.rows_of_day(session, table, key, days.disturbed), key, days.apart, identities
            )
            found[table] = tables.compare_rows(table, first, second)
    return {
        "same": all(difference.same for difference in found.values()),
        "empty": [table for table in tables.TELLING if not found[table].rows],
        "lost": counted.lost, "doubled": counted.doubled,
        "tables": {
            table: {
                "rows": d.rows, "same": d.same, "columns": dict(d.columns),
                "only_undisturbed": d.only_first[:20], "only_disturbed": d.only_second[:20],
            }
            for table, d in found.items()
        },
        "excepted": {
            **tables.EXCEPTED_TABLES,
            **{".".join(name): reason for name, reason in tables.EXCEPTED.items()},
        },
    }  # fmt: skip


def kill_once(bench: Bench, meter: StreamMeter, chance: random.Random, *, storing: bool) -> dict[str, Any]:
    """Kill one of the driver's processes at a random moment; returns what was hit and when it stored again before."""
    if storing:
        before = meter.last.stored
        meter.wait_for(lambda now: now.stored > before, STORES_WITHIN_S, "the stream to store after a kill")
        pause = chance.uniform(0.2, 8.0)
    else:
        pause = chance.uniform(0.0, 15.0)
    await_driver(bench)
    time.sleep(pause)
    victims = await_driver(bench)
    victim = chance.choice(victims)
    hit = signal_process(victim.pid, signal.SIGKILL, victim.began)
    what = {
        "at": round(time.time(), 1),
        "kind": victim.kind,
        "while": "storing" if storing else "starting",
        "hit": hit,
    }
    bench.print_line(f"killed the driver's {victim.kind} while {what['while']}; lag {meter.last.lag:,}")
    await_another(bench, victims)
    return what


def await_driver(bench: Bench) -> list[driver.DriverProcess]:
    """The driver's processes, as soon as there are any; raises StepFailed after a minute."""
    deadline = time.monotonic() + STARTS_WITHIN_S
    while True:
        found = driver.find_driver_processes(bench.context.settings)
        if found:
            return found
        if time.monotonic() > deadline:
            raise StepFailed(
                f"no driver runs {STARTS_WITHIN_S:.0f} s after a kill; see stream-trades.log of its node"
            )
        time.sleep(0.2)


def await_another(bench: Bench, victims: list[driver.DriverProcess]) -> None:
    """Wait until nothing of the killed driver is left."""
    deadline = time.monotonic() + STARTS_WITHIN_S
    while set(victims) & set(driver.find_driver_processes(bench.context.settings)):
        if time.monotonic() > deadline:
            raise StepFailed("a process of the killed driver is left; see stream-trades.log of its node")
        time.sleep(0.1)


@dataclass(slots=True)
class Fed:
    """The files that a feed has put into S3."""

    sent: list[Part] = field(default_factory=list)


@contextmanager
def feed_files(bench: Bench, feed: Iterator[Part]) -> Iterator[Fed]:
    """A file each ``PERIOD_S`` seconds while the block runs."""
    stop, fed = threading.Event(), Fed()

    def put_files() -> None:
        s3 = bench.context.s3(S3Purpose.DELIVERY)
        began = time.monotonic()
        for number in count(1):
            part = next(feed)
            put_part(s3, part)
            fed.sent.append(part)
            if stop.wait(max(0.0, began + number * PERIOD_S - time.monotonic())):
                return

    thread = threading.Thread(target=put_files, name="soak feed", daemon=True)
    thread.start()
    try:
        yield fed
    finally:
        stop.set()
        thread.join()


def print_soak(console: Console, shown: dict[str, Any], report: Path) -> None:
    """A line a table, then the verdict."""
    for table, found in shown["tables"].items():
        said = "the same" if found["same"] else f"[red]differs[/]: {found['columns']}"
        console.print(f"{table}: {found['rows']:,} rows, {said}")
    if shown["empty"]:
        console.print(f"[red]nothing to compare in {', '.join(shown['empty'])}")
    kinds = [kill["kind"] for kill in shown["kills"]]
    console.print(
        f"{len(kinds)} kills ({kinds.count('jvm')} of spark-submit, {kinds.count('python')} of the application), "
        f"{shown['trades']:,} trades twice in {shown['seconds']:.0f} s; lost {shown['lost']}, "
        f"doubled {shown['doubled']}; {report}"
    )
