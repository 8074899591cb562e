from __future__ import annotations

import gzip
import json
import math
import statistics
from datetime import date
from pathlib import Path

import boto3
import pytest
from moto import mock_aws
from pyspark.sql import SparkSession
from pyspark.sql import functions as F  # noqa: N812 - Spark's own convention

from kintsugi.core.errors import InputError
from kintsugi.pipeline.ingest.dead_letters import RejectedRows
from kintsugi.pipeline.schema import BASELINE_COLUMNS
from kintsugi.sampledata import option_chain
from spark_apps import build_baseline

SCHEMA = (
    "underlying_symbol string, quote_date string, expiration string, option_type string, trade_volume long, "
    "implied_volatility_1545 double, delta_1545 double"
)
DAY = "2024-10-07"
CASES = Path(__file__).parents[1] / "data" / "cases"


def buckets(spark: SparkSession, *rows: tuple[object, ...]) -> dict[tuple[str, ...], dict[str, object]]:
    frame = spark.createDataFrame(list(rows), SCHEMA)
    found = build_baseline.compute_baseline(build_baseline.assign_buckets(frame)).collect()
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


def test_equal_values_deviate_by_exactly_nothing(spark: SparkSession) -> None:
    """In parts, whose merging leaves about 1e-16 instead of 0 for some of a hundred buckets."""
    rows = [
        (f"S{volume}", DAY, "2024-10-18", "P", volume, volume / 10_000, -0.3)
        for volume in range(3, 103)
        for _ in range(17)
    ]
    contracts = build_baseline.assign_buckets(spark.createDataFrame(rows, SCHEMA).repartition(5))
    plain = contracts.groupBy("symbol").agg(F.stddev_samp(F.log("volume")).alias("deviation")).collect()
    assert max(row.deviation for row in plain) > 0
    names = ("volume_stddev", "volume_log_stddev", "iv_stddev", "iv_log_stddev")
    found = build_baseline.compute_baseline(contracts).collect()
    assert {row[name] for row in found for name in names} == {0.0}
    assert [row.volume_count for row in found] == [17] * 100


def test_a_row_in_no_bin_makes_no_bucket(spark: SparkSession) -> None:
    good = ("^SPX", DAY, "2024-10-18", "P", 10, 0.2, -0.3)
    for column, value in ((0, None), (1, None), (2, None), (3, None), (3, "X"), (6, None), (6, 1.0001)):
        bad = tuple(value if index == column else cell for index, cell in enumerate(good))
        assert len(buckets(spark, good, bad)) == 1, bad


@pytest.mark.parametrize("form", ["csv.gz", "zip"])
def test_a_packed_file_is_read_as_a_plain_one(spark: SparkSession, form: str) -> None:
    name = f"UnderlyingOptionsEODCalcs_2024-10-07.{form}"
    table = build_baseline.read_eod((CASES / name).read_bytes(), name)
    plain = gzip.decompress((CASES / "UnderlyingOptionsEODCalcs_2024-10-07.csv.gz").read_bytes())
    assert table.num_rows == 40
    assert table == build_baseline.read_eod(plain, "plain")


def test_odd_rows_fail_alone_with_a_reason_and_their_raw_line() -> None:
    name = "UnderlyingOptionsEODCalcs_2024-10-07_odd_rows.csv"
    rejected = RejectedRows(name, "e")
    assert build_baseline.read_eod((CASES / name).read_bytes(), name, rejected).num_rows == 9
    assert rejected.counts == {"number": 1, "range": 1, "columns": 1}
    with mock_aws():
        s3 = boto3.client("s3", region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="x")
        s3.create_bucket(Bucket="bucket")
        rejected.upload(s3, "bucket")
        (item,) = s3.list_objects_v2(Bucket="bucket", Prefix="dead-letter/")["Contents"]
        letters = s3.get_object(Bucket="bucket", Key=item["Key"])["Body"].read().splitlines()
    delivered = (CASES / name).read_text().splitlines()
    for letter in map(json.loads, letters):
        assert letter["raw"] == delivered[letter["line"] - 1]


def test_it_reads_the_vendors_file_and_refuses_another(tmp_path: Path) -> None:
    file = option_chain.write_eod(option_chain.build_chain(date(2024, 10, 7), 1), tmp_path)
    table = build_baseline.read_eod(file.read_bytes(), "eod/f")
    assert table.num_rows > 10_000
    for body in (b"a,b\n1,2\n", b"", file.read_bytes().splitlines()[0] + b"\n"):
        with pytest.raises(InputError, match="eod/f"):
            build_baseline.read_eod(body, "eod/f")
