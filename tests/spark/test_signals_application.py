"""The evaluation counts right, and a day through the stream's own functions finds what is injected in it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import date
from pathlib import Path

import pytest
from pyspark.sql import SparkSession  # noqa: TC002 - one import style for all Spark tests

from benchmarks import signals_application
from benchmarks.signals_application import SIGNALS, Score, score_alerts
from kintsugi.pipeline.stream.derived_records import WindowKey
from kintsugi.pipeline.stream.derived_table_keys import FLOW_WINDOW, UNUSUAL_TRADE, Put, Write, window_row
from kintsugi.pipeline.stream.flow_windows import Sums, window_signals
from kintsugi.pipeline.stream.in_memory_repository import InMemoryRepository
from kintsugi.sampledata.generator import GeneratedDay, generate_day

START = "2024-10-08 10:00:10.000"
T0 = signals_application._parse_ms("2024-10-08 10:00:00.000")


def made(folder: Path, **truth: object) -> GeneratedDay:
    file = folder / "truth.json"
    file.write_text(json.dumps({"unusual": [], "shocked": [], "orders": [], "seed": 7, **truth}))
    return GeneratedDay(date(2024, 10, 8), [], [], file, 500_000, 500_000, 0, 0, 0)


def judged(day: GeneratedDay, writes: Sequence[Write]) -> dict[str, Score]:
    store = InMemoryRepository()
    store.write(writes, 1)
    scores = {signal: Score("standard", signal) for signal in SIGNALS}
    score_alerts(day, store, scores)
    return scores


def test_trades_are_judged_by_their_identity(tmp_path: Path) -> None:
    day = made(tmp_path, unusual=[{"trade_id": "aa"}, {"trade_id": "bb"}], shocked=["cc"])
    rows = [
        Put(UNUSUAL_TRADE, ("d", "S", 0, bytes.fromhex(i), s, 1.0, *(None,) * 12))
        for i, s in (("aa", "high_volume"), ("dd", "high_volume"), ("cc", "high_volume"))
    ]
    score = judged(day, rows)["high_volume"]
    assert (score.injected, score.found, score.alerts, score.right) == (2, 1, 3, 1)
    assert score.precision == pytest.approx(1 / 3)
    assert score.recall == 0.5
    assert score.false_per_million == 4.0
    assert judged(day, [])["iv_jump"].precision is None


def test_windows_are_judged_by_the_orders_that_they_overlap(tmp_path: Path) -> None:
    order = {"symbol": "S", "start": START, "end": "2024-10-08 10:02:10.000"}
    day = made(
        tmp_path,
        orders=[{**order, "behaviour": "straddle"}, {**order, "symbol": "T", "behaviour": "reversal"}],
    )
    both = window_signals(Sums())._replace(signal="imbalance,aggressor")
    starts = (T0 + minute * 60_000 for minute in (-1, 0, 2, 3))
    rows = [window_row(WindowKey("S", "2024-10-08", 40, start), both) for start in starts]
    scores = judged(day, [Put(FLOW_WINDOW, row) for row in rows])
    aggressor, imbalance = scores["aggressor"], scores["imbalance"]
    assert (aggressor.injected, aggressor.found, aggressor.alerts, aggressor.right) == (1, 1, 4, 2)
    assert (imbalance.injected, imbalance.found, imbalance.alerts, imbalance.right) == (1, 0, 4, 0)


def test_what_is_planted_on_an_easy_day_is_found(spark: SparkSession, tmp_path: Path) -> None:
    day = generate_day(tmp_path, day=date(2024, 10, 8), seed=5, trades=25_000, level="easy")
    scores = {signal: Score("easy", signal) for signal in SIGNALS}
    store = signals_application.run_stream(spark, day)
    score_alerts(day, store, scores)
    for score in scores.values():
        assert score.injected > 0, score
        assert score.recall == pytest.approx(1.0, abs=0.1), score
        assert score.precision == pytest.approx(1.0, abs=0.1), score
    held = sum(window.trades for window in store.windows_written.values())
    assert held == day.trades - 2 * len(store.cancels)
    assert len(store.marks) == len(store.cancels) > 0


def test_the_report_is_a_table_a_plot_and_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scores = [Score(level, signal, 100, 4, 3, 5, 2, [1]) for level in ("easy", "hard") for signal in SIGNALS]
    signals_application.print_scores(scores)
    assert "0.400" in capsys.readouterr().out
    signals_application.plot_scores(scores, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads(json.dumps(scores[0].to_json()))["recall"] == 0.75
