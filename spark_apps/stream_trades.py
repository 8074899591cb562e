"""The stream: read trades from Kafka, enrich them, and write them to Cassandra. Runs until it is stopped.

Only one driver runs at any time, by a lock on the checkpoint. It starts from the checkpoint or, without one, from the
consumer group's offsets. The steps of a batch:

1. The executors store the trades at LOCAL_QUORUM.
2. The driver writes what follows from them (`derived_tables`: windows, unusual trades, cancels).
3. The driver commits the group's offsets.
4. Spark writes the checkpoint.

All rows are absolute upserts, so a batch that is repeated after a crash changes nothing. When a batch fails, the query
is restarted. When that makes no progress, the process ends with status 1, and its supervisor starts another one. The
checkpoint may be the cause, so it is set aside, and the new driver starts from the group's offsets.

`kintsugi.pipeline.stream.submission.submit_command` runs it, with all flags of spark-submit.
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
from functools import lru_cache
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F  # noqa: N812 - Spark's own convention
from pyspark.sql import types as T  # noqa: N812
from pyspark.sql.streaming.query import StreamingQuery  # noqa: TC002 - heavy only in name

from kintsugi.core.certificates import Principal
from kintsugi.core.client_tls import spark_kafka_options
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
from kintsugi.pipeline.stream.batch_columns import RETURNED as TRADES_RETURNED
from kintsugi.pipeline.stream.batch_columns import RETURNED_NAMES as TRADE_NAMES
from kintsugi.pipeline.stream.cassandra_repository import CassandraRepository
from kintsugi.pipeline.stream.cassandra_sink import arrow_sink
from kintsugi.pipeline.stream.columns import delta_bin, expiry_bin, is_cancel, match_key, premium, side
from kintsugi.pipeline.stream.derived_tables import DerivedTables
from kintsugi.pipeline.stream.driver_reports import StreamLetters
from kintsugi.pipeline.stream.message_check import RAW_BYTES, find_problem
from kintsugi.pipeline.stream.signals import days_of, with_scores

if TYPE_CHECKING:
    from pyarrow import RecordBatch

log = logging.getLogger("stream_trades")

ROWS_PER_TRIGGER = 20_000
FAILURES_WITHOUT_PROGRESS = 5
# After each poll Spark asks for the first and the last offset of the partition. At the end of the partition the
# consumer has sent its next fetch by then, and a broker answers the requests of a connection in turn. So each question
# waited for that fetch, by default 0.5 s. Spark also fetches again what a poll has left over (decision 152).
FETCHES = {"kafka.fetch.max.wait.ms": "10", "kafka.max.poll.records": "5000"}
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


# Of a message that isn't a trade: the reason, its first bytes, and their total number; null for a trade.
REFUSED = (("problem", "string"), ("raw", "binary"), ("bytes", "int"))
RETURNED = ", ".join((TRADES_RETURNED, *(f"{name} {kind}" for name, kind in REFUSED)))
RETURNED_NAMES = (*TRADE_NAMES, *(name for name, _ in REFUSED))


def parse_messages(messages: DataFrame) -> DataFrame:
    """Parse Kafka records (``value``, ``partition``, ``offset``, ``timestamp``) into a row each, columns of `Trade`.

    If a record isn't a trade, ``problem`` says why, these columns are null, and ``raw`` and ``bytes`` have its content.
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
    """Add the columns ``premium`` (dollars), ``side``, ``canceled``, ``expiry_bin``, ``delta_bin``, ``match``."""
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
    """The plan of every batch. It is made once a query, because planning takes several times as long as a small batch.

    A query with an outdated plan ends before its next batch, and the next query begins with that batch.
    """

    def __init__(
        self,
        spark: SparkSession,
        sink: Callable[[Iterator[RecordBatch]], Iterator[RecordBatch]],
    ) -> None:
        self._spark = spark
        self._sink = sink
        self._tasks = 0

    def store_messages(self, messages: DataFrame) -> DataFrame:
        """Store the Kafka records that are trades, and return a row of `RETURNED` for every record."""
        self._tasks = self._cores()
        columns = dict.fromkeys((*(name for name, _ in (*TRADE_COLUMNS, VERSION_COLUMN)), *RETURNED_NAMES))
        rows = enrich_trades(parse_messages(messages)).select(*columns)
        # One task for each core: a task costs more than the rows of a small batch.
        return rows.coalesce(self._tasks).mapInArrow(self._sink, RETURNED)

    def outdated_reason(self) -> str | None:
        """Return why the next batch needs another plan; None if it doesn't."""
        return "there are more executors now" if self._cores() > self._tasks else None

    def _cores(self) -> int:
        return max(1, self._spark.sparkContext.defaultParallelism)


def batch_writer(
    plan: QueryPlan,
    committer: OffsetCommitter,
    letters: StreamLetters,
    baselines: BaselineCache,
    open_derived_tables: Callable[[], DerivedTables],
) -> Callable[[DataFrame, int], None]:
    """Return the function for ``foreachBatch``: store the batch and what follows from it, then offer its offsets.

    Every batch offers its offsets, whatever it holds: a message that isn't a trade becomes a dead letter and delays
    nothing. The function takes the result of `QueryPlan.store_messages`. If the plan is outdated, it raises
    OutdatedPlan before it does anything. ``open_derived_tables`` is called once, at the first batch.
    """
    derived_tables = lru_cache(maxsize=1)(open_derived_tables)

    def write_batch(stored: DataFrame, batch_id: int) -> None:
        if (reason := plan.outdated_reason()) is not None:
            raise OutdatedPlan(f"{reason}: the query is restarted with a new plan, this is no failure")
        began = time.monotonic()
        rows = stored.toArrow()
        stored_at = time.monotonic()
        trades = rows.filter(rows.column("problem").is_null()).select(list(TRADE_NAMES))
        summary = derived_tables().apply(with_scores(trades, baselines.look_up(days_of(trades))))
        if trades.num_rows < rows.num_rows:
            letters.report_refused(rows.filter(rows.column("problem").is_valid()).to_pylist())
        committer.offer(batch_ends(rows))
        log.info(
            "batch %d: %s, %d refused, stored in %.2f s, derived in %.2f s",
            batch_id, summary, rows.num_rows - trades.num_rows, stored_at - began, time.monotonic() - stored_at,
        )  # fmt: skip

    return write_batch


def start_offsets(
    bootstrap: list[str], checkpoint: Path, letters: StreamLetters, committer: OffsetCommitter
) -> str:
    """Return Spark's ``startingOffsets``, which Spark uses only without a position in the checkpoint.

    1. The checkpoint counts if Kafka still holds everything from its position on.
    2. Otherwise it is set aside, and the driver starts at the consumer group's offsets, or at the log's beginning if
       that is later.
    3. Messages that Kafka deleted before they were stored are reported before anything is read.
    4. In both cases the position is committed for the group. Otherwise a driver that was killed between the checkpoint
       and the commit of a batch would show a lag until the next trade.

    Raises KafkaError and KintsugiError; then nothing was started.
    """
    position = checkpoint_position(checkpoint)
    start = starting_offsets(bootstrap, position)
    for lost in start.lost:
        log.error("Kafka deleted messages before they were stored, %s; they are replayed from S3", lost)
    if start.lost:
        letters.report_lost(start.lost)
    if not start.can_serve(position):
        log.info("%s has no checkpoint that Kafka can serve: starting from %s", checkpoint, start.to_spark())
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
    """Start the query from its checkpoint or, if Kafka can't serve it, from the nearest offsets that Kafka holds."""
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
        .options(**FETCHES)
        .options(**spark_kafka_options(Principal.STREAM))
        .load()
    )
    return (
        plan.store_messages(messages)
        .writeStream.queryName("stream_trades")
        .foreachBatch(write)
        .option("checkpointLocation", str(options.checkpoint))
        .trigger(processingTime=f"{options.trigger_ms} milliseconds")
        .start()
    )


def supervise_query(
    spark: SparkSession, plan: QueryPlan, start: Callable[[], StreamingQuery], checkpoint: Path
) -> int:
    """Keep the query running; returns the exit status: 0 if it was stopped, 1 if it can't be kept running.

    After FAILURES_WITHOUT_PROGRESS the checkpoint is set aside, because a damaged one would end every later driver.
    Nothing is lost by that: the group's offsets are never ahead of what is stored.
    """
    failures = 0
    while True:
        query: StreamingQuery | None = None
        try:
            query = start()
            query.awaitTermination()
            return 0
        except Exception as error:  # noqa: BLE001 - the query's error, or Kafka not answering at the start
            if query is not None and (reason := plan.outdated_reason()) is not None:
                log.info("making a new plan: %s", reason)
                continue
            has_progress = query is not None and any(p["numInputRows"] for p in query.recentProgress)
            failures = 1 if has_progress else failures + 1
            log.error("the query failed (%d in a row without progress): %s", failures, str(error)[:2000])
        gateway: Any = spark.sparkContext
        if failures >= FAILURES_WITHOUT_PROGRESS:
            set_aside(checkpoint)
            log.error("ending; the supervisor starts another driver from the consumer group's offsets")
            return 1
        if gateway._jsc.sc().isStopped():  # noqa: SLF001 - there is no public method
            log.error("ending; the supervisor starts another driver from the checkpoint")
            return 1
        time.sleep(min(5.0, 0.5 * 2**failures))


def set_aside(checkpoint: Path) -> None:
    """Move Spark's files in the checkpoint to a directory beside it, and delete the former content of that one."""
    entries = [entry for entry in checkpoint.iterdir() if entry.name != LOCK]
    if not entries:
        return
    aside = checkpoint.with_name(f"{checkpoint.name}.set-aside")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    for entry in entries:
        entry.rename(aside / entry.name)


def lock_checkpoint(checkpoint: Path) -> IO[str]:
    """Lock the checkpoint until this process ends; raises GuardRefused when another driver has locked it."""
    checkpoint.mkdir(parents=True, exist_ok=True)
    lock_file = (checkpoint / LOCK).open("a+")
    try:
        fcntl.flock(lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock_file.close()
        raise GuardRefused(f"another driver runs on the checkpoint {checkpoint}; this one ends") from None
    return lock_file


def die_with_parent() -> None:
    """End this process when spark-submit's JVM dies: an orphan would keep the lock and do nothing."""
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
        lock_file = lock_checkpoint(options.checkpoint)
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

    def open_derived_tables() -> DerivedTables:
        migrate_tables(list(contact_points))  # a roll-out starts the driver before `make up` is run
        return DerivedTables(
            CassandraRepository(connect_session(list(contact_points), Principal.STREAM)), epoch=epoch
        )

    baselines = BaselineCache(list(contact_points))
    write = batch_writer(plan, committer, letters, baselines, open_derived_tables)
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
        lock_file.close()


if __name__ == "__main__":
    sys.exit(main())
