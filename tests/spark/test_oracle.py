"""The product and an independent computation (`oracle`) agree on every figure: no difference is allowed.

On a generated day of more than 5,000 trades, and on the real rows of an end-of-day file.
"""

from __future__ import annotations

import math
from collections import Counter
from datetime import date
from pathlib import Path
from typing import Any

import pandas as pd  # noqa: TC002 - one import style for all Spark tests
import pyarrow as pa
import pytest
from pyspark.sql import SparkSession  # noqa: TC002 - one import style for all Spark tests

from benchmarks import signals_application
from kintsugi.pipeline.row_parser import TradeMessage, parse_message
from kintsugi.sampledata.generator import GeneratedDay, generate_day
from spark_apps import build_baseline, stream_trades
from tests.spark import oracle

DAY = date(2024, 10, 8)
REAL = Path(__file__).parents[1] / "data" / "eod_spx_2024-10-07.csv"
TRADES = 13_000  # from about this number on, the generator injects orders
STATISTICS = ("count", "mean", "median", "stddev", "log_stddev")
DERIVED = ["premium", "side", "expiry_bin", "delta_bin", "canceled"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> GeneratedDay:
    return generate_day(tmp_path_factory.mktemp("day"), day=DAY, seed=41, trades=TRADES, level="easy")


@pytest.fixture(scope="module")
def lines(made: GeneratedDay) -> list[str]:
    return made.trade_files[0].read_text().splitlines()[1:]


@pytest.fixture(scope="module")
def expected(lines: list[str]) -> pd.DataFrame:
    return oracle.trades(lines)


def close(one: Any, other: Any) -> bool:
    """Equal up to the rounding of doubles; null (None, NaN) equals null."""
    if one is None or other is None or one != one or other != other:
        return (one is None or one != one) and (other is None or other != other)
    return one == other or math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-9)


def test_what_follows_from_each_trade(spark: SparkSession, lines: list[str], expected: pd.DataFrame) -> None:
    values = [parse_message(line) for line in lines]
    messages = [found for found in values if isinstance(found, TradeMessage)]
    assert len(messages) == len(expected) >= 5000
    table = pa.table(
        {
            "value": [found.value for found in messages], "partition": pa.array([0] * len(messages), pa.int32()),
            "offset": range(len(messages)), "timestamp": pa.array([0] * len(messages), pa.timestamp("us")),
        }
    )  # fmt: skip
    rows = stream_trades.enrich_trades(stream_trades.parse_messages(spark.createDataFrame(table)))
    found = rows.select("trade_id", *DERIVED).toPandas().set_index("trade_id")
    assert len(found) == len(messages)
    found = found.loc[[item.identity.hex() for item in messages]].reset_index()
    differences = Counter(
        name
        for name, theirs in zip(
            DERIVED, ("premium", "side", "expiry_bin", "delta_bin", "is_cancel"), strict=True
        )
        for one, other in zip(found[name], expected[theirs], strict=True)
        if (not math.isclose(one, other, rel_tol=1e-12) if name == "premium" else one != other)
    )
    assert differences == {}
    assert set(found["side"]) == {"buy", "sell", "unknown"}
    assert len(set(found["delta_bin"])) == 5
    assert set(found["expiry_bin"]) == {"short", "medium", "long"}


@pytest.mark.parametrize("real", [True, False])
def test_the_baseline_of_each_bucket(spark: SparkSession, made: GeneratedDay, real: bool) -> None:
    file = REAL if real else made.eod_files[0]
    eod = spark.createDataFrame(build_baseline.read_eod(file.read_bytes(), file.name))
    buckets = build_baseline.compute_baseline(build_baseline.assign_buckets(eod)).collect()
    found = {(r.symbol, r.option_type, r.delta_bin, r.expiry_bin, str(r.as_of)): r for r in buckets}
    theirs = oracle.baseline(file)
    wanted = {tuple(row[name] for name in [*oracle.BUCKET, "as_of"]): row for _, row in theirs.iterrows()}
    assert found.keys() == wanted.keys()
    names = [
        f"{kind}_{name}" for kind in ("volume", "iv") for name in STATISTICS if (kind, name) != ("iv", "mean")
    ]
    differences = [
        (key, name) for key, row in found.items() for name in names if not close(row[name], wanted[key][name])
    ]
    assert differences == []


def test_windows_and_signals(
    spark: SparkSession, made: GeneratedDay, lines: list[str], expected: pd.DataFrame
) -> None:
    store = signals_application.run_stream(spark, made)
    wanted = oracle.windows(expected)
    found = {(key.symbol, key.start): window._asdict() for key, window in store.windows_written.items()}
    assert {key for key, window in found.items() if window["trades"]} == wanted.keys()
    differences = [
        (key, name, found[key][name], value)
        for key, window in wanted.items()
        for name, value in window.items()
        if not (found[key][name] == value if name == "signal" else close(found[key][name], value))
    ]
    assert differences == []
    identities = [taken.identity for line in lines if isinstance(taken := parse_message(line), TradeMessage)]
    signals = {
        (identities[row], signal): score
        for (row, signal), score in oracle.unusual(expected, oracle.baseline(made.eod_files[0])).items()
    }
    assert set(store.unusual) == set(signals)
    assert {name for _, name in signals} == {"high_volume", "iv_jump"}
    names = {name for window in wanted.values() for name in (window["signal"] or "").split(",")}
    assert names == {"", "imbalance", "aggressor"}
