"""Measure precision, recall and false alerts of the signals on days with injected behaviour.

Days are generated with known behaviour (`kintsugi.sampledata.injected_behaviour`) at three levels of difficulty. They
go through the functions of the stream itself (`build_baseline`, `stream_trades`, `derived_tables`), with the tables in
memory, on a Spark in this process. The thresholds were tuned on TUNING_SEEDS. The figures are measured on
EVALUATION_SEEDS, which were not used before.

For ``high_volume`` and ``iv_jump`` a trade counts, by its identity. For ``imbalance`` and ``aggressor`` an alert is a
window. It is right if it overlaps an order of a kind that the signal is about. An order is found if one of its windows
is an alert.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import date, datetime
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
from pyspark.sql import SparkSession

from kintsugi.pipeline.row_parser import NEW_YORK, Rejection, parse_trade
from kintsugi.pipeline.stream.baselines import BUCKET_VALUES, STATISTICS, newest_before
from kintsugi.pipeline.stream.batch_columns import RETURNED_NAMES
from kintsugi.pipeline.stream.derived_tables import DerivedTables
from kintsugi.pipeline.stream.flow_windows import AGGRESSOR, IMBALANCE, WINDOW_MS
from kintsugi.pipeline.stream.in_memory_repository import InMemoryRepository
from kintsugi.pipeline.stream.signals import HIGH_VOLUME, IV_JUMP, days_of, with_scores
from kintsugi.sampledata import injected_behaviour
from kintsugi.sampledata.generator import GeneratedDay, generate_day
from kintsugi.sampledata.injected_behaviour import Behaviour
from spark_apps import build_baseline, stream_trades

TUNING_SEEDS = (101, 102, 103, 104)
EVALUATION_SEEDS = (9002, 9003)
DAY = date(2024, 10, 8)
TRADES = 200_000
BATCH = 20_000
PARTITIONS = 6
ABOUT = {
    IMBALANCE: (Behaviour.DIRECTIONAL, Behaviour.REVERSAL),
    AGGRESSOR: (Behaviour.DIRECTIONAL, Behaviour.STRADDLE),
}
SIGNALS = (HIGH_VOLUME, IV_JUMP, IMBALANCE, AGGRESSOR)


@dataclass(slots=True)
class Score:
    """One signal at one level, over all its days: trades or orders injected and found, alerts and right alerts."""

    level: str
    signal: str
    trades: int = 0
    injected: int = 0
    found: int = 0
    alerts: int = 0
    right: int = 0
    seeds: list[int] = field(default_factory=list)

    @property
    def precision(self) -> float | None:
        """Right alerts over alerts; None without an alert."""
        return self.right / self.alerts if self.alerts else None

    @property
    def recall(self) -> float | None:
        """Found over injected; None when nothing was injected."""
        return self.found / self.injected if self.injected else None

    @property
    def false_per_million(self) -> float:
        """False alerts per million trades."""
        return (self.alerts - self.right) / self.trades * 1e6 if self.trades else 0.0

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {
            "precision": self.precision, "recall": self.recall,
            "false_alerts_per_million_trades": self.false_per_million,
        }  # fmt: skip


def start_spark() -> SparkSession:
    """Yield a small Spark in this process, on the loopback address."""
    return (
        SparkSession.builder.master("local[1]").appName("evaluate_signals")
        .config("spark.ui.enabled", "false").config("spark.ui.showConsoleProgress", "false")
        .config("spark.log.level", "ERROR")
        .config("spark.driver.memory", "768m")
        .config("spark.driver.host", "127.0.0.1").config("spark.driver.bindAddress", "127.0.0.1")
        .config("spark.sql.shuffle.partitions", "1").config("spark.sql.session.timeZone", "UTC")
        .config("spark.sql.adaptive.enabled", "false")
        .config("spark.driver.extraJavaOptions", "-XX:+UseSerialGC -XX:TieredStopAtLevel=1")
        .getOrCreate()
    )  # fmt: skip


def compute_baseline(spark: SparkSession, made: GeneratedDay) -> list[tuple[Any, ...]]:
    """Return what `build_baseline` makes of the day's end-of-day files."""
    names = ("symbol", "as_of", *BUCKET_VALUES, *STATISTICS)
    rows: list[tuple[Any, ...]] = []
    for file in made.eod_files:
        eod = spark.createDataFrame(build_baseline.read_eod(file.read_bytes(), file.name))
        rows += [
            tuple(r)
            for r in build_baseline.compute_baseline(build_baseline.assign_buckets(eod))
            .select(*names)
            .collect()
        ]
    return rows


def iterate_messages(made: GeneratedDay) -> Iterator[pa.Table]:
    """Yield the day's trades as Kafka's source returns them, a batch at a time."""
    schema = pa.schema(
        [
            ("value", pa.binary()),
            ("partition", pa.int32()),
            ("offset", pa.int64()),
            ("timestamp", pa.timestamp("us")),
        ]
    )
    offsets = [0] * PARTITIONS
    values: list[dict[str, Any]] = []
    for line in _iterate_lines(made):
        trade = parse_trade(line)
        if isinstance(trade, Rejection):
            continue
        partition = sum(trade.symbol.encode()) % PARTITIONS
        offset = offsets[partition]
        values.append(
            {
                "value": orjson.dumps(trade), "partition": partition, "offset": offset,
                "timestamp": offset // 1000 * 1000,
            }
        )  # fmt: skip
        offsets[partition] += 1
        if len(values) == BATCH:
            yield pa.Table.from_pylist(values, schema)
            values = []
    if values:
        yield pa.Table.from_pylist(values, schema)


def _iterate_lines(made: GeneratedDay) -> Iterator[str]:
    for path in made.trade_files:
        with path.open() as file:
            next(file)  # the header
            yield from (line.rstrip("\n") for line in file)


def run_stream(spark: SparkSession, made: GeneratedDay) -> InMemoryRepository:
    """Return the tables after the day went through the stream's own functions."""
    store, baseline = InMemoryRepository(), compute_baseline(spark, made)
    derived = DerivedTables(store)
    for batch in iterate_messages(made):
        trades = stream_trades.enrich_trades(stream_trades.parse_messages(spark.createDataFrame(batch)))
        stored = trades.select(*RETURNED_NAMES).toArrow()
        stored = with_scores(stored, newest_before(baseline, days_of(stored)))
        store.store(stored)
        derived.apply(stored)
    return store


def score_alerts(made: GeneratedDay, store: InMemoryRepository, scores: dict[str, Score]) -> None:
    """Add a day to the scores, by signal."""
    truth = json.loads(made.truth_file.read_text())
    injected = {
        HIGH_VOLUME: {bytes.fromhex(trade["trade_id"]) for trade in truth["unusual"]},
        IV_JUMP: {bytes.fromhex(identity) for identity in truth["shocked"]},
    }
    for signal, wanted in injected.items():
        alerts = {identity for identity, name in store.unusual if name == signal}
        _add_counts(scores[signal], len(wanted), len(wanted & alerts), len(alerts), len(wanted & alerts))
    orders = [
        (o["behaviour"], o["symbol"], _parse_ms(o["start"]), _parse_ms(o["end"])) for o in truth["orders"]
    ]
    for signal, kinds in ABOUT.items():
        mine = [order for order in orders if order[0] in kinds]
        windows = [
            key for key, found in store.windows_written.items() if signal in (found.signal or "").split(",")
        ]
        right = [
            key for key in windows if any(_is_overlapping(key.symbol, key.start, order) for order in mine)
        ]
        found = sum(any(_is_overlapping(key.symbol, key.start, order) for key in right) for order in mine)
        _add_counts(scores[signal], len(mine), found, len(windows), len(right))
    for score in scores.values():
        score.trades += made.trades
        score.seeds.append(truth["seed"])


def _add_counts(score: Score, injected: int, found: int, alerts: int, right: int) -> None:
    score.injected += injected
    score.found += found
    score.alerts += alerts
    score.right += right


def _parse_ms(text: str) -> int:
    return int(datetime.strptime(text, "%Y-%m-%d %H:%M:%S.%f").replace(tzinfo=NEW_YORK).timestamp() * 1000)


def _is_overlapping(symbol: str, start: int, order: tuple[str, str, int, int]) -> bool:
    return symbol == order[1] and start <= order[3] and start + WINDOW_MS > order[2]


def plot_scores(scores: list[Score], target: Path) -> None:
    """Write precision and recall of each signal at each level, as bars, into a PNG file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    levels = list(dict.fromkeys(score.level for score in scores))
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, name in zip(figure.subplots(1, 2, sharey=True), ("precision", "recall"), strict=True):
        for number, level in enumerate(levels):
            values = {s.signal: getattr(s, name) or 0.0 for s in scores if s.level == level}
            places = [i + 0.27 * (number - (len(levels) - 1) / 2) for i in range(len(SIGNALS))]
            bars = axes.bar(places, [values.get(signal, 0.0) for signal in SIGNALS], 0.25, label=level)
            axes.bar_label(bars, fmt="%.2f", fontsize=7)
        axes.axhline(0.95, color="grey", linewidth=0.8, linestyle="--")
        axes.set_xticks(range(len(SIGNALS)), SIGNALS)
        axes.set_ylim(0, 1.12)
        axes.set_title(f"{name} (dashed: 0.95)")
    figure.axes[0].legend(title="level", loc="lower left")
    seeds = ", ".join(str(seed) for seed in scores[0].seeds)
    figure.suptitle(f"Signals on injected behaviour; {scores[0].trades:,} trades a level, seeds {seeds}")
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, dpi=120)


def print_scores(scores: list[Score]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title="Signals: what was injected and what was found")
    for name in (
        "level",
        "signal",
        "injected",
        "found",
        "alerts",
        "false",
        "precision",
        "recall",
        "false per million",
    ):
        table.add_column(name, justify="left" if name in ("level", "signal") else "right")
    for s in scores:
        precision, recall = ("-" if v is None else f"{v:.3f}" for v in (s.precision, s.recall))
        table.add_row(s.level, s.signal, str(s.injected), str(s.found), str(s.alerts), str(s.alerts - s.right),
                      precision, recall, f"{s.false_per_million:.1f}")  # fmt: skip
    Console(width=110).print(table)


def evaluate_signals(spark: SparkSession, levels: list[str], seeds: list[int], trades: int) -> list[Score]:
    """Return the scores of every signal at every level, pooled over a day for each seed."""
    scores: list[Score] = []
    for level in levels:
        of_level = {signal: Score(level, signal) for signal in SIGNALS}
        for seed in seeds:
            print(f"level {level}, seed {seed}: {trades:,} trades", file=sys.stderr, flush=True)
            with tempfile.TemporaryDirectory(prefix="kintsugi-signals-") as folder:
                made = generate_day(Path(folder), day=DAY, seed=seed, trades=trades, level=level)
                score_alerts(made, run_stream(spark, made), of_level)
        scores += of_level.values()
    return scores


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Precision and recall of the signals on injected behaviour.")
    parser.add_argument(
        "--level", action="append", choices=list(injected_behaviour.LEVELS), help="default: all"
    )
    parser.add_argument("--seed", action="append", type=int, help="default: the evaluation's")
    parser.add_argument("--trades", type=int, default=TRADES, help="a day; default: 200000")
    parser.add_argument("--report", type=Path, default=Path("build/signals.json"))
    options = parser.parse_args(argv)
    spark = start_spark()
    try:
        seeds = options.seed or list(EVALUATION_SEEDS)
        scores = evaluate_signals(
            spark, options.level or list(injected_behaviour.LEVELS), seeds, options.trades
        )
    finally:
        spark.stop()
    print_scores(scores)
    image = options.report.with_suffix(".png")
    plot_scores(scores, image)
    levels = {name: asdict(level) for name, level in injected_behaviour.LEVELS.items()}
    document = {
        "trades_a_day": options.trades, "seeds": seeds, "tuning_seeds": list(TUNING_SEEDS), "levels": levels,
        "signals": [score.to_json() for score in scores],
    }  # fmt: skip
    options.report.write_text(json.dumps(document, indent=2) + "\n")
    print(f"{options.report}, {image}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
