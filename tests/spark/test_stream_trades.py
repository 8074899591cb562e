from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import orjson
import pytest
from pyspark.sql import SparkSession  # noqa: TC002 - one import style for all Spark tests

from kintsugi.errors import Refused
from kintsugi.trades.baselines import BASELINE_SCHEMA
from kintsugi.trades.identity import CANARY_SYMBOL
from kintsugi.trades.schema import TRADE_COLUMNS
from spark_apps import stream_trades
from tests.unit.trades.test_rows import LINE, changed, trade

USUAL = [
    ("AAPL", "2018-01-05", "9999-12-31", "P", "20-40", "short", 30, 100.0, 50.0),
    (
        "AAPL",
        "2018-01-04",
        "2018-01-05",
        "P",
        "20-40",
        "short",
        30,
        0.0,
        1.0,
    ),  # an older file: not for this day
    (
        "AAPL",
        "2018-01-08",
        "9999-12-31",
        "P",
        "20-40",
        "short",
        30,
        0.0,
        1.0,
    ),  # the day's own: not for this day
]
MESSAGES = "value binary, partition int, offset bigint"


def enriched(spark: SparkSession, *lines: str):
    values = [(orjson.dumps(trade(line)), 0, number) for number, line in enumerate(lines)]
    return stream_trades.enriched(stream_trades.parsed(spark.createDataFrame(values, MESSAGES)))


def signals(
    spark: SparkSession, *lines: str, usual: Sequence[tuple[object, ...]] = USUAL
) -> list[tuple[object, ...]]:
    baseline = spark.createDataFrame(list(usual), BASELINE_SCHEMA)
    found = stream_trades.with_high_volume(enriched(spark, *lines), baseline).orderBy("offset").collect()
    return [(row.signal, row.score, row.usual_mean, row.usual_stddev) for row in found]


def test_a_message_is_read_back_with_every_column(spark: SparkSession) -> None:
    row = enriched(spark, LINE).collect()[0].asDict()
    expected = trade(LINE)
    for name in type(expected).__dataclass_fields__:
        assert row[name] == getattr(expected, name), name
    assert {name for name, _ in TRADE_COLUMNS} <= set(row)


def test_enriching_changes_no_delivered_column(spark: SparkSession) -> None:
    """The replaced pipeline overwrote trade_iv."""
    before = stream_trades.parsed(spark.createDataFrame([(orjson.dumps(trade(LINE)), 0, 1)], MESSAGES))
    after = stream_trades.enriched(before)
    assert after.select(*before.columns).collect() == before.collect()
    derived = after.select("premium", "side", "canceled", "expiry_bin", "delta_bin").collect()[0]
    assert tuple(derived) == (1300.0, "unknown", False, "short", "20-40")  # 1.30 is the midpoint of the quote


def test_a_message_that_is_no_trade_has_no_identity(spark: SparkSession) -> None:
    broken = spark.createDataFrame([(b"{", 0, 1)], MESSAGES)
    assert stream_trades.parsed(broken).collect()[0].trade_id is None


def test_a_size_far_above_the_baseline_of_the_day_before_is_high_volume(spark: SparkSession) -> None:
    found = signals(spark, changed(8, "299"), changed(8, "300"), changed(8, "1000"))
    assert found == [
        (None, None, None, None), ("high_volume", 4.0, 100.0, 50.0), ("high_volume", 18.0, 100.0, 50.0),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "line",
    [changed(10, "40"), changed(0, CANARY_SYMBOL), changed(0, "MSFT"), changed(6, "C"), changed(15, "-0.1")],
    ids=["cancel", "canary", "no-baseline", "call", "other-delta"],
)
def test_what_must_not_signal_does_not(spark: SparkSession, line: str) -> None:
    assert signals(spark, changed(8, "100000", line)) == [(None, None, None, None)]


def test_a_small_or_constant_bucket_says_nothing(spark: SparkSession) -> None:
    for usual in (("P", "20-40", "short", 9, 100.0, 50.0), ("P", "20-40", "short", 30, 100.0, 0.0)):
        rows = [("AAPL", "2018-01-05", "9999-12-31", *usual)]
        assert signals(spark, changed(8, "100000"), usual=rows) == [(None, None, None, None)]


def test_every_trade_comes_out_once_whatever_the_baseline_holds(spark: SparkSession) -> None:
    lines = [changed(2, str(number)) for number in range(10)]
    assert len(signals(spark, *lines)) == 10
    assert len(signals(spark, *lines, usual=USUAL[:1])) == 10


def test_a_second_driver_on_a_checkpoint_is_refused(tmp_path: Path) -> None:
    with stream_trades.lock(tmp_path / "checkpoint"), pytest.raises(Refused, match="another driver"):
        stream_trades.lock(tmp_path / "checkpoint")
    stream_trades.lock(tmp_path / "checkpoint").close()
