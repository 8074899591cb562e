"""The stream: trades from Kafka, enriched, into Cassandra. Runs until it is told to stop.

One driver at any time (a lock on the checkpoint); it starts from the checkpoint or, without one, from the
consumer group's offsets. A batch is: rows stored at LOCAL_QUORUM by the executors, what follows from them
(`derived`: windows, unusual trades, cancels) by the driver, then the group's offsets, then the
checkpoint. All rows are absolute upserts, so whatever is repeated after a crash changes nothing. A failing batch
restarts the query; when that brings no progress the process ends with status 1, and its supervisor starts
another.

Run by `kintsugi.trades.stream.submit_command`, which holds the flags for spark-submit.
"""

from __future__ import annotations

import argparse
import ctypes
import fcntl
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F  # noqa: N812 - Spark's own convention
from pyspark.sql import types as T  # noqa: N812
from pyspark.sql.streaming.query import StreamingQuery  # noqa: TC002 - heavy only in name

from kintsugi.errors import Refused
from kintsugi.settings import TOPIC
from kintsugi.trades.baselines import BASELINE_SCHEMA, BaselineCache
from kintsugi.trades.cassandra import connect
from kintsugi.trades.columns import canceled, delta_bin, expiry_bin, match_key, premium, side
from kintsugi.trades.derived import DERIVING, DERIVING_NAMES, Derived
from kintsugi.trades.derived_store import CassandraStore
from kintsugi.trades.offsets import OffsetCommitter, starting_offsets
from kintsugi.trades.schema import TRADE_COLUMNS
from kintsugi.trades.signals import with_signals
from kintsugi.trades.sink import arrow_sink

log = logging.getLogger("stream_trades")

ROWS_PER_TRIGGER = 20_000
FAILURES_WITHOUT_PROGRESS = 5
MESSAGE = T.StructType(
    [
        T.StructField(name, kind)
        for name, kind in (
            ("trade_id", T.StringType()), ("symbol", T.StringType()), ("ts", T.LongType()),
            ("trade_date", T.StringType()), ("slot", T.IntegerType()), ("sequence", T.LongType()),
            ("root", T.StringType()), ("expiration", T.StringType()), ("strike", T.DoubleType()),
            ("option_type", T.StringType()), ("exchange", T.IntegerType()), ("size", T.IntegerType()),
            ("price", T.DoubleType()), ("condition", T.IntegerType()),
            ("canceled_condition", T.IntegerType()),
            ("bid", T.DoubleType()), ("ask", T.DoubleType()), ("iv", T.DoubleType()),
            ("delta", T.DoubleType()),
            ("underlying_bid", T.DoubleType()), ("underlying_ask", T.DoubleType()),
            ("exchanges", T.IntegerType()),
        )
    ]
)  # fmt: skip


def parsed(messages: DataFrame) -> DataFrame:
    """Kafka records (``value``, ``partition``, ``offset``) → one row a trade, columns of `rows.Trade`."""
    return messages.select(
        F.from_json(F.col("value").cast("string"), MESSAGE).alias("trade"), "partition", "offset"
    ).select("trade.*", "partition", "offset")


def enriched(trades: DataFrame) -> DataFrame:
    """Adds ``premium`` (dollars), ``side``, ``canceled``, ``expiry_bin``, ``delta_bin``, ``match``; the rest stays."""
    condition = F.when(canceled(F.col("condition")), F.col("canceled_condition")).otherwise(
        F.col("condition")
    )
    return trades.withColumns(
        {
            "match": match_key(condition),
            "premium": premium(F.col("size"), F.col("price")),
            "side": side(F.col("price"), F.col("bid"), F.col("ask")),
            "canceled": canceled(F.col("condition")),
            "expiry_bin": expiry_bin(F.col("trade_date"), F.col("expiration")),
            "delta_bin": delta_bin(F.col("delta")),
        }
    )


def batch_writer(
    spark: SparkSession, contact_points: tuple[str, ...], committer: OffsetCommitter, baselines: BaselineCache,
    derived: Callable[[], Derived],
) -> Callable[[DataFrame, int], None]:  # fmt: skip
    """The function for ``foreachBatch``: store the batch's rows and what follows, then offer its offsets.

    ``derived`` is called once, at the first batch.
    """
    columns = dict.fromkeys((*(name for name, _ in TRADE_COLUMNS), *DERIVING_NAMES))
    usual = UsualFrame(spark, baselines)
    following: list[Derived] = []

    def write(batch: DataFrame, batch_id: int) -> None:
        trades = parsed(batch).where(F.col("trade_id").isNotNull())
        rows = with_signals(enriched(trades), usual.frame()).select(*columns)
        # One task a core: a task costs more than the rows of a small batch.
        rows = rows.coalesce(max(1, spark.sparkContext.defaultParallelism))
        stored = rows.mapInArrow(arrow_sink(contact_points, DERIVING_NAMES), DERIVING).toArrow()
        if not following:
            following.append(derived())
        summary = following[0].apply(stored)
        committer.offer(summary.ends)
        log.info("batch %d: %s", batch_id, summary)

    return write


class UsualFrame:
    """The baseline as a DataFrame, made anew only when the cache has read the table again."""

    def __init__(self, spark: SparkSession, baselines: BaselineCache) -> None:
        self._spark = spark
        self._baselines = baselines
        self._rows: object = None
        self._frame: DataFrame | None = None

    def frame(self) -> DataFrame:
        """Columns of `BASELINE_SCHEMA`."""
        rows = self._baselines.rows()
        if self._frame is None or rows is not self._rows:
            self._rows, self._frame = rows, self._spark.createDataFrame(rows, BASELINE_SCHEMA)
        return self._frame


def start_query(
    spark: SparkSession, options: argparse.Namespace, write: Callable[[DataFrame, int], None]
) -> StreamingQuery:
    """Start the query from its checkpoint or, if there is none, from the consumer group's offsets."""
    started = (options.checkpoint / "offsets").is_dir() and any(
        (options.checkpoint / "offsets").glob("[0-9]*")
    )
    offsets = "earliest" if started else starting_offsets(options.bootstrap.split(","))
    if not started:
        log.info("no checkpoint in %s: starting from %s", options.checkpoint, offsets)
    return (
        spark.readStream.format("kafka")
        .option("kafka.bootstrap.servers", options.bootstrap)
        .option("subscribe", TOPIC)
        .option("startingOffsets", offsets)
        .option("failOnDataLoss", "true")
        .option("maxOffsetsPerTrigger", options.rows_per_trigger)
        .option("kafka.metadata.max.age.ms", "5000")
        .option("kafka.request.timeout.ms", "6000")
        .option("kafka.default.api.timeout.ms", "20000")
        .option("kafka.reconnect.backoff.max.ms", "1000")
        .option("kafkaConsumer.pollTimeoutMs", "15000")
        .load()
        .writeStream.queryName("stream_trades")
        .foreachBatch(write)
        .option("checkpointLocation", str(options.checkpoint))
        .trigger(processingTime=f"{options.trigger_ms} milliseconds")
        .start()
    )


def supervise(spark: SparkSession, start: Callable[[], StreamingQuery]) -> int:
    """Keep the query running; returns the exit status: 0 stopped, 1 can't be kept running."""
    failures = 0
    while True:
        query: StreamingQuery | None = None
        try:
            query = start()
            query.awaitTermination()
            return 0
        except Exception as error:  # noqa: BLE001 - the query's error, or Kafka not answering at the start
            progressed = query is not None and any(p["numInputRows"] for p in query.recentProgress)
            failures = 1 if progressed else failures + 1
            log.error("the query failed (%d in a row without progress): %s", failures, str(error)[:2000])
        gateway: Any = spark.sparkContext
        if failures >= FAILURES_WITHOUT_PROGRESS or gateway._jsc.sc().isStopped():  # noqa: SLF001 - no public way
            log.error("giving up; the supervisor starts another driver from the checkpoint")
            return 1
        time.sleep(min(5.0, 0.5 * 2**failures))


def lock(checkpoint: Path) -> IO[str]:
    """Hold the checkpoint for this process's life; raises Refused when another driver has it."""
    checkpoint.mkdir(parents=True, exist_ok=True)
    held = (checkpoint / "driver.lock").open("a+")
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        held.close()
        raise Refused(
            f"another driver runs on the checkpoint {checkpoint}; two would race, so this one ends"
        ) from None
    return held


def die_with_parent() -> None:
    """End this process when spark-submit's JVM dies: an orphan would hold the lock and do nothing."""
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        sys.exit(1)


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Trades from Kafka into Cassandra.")
    parser.add_argument(
        "--bootstrap", required=True, help="comma-separated address:port of the Kafka brokers"
    )
    parser.add_argument(
        "--contact-points", required=True, help="comma-separated addresses of Cassandra nodes"
    )
    parser.add_argument("--checkpoint", required=True, type=Path, help="directory on the node's volume")
    parser.add_argument("--trigger-ms", type=int, default=250)
    parser.add_argument("--rows-per-trigger", type=int, default=ROWS_PER_TRIGGER)
    return parser.parse_args(argv)


def main() -> int:
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr
    )
    logging.getLogger("kafka").setLevel(logging.WARNING)
    logging.getLogger("cassandra").setLevel(logging.ERROR)
    logging.getLogger("py4j").setLevel(logging.WARNING)
    options = arguments()
    die_with_parent()
    try:
        held = lock(options.checkpoint)
    except Refused as refusal:
        log.error("%s", refusal)
        return 3
    spark = SparkSession.builder.appName("stream_trades").getOrCreate()
    spark.sparkContext.setLogLevel("WARN")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    committer = OffsetCommitter(options.bootstrap.split(","))
    contact_points = tuple(options.contact_points.split(","))
    epoch = time.time_ns() // 1000
    write = batch_writer(
        spark, contact_points, committer, BaselineCache(list(contact_points)),
        lambda: Derived(CassandraStore(connect(list(contact_points))), epoch=epoch),
    )  # fmt: skip
    try:
        return supervise(spark, lambda: start_query(spark, options, write))
    finally:
        committer.close()
        spark.stop()
        held.close()


if __name__ == "__main__":
    sys.exit(main())
