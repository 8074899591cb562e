from __future__ import annotations

import math
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F  # noqa: N812 - Spark's own convention

from kintsugi.core.errors import GuardRefused
from kintsugi.core.processes import wait_until
from kintsugi.pipeline.schema import TRADE_COLUMNS
from kintsugi.pipeline.stream import cql_values
from kintsugi.pipeline.stream.baselines import BaselineCache, newest_before
from kintsugi.pipeline.stream.cassandra_sink import trades_of
from kintsugi.pipeline.stream.derived_records import MatchColumns
from kintsugi.pipeline.stream.match_key import match_number
from spark_apps import stream_trades
from tests.unit.pipeline.test_row_parser import LINE, changed, trade

if TYPE_CHECKING:
    from pyarrow import RecordBatch, Table
    from pyspark.sql.streaming.query import StreamingQuery

# count, mean, median, deviation, log deviation of volume; count, median, deviation, log deviation of iv
KNOWN = (30, 150.0, 100.0, 50.0, 1.0, 30, 0.1, 0.02, 0.1)
BUCKET = ("P", "20-40", "short")
USUAL = [
    ("AAPL", "2018-01-05", *BUCKET, *KNOWN),
    # An older file, and the day's own: neither is for this day.
    ("AAPL", "2018-01-04", *BUCKET, 30, 1.0, 1.0, 1.0, 0.1, 30, 0.001, 1.0, 0.1),
    ("AAPL", "2018-01-08", *BUCKET, 30, 1.0, 1.0, 1.0, 0.1, 30, 0.001, 1.0, 0.1),
]
MESSAGES = "value binary, partition int, offset bigint, timestamp timestamp"
SENT = datetime(2026, 11, 28, 12, 0, 0, 123_000, tzinfo=UTC)


def enriched(spark: SparkSession, *lines: str):
    values = [(orjson.dumps(trade(line)), 0, number, SENT) for number, line in enumerate(lines)]
    return stream_trades.enrich_trades(stream_trades.parse_messages(spark.createDataFrame(values, MESSAGES)))


def test_a_message_is_read_back_with_every_column(spark: SparkSession) -> None:
    row = enriched(spark, LINE).collect()[0].asDict()
    expected = trade(LINE)
    for name in type(expected).__dataclass_fields__:
        assert row[name] == getattr(expected, name), name
    assert {name for name, _ in TRADE_COLUMNS} <= set(row)


def test_enriching_changes_no_delivered_column(spark: SparkSession) -> None:
    """The replaced pipeline overwrote trade_iv."""
    before = stream_trades.parse_messages(
        spark.createDataFrame([(orjson.dumps(trade(LINE)), 0, 1, SENT)], MESSAGES)
    )
    after = stream_trades.enrich_trades(before)
    assert after.select(*before.columns).collect() == before.collect()
    derived = after.select("premium", "side", "canceled", "expiry_bin", "delta_bin").collect()[0]
    assert tuple(derived) == (1300.0, "unknown", False, "short", "20-40")  # 1.30 is the midpoint of the quote


def test_the_side_is_of_the_price_and_not_of_a_symbol_called_sell(spark: SparkSession) -> None:
    """The replaced pipeline compared the word SELL with the symbol."""
    ask = trade(LINE).ask
    row = enriched(spark, changed(0, "SELL", changed(9, str(ask)))).collect()[0]
    assert (row.symbol, row.side) == ("SELL", "buy")


def test_a_later_message_is_a_later_version_and_no_two_have_the_same(spark: SparkSession) -> None:
    later = SENT.replace(microsecond=124_000)
    values = [
        (orjson.dumps(trade(LINE)), 0, offset, sent)
        for offset, sent in ((1997, SENT), (1998, SENT), (2001, later), (2002, later))
    ]
    rows = stream_trades.parse_messages(spark.createDataFrame(values, MESSAGES)).orderBy("offset").collect()
    stamps = [row.stamp for row in rows]
    assert stamps == sorted(set(stamps))
    assert stamps[0] == round(SENT.timestamp() * 1000) * 1000 + 997


def test_a_cancel_shares_its_match_key_with_its_trade_and_no_other(spark: SparkSession) -> None:
    one = changed(10, "18")
    cancel = changed(1, "2018-01-08 15:00:00.000", changed(2, "9", changed(11, "18", changed(10, "40"))))
    others = [changed(10, "95"), changed(8, "11", one), changed(9, "1.31", one), changed(7, "9", one)]
    found = [row.match for row in enriched(spark, one, cancel, *others).orderBy("offset").collect()]
    assert found[0] == found[1]
    assert found[0] not in found[2:]
    assert found[0] == match_number(MatchColumns.of(vars(trade_of(one))))


def trade_of(line: str) -> Any:
    made = trade(line)
    return SimpleNamespace(**{name: getattr(made, name) for name in type(made).__dataclass_fields__})


def test_the_match_key_in_python_is_that_of_spark(spark: SparkSession) -> None:
    lines = [
        changed(3, root, changed(5, strike, changed(9, price, changed(8, size))))
        for root, strike, price, size in (
            ("A", "0.5", "0.01", "1"), ("SPXW", "5400.000", "1234.56", "32000"), ("ABCDEFGH1", "12.5", "3", "7"),
        )
    ]  # fmt: skip
    found = [row.match for row in enriched(spark, *lines).orderBy("offset").collect()]
    assert found == [match_number(MatchColumns.of(vars(trade_of(line)))) for line in lines]


class Baseline(BaselineCache):
    """A baseline table that says what the test put there."""

    def __init__(self, rows: Sequence[Any] = ()) -> None:
        super().__init__([])
        self.table = list(rows)

    def look_up(self, days: Iterable[Any]) -> Any:
        return newest_before(self.table, days)


def passed(batches: Iterator[RecordBatch]) -> Iterator[RecordBatch]:
    """In the place of `cassandra_sink.arrow_sink`: encodes the trades as it does, and stores none."""
    for batch in batches:
        cql_values.encode_rows(trades_of(batch), TRADE_COLUMNS)
        yield batch.select(list(stream_trades.RETURNED_NAMES))


class Followed:
    """In the place of `Derived`, committer and letters: notes each batch's sizes and scores, and which ended.

    ``ends``: the offsets that the last batch offered. ``letters``: partition, offset and problem of each message that
    was refused.
    """

    def __init__(self) -> None:
        self.seen: list[tuple[int, float | None]] = []
        self.letters: list[tuple[int, int, str]] = []
        self.ends: dict[int, int] = {}
        self.offers = 0

    def report_refused(self, rows: list[dict[str, Any]]) -> None:
        self.letters += [(row["partition"], row["offset"], row["problem"]) for row in rows]

    def apply(self, rows: Table) -> Followed:
        self.seen += [(row["size"], row["high_volume"]) for row in rows.to_pylist()]
        return self

    def offer(self, ends: dict[int, int]) -> None:
        self.ends = ends
        self.offers += 1


@contextmanager
def streaming(spark: SparkSession, baseline: Baseline, directory: Path) -> Iterator[tuple[Followed, Path]]:
    """The stream over the files of a folder, a line a message, supervised; yields what came, and the folder."""
    plan, followed, inbox = stream_trades.QueryPlan(spark, passed), Followed(), directory / "inbox"
    inbox.mkdir()
    stands_in: Any = followed
    write = stream_trades.batch_writer(plan, stands_in, stands_in, baseline, lambda: stands_in)
    queries: list[StreamingQuery] = []

    def start() -> StreamingQuery:
        lines = spark.readStream.text(str(inbox))
        messages = lines.select(
            F.col("value").cast("binary").alias("value"),
            F.lit(0).alias("partition"),
            F.lit(7).cast("long").alias("offset"),
            F.lit(SENT).alias("timestamp"),
        )
        stream = plan.store_messages(messages).writeStream.foreachBatch(write)
        queries.append(stream.option("checkpointLocation", str(directory / "checkpoint")).start())
        return queries[-1]

    with ThreadPoolExecutor(1) as pool:
        ended = pool.submit(stream_trades.supervise_query, spark, plan, start, directory / "checkpoint")
        try:
            yield followed, inbox
        finally:
            queries[-1].stop()
            assert ended.result(timeout=60) == 0


def put(inbox: Path, name: str, *lines: str) -> None:
    """A file of trades, there at once."""
    put_messages(inbox, name, *(orjson.dumps(trade(line)) for line in lines))


def put_messages(inbox: Path, name: str, *messages: bytes) -> None:
    fresh = inbox.parent / name
    fresh.write_bytes(b"\n".join(messages))
    fresh.rename(inbox / name)


def test_a_baseline_that_comes_while_trades_flow_holds_for_the_very_next_batch_and_no_trade_comes_twice(
    spark: SparkSession, tmp_path: Path
) -> None:
    baseline = Baseline()
    with streaming(spark, baseline, tmp_path) as (followed, inbox):
        put(inbox, "before", changed(14, "0", changed(8, "500")))
        assert wait_until(lambda: followed.offers == 1, 120)
        baseline.table = list(USUAL)
        put(inbox, "after", changed(14, "0", changed(8, "600")))
        assert wait_until(lambda: followed.offers == 2, 120)
    assert followed.seen == [(500, None), (600, pytest.approx(math.log(6)))]


def test_a_plan_is_outdated_by_more_executors_only(
    spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = stream_trades.QueryPlan(spark, passed)
    plan.store_messages(spark.createDataFrame([(b"{", 0, 1, SENT)], MESSAGES))
    assert plan.outdated_reason() is None
    monkeypatch.setattr(plan, "_cores", lambda: 2)
    assert plan.outdated_reason() is not None


def test_a_batch_without_a_trade_offers_its_offsets_and_its_messages_become_letters(
    spark: SparkSession, tmp_path: Path
) -> None:
    with streaming(spark, Baseline(), tmp_path) as (followed, inbox):
        put_messages(inbox, "garbage", b"{", b"no trade at all")
        assert wait_until(lambda: followed.offers == 1, 120)
        assert followed.ends == {0: 8}
        put(inbox, "trades", LINE)
        assert wait_until(lambda: followed.offers == 2, 120)
    assert followed.letters == [(0, 7, "json")] * 2
    assert [size for size, _ in followed.seen] == [trade(LINE).size]


def test_a_second_driver_on_a_checkpoint_is_refused(tmp_path: Path) -> None:
    with (
        stream_trades.lock_checkpoint(tmp_path / "checkpoint"),
        pytest.raises(GuardRefused, match=re.escape(str(tmp_path / "checkpoint"))),
    ):
        stream_trades.lock_checkpoint(tmp_path / "checkpoint")
    stream_trades.lock_checkpoint(tmp_path / "checkpoint").close()


class Vain:
    """A Spark whose query can't be started; ``stopped``: its context is gone."""

    def __init__(self, stopped: bool) -> None:
        self.stopped, self.starts = stopped, 0
        self.sparkContext = self._jsc = self

    def sc(self) -> Any:
        return self

    def isStopped(self) -> bool:  # noqa: N802 - Spark's name
        return self.stopped

    def start(self) -> Any:
        self.starts += 1
        raise ValueError("the metadata file is missing")


@pytest.mark.parametrize(("stopped", "starts", "left"), [(False, 5, ["driver.lock"]), (True, 1, None)])
def test_a_checkpoint_that_no_query_starts_from_is_set_aside_and_one_of_a_lost_master_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stopped: bool, starts: int, left: list[str] | None
) -> None:
    checkpoint, vain = tmp_path / "checkpoint", Vain(stopped)
    (checkpoint / "offsets").mkdir(parents=True)
    (checkpoint / "offsets" / "7").write_text("v1")
    (tmp_path / "checkpoint.set-aside").mkdir()
    (tmp_path / "checkpoint.set-aside" / "older").write_text("")
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    with stream_trades.lock_checkpoint(checkpoint):
        assert stream_trades.supervise_query(vain, None, vain.start, checkpoint) == 1  # type: ignore[arg-type]
    assert vain.starts == starts
    found = sorted(entry.name for entry in checkpoint.iterdir())
    assert found == (left or ["driver.lock", "offsets"])
    aside = {path.name for path in (tmp_path / "checkpoint.set-aside").rglob("*")}
    assert aside == ({"offsets", "7"} if left else {"older"})
