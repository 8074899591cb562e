"""The rival: a Spark application that stores trades from Kafka by the Spark Cassandra Connector, and does nothing else.

It runs in the Python of `environment`, so it imports only pyspark and our column functions. It reads a drain from each
line of its standard input, and answers with a line that begins with ``ANSWER``, both as JSON. One JVM does all drains,
so that it is warm for those that count. It ends with its input.

The trades are decoded and enriched as by ``spark_apps/stream_trades.py``. Messages are not checked, and no row has a
version. No derived table is written.
"""

from __future__ import annotations

import ctypes
import json
import signal
import sys
import time
from typing import Any

from pyspark.sql import Column, DataFrame, SparkSession  # noqa: TID253 - a Spark application
from pyspark.sql import functions as F  # noqa: TID253, N812 - Spark's own convention

from kintsugi.pipeline.stream.columns import delta_bin, expiry_bin, is_cancel, premium, side

ANSWER = "answer "
POLL_S = 0.3
# As `MESSAGE` of spark_apps/stream_trades.py, which needs packages that the rival's Python doesn't have.
MESSAGE = (
    "trade_id string, symbol string, ts bigint, trade_date string, slot int, sequence bigint, root string, "
    "expiration string, strike double, option_type string, exchange int, size int, price double, condition int, "
    "canceled_condition int, bid double, ask double, iv double, delta double, underlying_bid double, "
    "underlying_ask double, exchanges int"
)


def decode_trades(messages: DataFrame, columns: list[tuple[str, str]]) -> DataFrame:
    """Decode Kafka records (``value``) into ``columns``: pairs of a name and its type in Cassandra."""
    trades = messages.select(F.from_json(F.col("value").cast("string"), MESSAGE).alias("trade")).select(
        "trade.*"
    )
    enriched = trades.withColumns(
        {
            "premium": premium(F.col("size"), F.col("price")),
            "side": side(F.col("price"), F.col("bid"), F.col("ask")),
            "canceled": is_cancel(F.col("condition")),
            "expiry_bin": expiry_bin(F.col("trade_date"), F.col("expiration")),
            "delta_bin": delta_bin(F.col("delta")),
        }
    )
    return enriched.select(*(_as_cassandra_type(F.col(name), kind).alias(name) for name, kind in columns))


def _as_cassandra_type(value: Column, kind: str) -> Column:
    if kind == "text":
        return value
    if kind == "date":
        return F.to_date(value)
    if kind == "timestamp":
        return F.timestamp_millis(value)
    if kind == "blob":
        return F.unhex(value)
    return value.cast(kind)  # Spark has the same name for it


def drain_topic(spark: SparkSession, drain: dict[str, Any]) -> list[tuple[str, int, int]]:
    """Store what the topic holds from the drain's offsets on, or at least its ``messages`` of it.

    Returns the batches: start as ISO 8601, milliseconds, rows. Raises Spark's error if a batch fails, TimeoutError
    after ``seconds``.
    """
    messages = (
        spark.readStream.format("kafka")
        .option("subscribe", drain["topic"])
        .option("startingOffsets", drain["starting_offsets"])
        .option("failOnDataLoss", "true")
        .option("maxOffsetsPerTrigger", drain["rows_per_trigger"])
        .options(**drain["kafka"])
        .load()
    )
    query = (
        decode_trades(messages, drain["columns"])
        .writeStream.format("org.apache.spark.sql.cassandra")
        .options(keyspace=drain["keyspace"], table=drain["table"], **drain["options"])
        .option("checkpointLocation", drain["checkpoint"])
        .outputMode("append")
        .trigger(availableNow=True)
        .start()
    )
    deadline = time.monotonic() + drain["seconds"]
    try:
        while query.isActive and sum(p["numInputRows"] for p in query.recentProgress) < drain["messages"]:
            if time.monotonic() > deadline:
                raise TimeoutError(f"the drain took longer than {drain['seconds']:.0f} s")
            time.sleep(POLL_S)
        if (error := query.exception()) is not None:
            raise error
        return [
            (p["timestamp"], p["durationMs"]["triggerExecution"], p["numInputRows"])
            for p in query.recentProgress
        ]
    finally:
        query.stop()


def main() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: end with the benchmark
    spark = SparkSession.builder.master("local[2]").appName("rival").getOrCreate()
    spark.sparkContext.setLogLevel("WARN")
    _print_answer({"spark": spark.version})
    for line in sys.stdin:
        try:
            _print_answer({"batches": drain_topic(spark, json.loads(line))})
        except Exception as error:  # noqa: BLE001 - told to the benchmark, which raises it
            _print_answer({"error": f"{type(error).__name__}: {error}"[:2_000]})
    spark.stop()


def _print_answer(answer: dict[str, Any]) -> None:
    print(f"{ANSWER}{json.dumps(answer)}", flush=True)


if __name__ == "__main__":
    main()
