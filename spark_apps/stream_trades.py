"""The stream: trades from Kafka, enriched, into Cassandra. Runs until it is told to stop.

One driver at any time (a lock on the checkpoint); it starts from the checkpoint or, without one, from the
consumer group's offsets. A batch is: rows stored at LOCAL_QUORUM by the executors, what follows from them
(`derived`: windows, unusual trades, cancels) by the driver, then the group's offsets, then the
checkpoint. All rows are absolute upserts, so whatever is repeated after a crash changes nothing. A failing batch
restarts the query; when that brings no progress the process ends with status 1, and its supervisor starts
another, which starts from the group's offsets: the checkpoint may be what it failed for, so it is set aside.

Run by `kintsugi.pipeline.stream.submission.submit_command`, which holds the flags for spark-submit.
"""

from __future__ import annotations

import argparse
import ctypes
import fcntl
import logging
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F  # noqa: N812 - Spark's own convention
from pyspark.sql import types as T  # noqa: N812
from pyspark.sql.streaming.query import StreamingQuery  # noqa: TC002 - heavy only in name

from kintsugi.core.errors import GuardRefused, KintsugiError
from kintsugi.core.settings import TOPIC
from kintsugi.pipeline.cassandra_session import connect_session
from kintsugi.pipeline.consumer_offsets import (
    OffsetCommitter,
    batch_ends,
    checkpoint_position,
    starting_offsets,
)
from kintsugi.pipeline.schema import TRADE_COLUMNS, VERSION_COLUMN, migrate_tables
from kintsugi.pipeline.stream.baselines import BaselineCache
from kintsugi.pipeline.stream.cassandra_repository import CassandraRepository
from kintsugi.pipeline.stream.cassandra_sink import arrow_sink
from kintsugi.pipeline.stream.columns import delta_bin, expiry_bin, is_cancel, match_key, premium, side
from kintsugi.pipeline.stream.derived_tables import RETURNED as OF_TRADES
from kintsugi.pipeline.stream.derived_tables import RETURNED_NAMES as TRADE_NAMES
from kintsugi.pipeline.stream.derived_tables import DerivedTables
from kintsugi.pipeline.stream.driver_reports import StreamLetters
from kintsugi.pipeline.stream.message_check import RAW_BYTES, find_problem
from kintsugi.pipeline.stream.signals import days_of, with_scores

if TYPE_CHECKING:
    from pyarrow import RecordBatch

log = logging.getLogger("stream_trades")

ROWS_PER_TRIGGER = 20_000
FAILURES_WITHOUT_PROGRESS = 5
LOCK = "driver.lock"
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


# Of a message that is no trade: why not, its first bytes, and how many it has; null for a trade.
REFUSED = (("problem", "string"), ("raw", "binary"), ("bytes", "int"))
RETURNED = ", ".join((OF_TRADES, *(f"{name} {kind}" for name, kind in REFUSED)))
RETURNED_NAMES = (*TRADE_NAMES, *(name for name, _ in REFUSED))


def parse_messages(messages: DataFrame) -> DataFrame:
    """Kafka records (``value``, ``partition``, ``offset``, ``timestamp``) → one row each, the columns of `Trade`.

    They are null where ``problem`` says that the record is no trade; then ``raw`` and ``bytes`` tell what it is.
    ``stamp``: the version of the trade's row, see `schema.VERSION_COLUMN`.
    """
    value, trade = F.col("value"), F.col("trade")
    refused = F.col("problem").isNotNull()
    stamp = F.unix_micros("timestamp") + F.col("offset") % 1000
    return (
        messages.select(
            F.from_json(value.cast("string"), MESSAGE).alias("trade"), "value", "partition", "offset",
            stamp.alias("stamp"),
        )
        .withColumn("problem", find_problem(trade, value))
        .select(
            F.when(~refused, trade).alias("trade"), "partition", "offset", "stamp", "problem",
            F.when(refused, F.substring(value, 1, RAW_BYTES)).alias("raw"),
            F.when(refused, F.length(value)).alias("bytes"),
        )
        .select("trade.*", "partition", "offset", "stamp", *(name for name, _ in REFUSED))
    )  # fmt: skip


def enrich_trades(trades: DataFrame) -> DataFrame:
    """Adds ``premium`` (dollars), ``side``, ``canceled``, ``expiry_bin``, ``delta_bin``, ``match``; the rest stays."""
    condition = F.when(is_cancel(F.col("condition")), F.col("canceled_condition")).otherwise(
        F.col("condition")
    )
    return trades.withColumns(
        {
            "match": match_key(condition),
            "premium": premium(F.col("size"), F.col("price")),
            "side": side(F.col("price"), F.col("bid"), F.col("ask")),
            "canceled": is_cancel(F.col("condition")),
            "expiry_bin": expiry_bin(F.col("trade_date"), F.col("expiration")),
            "delta_bin": delta_bin(F.col("delta")),
        }
    )


class OutdatedPlan(KintsugiError):
    """The batch needs another plan than its query has."""


class QueryPlan:
    """What is done with every batch, planned once a query: to plan it takes several times as long as a small batch.

    A query whose plan is `outdated` ends before its next batch, and the next one begins with that batch.
    """

    def __init__(
        self,
        spark: SparkSession,
        sink: Callable[[Iterator[RecordBatch]], Iterator[RecordBatch]],
    ) -> None:
        self._spark = spark
        self._sink = sink
        self._tasks = 0

    def stored(self, messages: DataFrame) -> DataFrame:
        """Kafka records → a row of `RETURNED` for each of them, once those that are trades are stored."""
        self._tasks = self._cores()
        columns = dict.fromkeys((*(name for name, _ in (*TRADE_COLUMNS, VERSION_COLUMN)), *RETURNED_NAMES))
        rows = enrich_trades(parse_messages(messages)).select(*columns)
        # One task a core: a task costs more than the rows of a small batch.
        return rows.coalesce(self._tasks).mapInArrow(self._sink, RETURNED)

    def outdated(self) -> str | None:
        """Why the next batch needs another plan, as half a sentence; None when it doesn't."""
        return "there are more executors now" if self._cores() > self._tasks else None

    def _cores(self) -> int:
        return max(1, self._spark.sparkContext.defaultParallelism)


def batch_writer(
    plan: QueryPlan,
    committer: OffsetCommitter,
    letters: StreamLetters,
    baselines: BaselineCache,
    derived: Callable[[], DerivedTables],
) -> Callable[[DataFrame, int], None]:
    """The function for ``foreachBatch``: store the batch's rows and what follows, then offer its offsets.

    Every batch offers them, whatever it holds: a message that is no trade becomes a dead letter and holds up nothing.
    It takes what `Plan.stored` returns, and raises Outdated, having done nothing, when the plan is. ``derived`` is
    called once, at the first batch.
    """
    following: list[DerivedTables] = []

    def write(stored: DataFrame, batch_id: int) -> None:
        if (why := plan.outdated()) is not None:
            raise OutdatedPlan(f"{why}: the query ends and begins anew, nothing is wrong")
        rows = stored.toArrow()
        if not following:
            following.append(derived())
        trades = rows.filter(rows.column("problem").is_null()).select(list(TRADE_NAMES))
        summary = following[0].apply(with_scores(trades, baselines.of(days_of(trades))))
        if trades.num_rows < rows.num_rows:
            letters.refused(rows.filter(rows.column("problem").is_valid()).to_pylist())
        committer.offer(batch_ends(rows))
        log.info("batch %d: %s, %d refused", batch_id, summary, rows.num_rows - trades.num_rows)

    return write


def start_offsets(
    bootstrap: list[str], checkpoint: Path, letters: StreamLetters, committer: OffsetCommitter
) -> str:
    """Spark's ``startingOffsets``, which it uses only where the checkpoint doesn't say where to begin.

    1. The checkpoint counts as long as Kafka holds everything from its position on.
    2. Else it is set aside, and the driver begins at the consumer group's offsets, or at the log's beginning where
       that is later.
    3. What Kafka deleted before it was stored is reported before anything is read.
    4. In either case the group gets the position. A driver that was killed between a batch's checkpoint and its
       commit would otherwise show a lag until the next trade.

    Raises KafkaError and KintsugiError; then nothing was begun.
    """
    position = checkpoint_position(checkpoint)
    start = starting_offsets(bootstrap, position)
    for lost in start.lost:
        log.error("Kafka deleted messages before they were stored, %s; they are replayed from S3", lost)
    if start.lost:
        letters.lost(start.lost)
    if not start.can_serve(position):
        log.info("no checkpoint in %s that Kafka can serve: starting from %s", checkpoint, start.to_spark())
        set_aside(checkpoint)
    committer.offer(start.offsets)
    return start.to_spark()


def start_query(
    spark: SparkSession,
    options: argparse.Namespace,
    plan: QueryPlan,
    write: Callable[[DataFrame, int], None],
    letters: StreamLetters,
    committer: OffsetCommitter,
) -> StreamingQuery:
    """Start the query from its checkpoint or, where that can't be, from the nearest offsets that the log holds."""
    offsets = start_offsets(options.bootstrap.split(","), options.checkpoint, letters, committer)
    messages = (
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
    )
    return (
        plan.stored(messages)
        .writeStream.queryName("stream_trades")
        .foreachBatch(write)
        .option("checkpointLocation", str(options.checkpoint))
        .trigger(processingTime=f"{options.trigger_ms} milliseconds")
        .start()
    )


def supervise_query(
    spark: SparkSession, plan: QueryPlan, start: Callable[[], StreamingQuery], checkpoint: Path
) -> int:
    """Keep the query running; returns the exit status: 0 stopped, 1 can't be kept running.

    In vain again and again: then the checkpoint is set aside. Nothing is lost by it, because the group's offsets are
    never ahead of what is stored; and one that is damaged would end every driver to come.
    """
    failures = 0
    while True:
        query: StreamingQuery | None = None
        try:
            query = start()
            query.awaitTermination()
            return 0
        except Exception as error:  # noqa: BLE001 - the query's error, or Kafka not answering at the start
            if query is not None and (why := plan.outdated()) is not None:
                log.info("planning anew: %s", why)
                continue
            progressed = query is not None and any(p["numInputRows"] for p in query.recentProgress)
            failures = 1 if progressed else failures + 1
            log.error("the query failed (%d in a row without progress): %s", failures, str(error)[:2000])
        gateway: Any = spark.sparkContext
        if failures >= FAILURES_WITHOUT_PROGRESS:
            set_aside(checkpoint)
            log.error("giving up; the supervisor starts another driver from the consumer group's offsets")
            return 1
        if gateway._jsc.sc().isStopped():  # noqa: SLF001 - no public way
            log.error("giving up; the supervisor starts another driver from the checkpoint")
            return 1
        time.sleep(min(5.0, 0.5 * 2**failures))


def set_aside(checkpoint: Path) -> None:
    """Move what Spark keeps in the checkpoint into a directory beside it, in the place of what lay there before."""
    if all(kept.name == LOCK for kept in checkpoint.iterdir()):
        return
    aside = checkpoint.with_name(f"{checkpoint.name}.set-aside")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    for kept in checkpoint.iterdir():
        if kept.name != LOCK:
            kept.rename(aside / kept.name)


def lock_checkpoint(checkpoint: Path) -> IO[str]:
    """Hold the checkpoint for this process's life; raises GuardRefused when another driver has it."""
    checkpoint.mkdir(parents=True, exist_ok=True)
    held = (checkpoint / LOCK).open("a+")
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        held.close()
        raise GuardRefused(
            f"another driver runs on the checkpoint {checkpoint}; two would race, so this one ends"
        ) from None
    return held


def die_with_parent() -> None:
    """End this process when spark-submit's JVM dies: an orphan would hold the lock and do nothing."""
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        sys.exit(1)


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
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
    options = parse_arguments()
    die_with_parent()
    try:
        held = lock_checkpoint(options.checkpoint)
    except GuardRefused as refusal:
        log.error("%s", refusal)
        return 3
    spark = SparkSession.builder.appName("stream_trades").getOrCreate()
    spark.sparkContext.setLogLevel("WARN")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    committer = OffsetCommitter(options.bootstrap.split(","))
    contact_points = tuple(options.contact_points.split(","))
    epoch = time.time_ns() // 1000
    plan = QueryPlan(spark, arrow_sink(contact_points, RETURNED_NAMES))
    letters = StreamLetters(options.bootstrap.split(","))

    def derived() -> DerivedTables:
        migrate_tables(list(contact_points))  # a roll-out starts the driver before anybody runs `make up`
        return DerivedTables(CassandraRepository(connect_session(list(contact_points))), epoch=epoch)

    write = batch_writer(plan, committer, letters, BaselineCache(list(contact_points)), derived)
    try:
        return supervise_query(
            spark,
            plan,
            lambda: start_query(spark, options, plan, write, letters, committer),
            options.checkpoint,
        )
    finally:
        committer.close()
        spark.stop()
        held.close()


if __name__ == "__main__":
    sys.exit(main())
