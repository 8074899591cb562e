"""What is usual: statistics of an end-of-day file by bucket, into Cassandra's table ``baseline``.

For each (underlying, call/put, delta bin, expiry bin): count, mean, median and standard deviation of the
day's volume a contract over the contracts that traded, and of implied volatility over those that have
one. The driver fetches the file from S3, Spark computes, the driver writes the buckets (30 a symbol) and
then the file's manifest: a file without a manifest is done again, to the same rows.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from datetime import UTC, datetime
from io import BytesIO
from typing import Any

import pyarrow as pa
import pyarrow.csv as pacsv
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F  # noqa: N812 - Spark's own convention

from kintsugi.connections import s3_client
from kintsugi.errors import InputError, KintsugiError
from kintsugi.fleet import Role
from kintsugi.settings import BUCKET, load_settings
from kintsugi.trades.baselines import announce, manifest_key
from kintsugi.trades.cassandra import connected
from kintsugi.trades.columns import delta_bin, expiry_bin
from kintsugi.trades.schema import BASELINE_COLUMNS
from kintsugi.trades.sink import Writer, by_partition, cassandra_date

log = logging.getLogger("build_baseline")

READ = {
    "underlying_symbol": pa.string(), "quote_date": pa.string(), "expiration": pa.string(),
    "option_type": pa.string(), "trade_volume": pa.int64(), "implied_volatility_1545": pa.float64(),
    "delta_1545": pa.float64(),
}  # fmt: skip
BUCKETS = ("symbol", "as_of", "option_type", "delta_bin", "expiry_bin")


def bucketed(eod: DataFrame) -> DataFrame:
    """Rows of the end-of-day file → ``symbol as_of option_type delta_bin expiry_bin volume iv``.

    Rows that are neither call nor put, or that have expired, are left out.
    """
    return eod.where(
        F.col("option_type").isin("C", "P") & (F.col("expiration") >= F.col("quote_date"))
    ).select(
        F.col("underlying_symbol").alias("symbol"),
        F.col("quote_date").alias("as_of"),
        "option_type",
        delta_bin(F.col("delta_1545")).alias("delta_bin"),
        expiry_bin(F.col("quote_date"), F.col("expiration")).alias("expiry_bin"),
        F.col("trade_volume").alias("volume"),
        F.col("implied_volatility_1545").alias("iv"),
    )


def baseline(contracts: DataFrame) -> DataFrame:
    """One row a bucket, columns of BASELINE_COLUMNS.

    Volume is that of rows with volume > 0, implied volatility that of rows with iv > 0.
    Standard deviations are those of a sample, null for a single row; the statistics of nothing are null,
    their count 0. ``log_stddev``: the standard deviation of the natural logarithm, which is what describes the
    width of a heavy-tailed distribution; its centre is the logarithm of the median.
    """
    volume = F.when(F.col("volume") > 0, F.col("volume").cast("double"))
    iv = F.when(F.col("iv") > 0, F.col("iv"))
    return contracts.groupBy(*BUCKETS).agg(
        *(
            function(column).alias(f"{name}_{statistic}")
            for name, column in (("volume", volume), ("iv", iv))
            for statistic, function in (
                ("count", lambda c: F.count(c).cast("int")),
                ("mean", F.mean),
                ("median", F.median),
                ("stddev", F.stddev_samp),
                ("log_stddev", lambda c: F.stddev_samp(F.log(c))),
            )
        )
    ).select(*(name for name, _ in BASELINE_COLUMNS))  # fmt: skip


def read_eod(body: bytes, key: str) -> pa.Table:
    """The columns that matter; raises InputError when the file isn't an end-of-day file."""
    options = pacsv.ConvertOptions(column_types=READ, include_columns=list(READ))
    try:
        table = pacsv.read_csv(BytesIO(body), convert_options=options)
    except (pa.ArrowInvalid, pa.ArrowKeyError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{key} is no end-of-day file: {reason}; deliver it again") from error
    if not table.num_rows:
        raise InputError(f"{key} has no rows; deliver it again")
    return table


def store(contact_points: list[str], rows: list[tuple[Any, ...]]) -> int:
    """Write bucket rows (BASELINE_COLUMNS, dates as text), and announce them to the stream; returns how many."""
    prepared = [(row[0], cassandra_date(row[1]), *row[2:]) for row in rows]
    with connected(contact_points) as session:
        writer = Writer(session)
        written = writer.write(writer.baseline, by_partition(prepared, 1), retry_for=60.0)
        announce(session)
        return written


def build(spark: SparkSession, s3: Any, key: str, contact_points: list[str]) -> None:
    """One file: statistics into Cassandra, then its manifest. An unusable file is recorded as failed."""
    found = s3.get_object(Bucket=BUCKET, Key=key)
    manifest: dict[str, Any] = {
        "key": key,
        "etag": found["ETag"],
        "state": "done",
        "reason": None,
        "buckets": 0,
    }
    try:
        table = read_eod(found["Body"].read(), key)
        rows = [tuple(row) for row in baseline(bucketed(spark.createDataFrame(table))).collect()]
        manifest |= {"rows": table.num_rows, "buckets": store(contact_points, rows)}
    except InputError as error:
        log.error("%s", error)
        manifest |= {"state": "failed", "reason": str(error)}
    manifest["finished_at"] = datetime.now(UTC).isoformat()
    s3.put_object(
        Bucket=BUCKET, Key=manifest_key(key, found["ETag"]), Body=json.dumps(manifest).encode(),
        ContentType="application/json",
    )  # fmt: skip
    log.info("%s: %s", key, {k: v for k, v in manifest.items() if k != "key"})


def main(argv: list[str] | None = None) -> int:
    """Build the baseline of each ``--key``; 1 when Cassandra or S3 failed."""
    parser = argparse.ArgumentParser(description="Statistics of end-of-day files into Cassandra.")
    parser.add_argument("keys", help="comma-separated keys of end-of-day files in the bucket")
    options = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    logging.getLogger("cassandra").setLevel(logging.ERROR)
    settings = load_settings()
    contact_points = [node.address for node in settings.fleet.of(Role.CASSANDRA)]
    spark = SparkSession.builder.appName("build_baseline").getOrCreate()
    try:
        for key in filter(None, options.keys.split(",")):
            build(spark, s3_client(settings), key, contact_points)
    except KintsugiError as error:
        log.error("%s", error)
        return 1
    finally:
        spark.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
