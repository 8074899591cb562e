"""Compute the baseline: statistics of an end-of-day file by bucket, written to Cassandra's table ``baseline``.

For each bucket (underlying, call or put, delta bin, expiry bin) these are count, mean, median and standard deviation:
of the day's volume over the contracts that traded, and of implied volatility over the contracts that have one. The
driver reads the file from S3, Spark computes, and the driver writes the buckets (30 a symbol) and then the file's
manifest. A file without a manifest is processed again, with the same result.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F  # noqa: N812 - Spark's own convention

from kintsugi.core.certificates import Principal
from kintsugi.core.connections import data_sources, s3_client
from kintsugi.core.data_source import DataSource, own_source
from kintsugi.core.errors import InputError, KintsugiError
from kintsugi.core.fleet import Role
from kintsugi.core.s3_keys import S3Purpose
from kintsugi.core.settings import BUCKET, load_settings
from kintsugi.pipeline.cassandra_session import session_scope
from kintsugi.pipeline.ingest.byte_sources import BytesSource
from kintsugi.pipeline.ingest.dead_letters import RejectedRows
from kintsugi.pipeline.ingest.end_of_day import EodRow
from kintsugi.pipeline.ingest.file_reader import BadLine, eod_rows
from kintsugi.pipeline.schema import BASELINE_COLUMNS
from kintsugi.pipeline.stream.baselines import announce_baseline, find_source, manifest_key
from kintsugi.pipeline.stream.cassandra_sink import Writer, group_by_partition
from kintsugi.pipeline.stream.columns import delta_bin, expiry_bin
from kintsugi.pipeline.stream.cql_values import cassandra_date

log = logging.getLogger("build_baseline")

# The columns of `EodRow`.
READ = pa.schema(
    [
        ("underlying_symbol", pa.string()), ("quote_date", pa.string()), ("expiration", pa.string()),
        ("option_type", pa.string()), ("trade_volume", pa.int64()), ("implied_volatility_1545", pa.float64()),
        ("delta_1545", pa.float64()),
    ]
)  # fmt: skip
ROWS = 50_000  # that are held as Python objects at once
BUCKETS = ("symbol", "as_of", "option_type", "delta_bin", "expiry_bin")


def assign_buckets(eod: DataFrame) -> DataFrame:
    """Return the rows of an end-of-day file as ``symbol as_of option_type delta_bin expiry_bin volume iv``.

    Rows that are neither call nor put, have expired, or are in no bin are left out: the first five columns are parts of
    a key, in which Cassandra accepts no null.
    """
    rows = eod.where(F.col("option_type").isin("C", "P")).select(
        F.col("underlying_symbol").alias("symbol"),
        F.col("quote_date").alias("as_of"),
        "option_type",
        delta_bin(F.col("delta_1545")).alias("delta_bin"),
        expiry_bin(F.col("quote_date"), F.col("expiration")).alias("expiry_bin"),
        F.col("trade_volume").alias("volume"),
        F.col("implied_volatility_1545").alias("iv"),
    )
    return rows.dropna(subset=list(BUCKETS))


def compute_baseline(contracts: DataFrame) -> DataFrame:
    """Return one row for each bucket, with the columns BASELINE_COLUMNS.

    Volume counts in rows with volume > 0, implied volatility in rows with iv > 0. Standard deviations are those of a
    sample, null for a single row. They are exactly 0 where all values are equal: Spark merges the parts of a bucket
    with rounding and returns about 1e-16, and a z-score with that would be 1e16. Without rows the statistics are null,
    and the count is 0. ``log_stddev``: the standard deviation of the natural logarithm. It describes the width of a
    heavy-tailed distribution, whose centre is the logarithm of the median.
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
                ("stddev", lambda c: _exact_deviation(c, F.stddev_samp(c))),
                ("log_stddev", lambda c: _exact_deviation(c, F.stddev_samp(F.log(c)))),
            )
        )
    ).select(*(name for name, _ in BASELINE_COLUMNS))  # fmt: skip


def _exact_deviation(values: Column, deviation: Column) -> Column:
    return F.when((F.count(values) > 1) & (F.min(values) == F.max(values)), F.lit(0.0)).otherwise(deviation)


def read_eod(body: bytes, key: str, rejected: RejectedRows | None = None) -> pa.Table:
    """Read the used columns of an end-of-day file: plain, gzip or zip. Invalid rows are added to ``rejected``.

    Raises InputError when the file isn't an end-of-day file or has no valid row.
    """
    rejected = rejected or RejectedRows(key, "")
    batches: list[pa.RecordBatch] = []
    rows: list[EodRow] = []
    for number, row in eod_rows(BytesSource(body, key), rejected.notes.append):
        if isinstance(row, BadLine):
            rejected.add(number, row)
            continue
        rows.append(row)
        if len(rows) == ROWS:
            batches.append(_record_batch(rows))
            rows = []
    batches.append(_record_batch(rows))
    table = pa.Table.from_batches(batches)
    if not table.num_rows:
        counts = f"; all are rejected: {rejected.counts}" if rejected.counts else ""
        raise InputError(f"{key} has no row that can be used{counts}; deliver it again")
    return table


def _record_batch(rows: list[EodRow]) -> pa.RecordBatch:
    columns = list(zip(*rows, strict=True)) or [()] * len(READ)
    return pa.RecordBatch.from_arrays(
        [pa.array(column, field.type) for column, field in zip(columns, READ, strict=True)], schema=READ
    )


def store_baseline(contact_points: list[str], rows: list[tuple[Any, ...]]) -> int:
    """Write rows (BASELINE_COLUMNS, dates as text), and announce them to the stream; returns their number."""
    values = [(row[0], cassandra_date(row[1]), *row[2:]) for row in rows]
    with session_scope(contact_points, Principal.STREAM) as session:
        writer = Writer(session)
        count = writer.write(writer.baseline, group_by_partition(values, 1), retry_for=60.0)
        announce_baseline(session)
        return count


def build_baseline(
    spark: SparkSession, s3: Any, key: str, contact_points: list[str], source: DataSource | None = None
) -> None:
    """Write the statistics of one file to Cassandra, then its manifest. An unusable file is recorded as failed.

    ``s3``: where the manifest is written. ``source``: where the file is; default: the same bucket.
    """
    data = source or own_source(s3)
    response = data.client.get_object(Bucket=data.bucket, Key=key)
    manifest: dict[str, Any] = {
        "key": key,
        "etag": response["ETag"],
        "state": "done",
        "reason": None,
        "buckets": 0,
        "accepted": 0,
    }
    rejected = RejectedRows(key, response["ETag"])
    try:
        table = read_eod(response["Body"].read(), key, rejected)
        rows = [
            tuple(row) for row in compute_baseline(assign_buckets(spark.createDataFrame(table))).collect()
        ]
        manifest |= {
            "rows": table.num_rows, "accepted": table.num_rows, "buckets": store_baseline(contact_points, rows),
            "reason": rejected.note(),
        }  # fmt: skip
    except InputError as error:
        log.error("%s", error)
        manifest |= {"state": "failed", "reason": str(error)}
    manifest |= {"read": manifest["accepted"] + rejected.count, "rejected": rejected.counts}
    rejected.upload(s3, BUCKET)
    manifest["finished_at"] = datetime.now(UTC).isoformat()
    s3.put_object(
        Bucket=BUCKET, Key=manifest_key(key, response["ETag"]), Body=json.dumps(manifest).encode(),
        ContentType="application/json",
    )  # fmt: skip
    log.info("%s: %s", key, {k: v for k, v in manifest.items() if k != "key"})


def main(argv: list[str] | None = None) -> int:
    """Build the baseline of each file; returns 1 when Cassandra or S3 failed."""
    parser = argparse.ArgumentParser(description="Statistics of end-of-day files into Cassandra.")
    parser.add_argument("keys", help="end-of-day files with commas between: keys, or s3://bucket/key")
    options = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    logging.getLogger("cassandra").setLevel(logging.ERROR)
    settings = load_settings()
    contact_points = [node.address for node in settings.fleet.of(Role.CASSANDRA)]
    spark = SparkSession.builder.appName("build_baseline").getOrCreate()
    try:
        sources, s3 = data_sources(settings, S3Purpose.INGEST), s3_client(settings, S3Purpose.INGEST)
        for uri in filter(None, options.keys.split(",")):
            source, key = find_source(sources, uri)
            build_baseline(spark, s3, key, contact_points, source)
    except KintsugiError as error:
        log.error("%s", error)
        return 1
    finally:
        spark.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
