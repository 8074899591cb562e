from __future__ import annotations

import math
import statistics
from datetime import date
from pathlib import Path

import pytest
from pyspark.sql import SparkSession  # noqa: TC002 - one import style for all Spark tests

from kintsugi.errors import InputError
from kintsugi.trades import chain
from kintsugi.trades.schema import BASELINE_COLUMNS
from spark_apps import build_baseline

SCHEMA = (
    "underlying_symbol string, quote_date string, expiration string, option_type string, trade_volume long, "
    "implied_volatility_1545 double, delta_1545 double"
)
DAY = "2024-10-07"


def buckets(spark: SparkSession, *rows: tuple[object, ...]) -> dict[tuple[str, ...], dict[str, object]]:
    frame = spark.createDataFrame(list(rows), SCHEMA)
    found = build_baseline.baseline(build_baseline.bucketed(frame)).collect()
    return {(r.symbol, r.option_type, r.delta_bin, r.expiry_bin): r.asDict() for r in found}


def test_statistics_are_by_bucket_over_contracts_that_traded(spark: SparkSession) -> None:
    put = ("^SPX", DAY, "2024-10-18", "P")
    found = buckets(
        spark, (*put, 10, 0.2, -0.3), (*put, 20, 0.3, -0.3), (*put, 60, 0.0, -0.3), (*put, 0, 0.4, -0.3),
        ("^SPX", DAY, "2024-10-18", "C", 7, 0.5, 0.3),
    )  # fmt: skip
    assert set(found) == {("^SPX", "P", "20-40", "short"), ("^SPX", "C", "20-40", "short")}
    one = found["^SPX", "P", "20-40", "short"]
    assert (one["volume_count"], one["volume_mean"], one["volume_median"]) == (3, 30.0, 20.0)
    assert one["volume_stddev"] == pytest.approx(26.4575, abs=1e-4)
    assert (one["iv_count"], one["iv_median"]) == (3, pytest.approx(0.3))
    logs = [math.log(n) for n in (10, 20, 60)]
    assert one["volume_log_stddev"] == pytest.approx(statistics.stdev(logs))
    assert one["iv_log_stddev"] == pytest.approx(
        statistics.stdev([math.log(0.2), math.log(0.3), math.log(0.4)])
    )
    assert one["as_of"] == DAY
    assert list(one) == [name for name, _ in BASELINE_COLUMNS]


def test_a_bucket_of_nothing_is_null_and_expired_contracts_are_left_out(spark: SparkSession) -> None:
    found = buckets(
        spark, ("A", DAY, "2024-10-18", "C", 0, 0.0, 0.5), ("A", DAY, "2024-10-04", "C", 9, 0.2, 0.9)
    )
    assert set(found) == {("A", "C", "40-60", "short")}
    one = found["A", "C", "40-60", "short"]
    assert (one["volume_count"], one["volume_mean"], one["volume_stddev"]) == (0, None, None)


def test_it_reads_the_vendors_file_and_refuses_another(tmp_path: Path) -> None:
    file = chain.write_eod(chain.build(date(2024, 10, 7), 1), tmp_path)
    table = build_baseline.read_eod(file.read_bytes(), "eod/f")
    assert table.num_rows > 10_000
    for body in (b"a,b\n1,2\n", b"", file.read_bytes().splitlines()[0] + b"\n"):
        with pytest.raises(InputError, match="eod/f"):
            build_baseline.read_eod(body, "eod/f")
