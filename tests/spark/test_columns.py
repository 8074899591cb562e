"""Derived columns and signals, on a real Spark in this process."""

from __future__ import annotations

import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F  # noqa: N812 - Spark's own convention

from kintsugi.pipeline.stream import columns

NAN = float("nan")


@pytest.mark.parametrize(
    ("price", "bid", "ask", "expected"),
    [
        (1.40, 1.20, 1.40, "buy"), (1.50, 1.20, 1.40, "buy"), (1.20, 1.20, 1.40, "sell"),
        (1.10, 1.20, 1.40, "sell"),
        (1.35, 1.20, 1.40, "buy"), (1.25, 1.20, 1.40, "sell"), (1.25, 1.00, 1.50, "unknown"),
        (1.00, 0.00, 0.00, "unknown"), (1.30, 1.40, 1.20, "unknown"), (1.20, 1.20, 1.20, "unknown"),
        (0.05, 0.00, 0.05, "buy"), (0.00, 0.00, 0.05, "sell"),
    ],
)  # fmt: skip
def test_side_follows_the_quote_rule(
    spark: SparkSession, price: float, bid: float, ask: float, expected: str
) -> None:
    row = spark.createDataFrame([(price, bid, ask)], "price double, bid double, ask double")
    assert row.select(columns.side(F.col("price"), F.col("bid"), F.col("ask"))).collect()[0][0] == expected


def test_a_trade_exactly_at_the_midpoint_has_no_side(spark: SparkSession) -> None:
    """Every price of two decimals in the middle of quotes that are 2 to 20 cents apart, as doubles of their texts."""
    rows = [
        (
            float(f"{(bid + half) / 100:.2f}"),
            float(f"{bid / 100:.2f}"),
            float(f"{(bid + 2 * half) / 100:.2f}"),
        )
        for bid in range(0, 60_000, 7)
        for half in range(1, 11)
    ]
    assert sum(price > (bid + ask) / 2 or price < (bid + ask) / 2 for price, bid, ask in rows) > 10_000
    frame = spark.createDataFrame(rows, "price double, bid double, ask double")
    found = frame.select(columns.side(F.col("price"), F.col("bid"), F.col("ask")).alias("side"))
    assert {row.side: row["count"] for row in found.groupBy("side").count().collect()} == {
        "unknown": len(rows)
    }


@pytest.mark.parametrize("ask", [999_999_999.99, 0.0001])
def test_a_tick_beside_the_midpoint_has_a_side(spark: SparkSession, ask: float) -> None:
    bid = ask - 0.0001 if ask > 1 else 0.0
    row = spark.createDataFrame([(ask, bid, ask), (bid, bid, ask)], "price double, bid double, ask double")
    found = row.select(columns.side(F.col("price"), F.col("bid"), F.col("ask"))).collect()
    assert [r[0] for r in found] == ["buy", "sell"]


def test_bins_are_half_open_and_puts_use_the_size_of_their_delta(spark: SparkSession) -> None:
    deltas = [0.0, 0.1999, 0.2, -0.2, -0.3456, 0.4, 0.6, -0.7999, 0.8, 1.0, -1.0]
    frame = spark.createDataFrame([(n, d) for n, d in enumerate(deltas)], "n int, delta double")
    found = [r[0] for r in frame.orderBy("n").select(columns.delta_bin(F.col("delta"))).collect()]
    assert found == [
        "0-20", "0-20", "20-40", "20-40", "20-40", "40-60", "60-80", "60-80", "80-100", "80-100", "80-100",
    ]  # fmt: skip


def test_expiry_bins_end_at_30_and_60_days(spark: SparkSession) -> None:
    expirations = ["2024-10-08", "2024-11-07", "2024-11-08", "2024-12-07", "2024-12-08"]
    frame = spark.createDataFrame([("2024-10-08", e) for e in expirations], "t string, e string")
    found = [r[0] for r in frame.orderBy("e").select(columns.expiry_bin(F.col("t"), F.col("e"))).collect()]
    assert found == ["short", "short", "medium", "medium", "long"]


def test_what_has_expired_or_is_no_delta_is_in_no_bin(spark: SparkSession) -> None:
    frame = spark.createDataFrame([("2024-10-08", "2024-10-07", 1.01), ("2024-10-08", "2024-10-07", NAN)],
                                  "t string, e string, delta double")  # fmt: skip
    found = frame.select(
        columns.expiry_bin(F.col("t"), F.col("e")), columns.delta_bin(F.col("delta"))
    ).collect()
    assert [tuple(row) for row in found] == [(None, None), (None, None)]


def test_premium_is_dollars_for_contracts_of_100_shares(spark: SparkSession) -> None:
    frame = spark.createDataFrame([(10, 1.3)], "size int, price double")
    assert frame.select(columns.premium(F.col("size"), F.col("price"))).collect()[0][0] == pytest.approx(1300)
