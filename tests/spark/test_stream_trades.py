from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F  # noqa: N812 - Spark's own convention

from kintsugi.errors import Refused
from kintsugi.local.processes import wait_until
from kintsugi.trades import cql_values, signals
from kintsugi.trades.baselines import BASELINE_SCHEMA, BaselineCache, Usual
from kintsugi.trades.identity import CANARY_SYMBOL
from kintsugi.trades.schema import TRADE_COLUMNS
from kintsugi.trades.sink import trades_of
from spark_apps import stream_trades
from tests.unit.trades.test_rows import LINE, changed, trade

if TYPE_CHECKING:
    from pyarrow import RecordBatch, Table
    from pyspark.sql.streaming.query import StreamingQuery

# count, mean, median, deviation, log deviation of volume; count, median, deviation, log deviation of iv
KNOWN = (30, 150.0, 100.0, 50.0, 1.0, 30, 0.1, 0.02, 0.1)
BUCKET = ("P", "20-40", "short")
USUAL = [
    ("AAPL", "2018-01-05", "9999-12-31", *BUCKET, *KNOWN),
    # An older file, and the day's own: neither is for this day.
    ("AAPL", "2018-01-04", "2018-01-05", *BUCKET, 30, 1.0, 1.0, 1.0, 0.1, 30, 0.001, 1.0, 0.1),
    ("AAPL", "2018-01-08", "9999-12-31", *BUCKET, 30, 1.0, 1.0, 1.0, 0.1, 30, 0.001, 1.0, 0.1),
]
MESSAGES = "value binary, partition int, offset bigint"


def enriched(spark: SparkSession, *lines: str):
    values = [(orjson.dumps(trade(line)), 0, number) for number, line in enumerate(lines)]
    return stream_trades.enriched(stream_trades.parsed(spark.createDataFrame(values, MESSAGES)))


def scores(
    spark: SparkSession, *lines: str, usual: Sequence[tuple[object, ...]] = USUAL
) -> list[tuple[float | None, float | None]]:
    """(high_volume, iv_jump) of each line."""
    baseline = spark.createDataFrame(list(usual), BASELINE_SCHEMA)
    found = signals.with_signals(enriched(spark, *lines), baseline).orderBy("offset").collect()
    return [(row.high_volume, row.iv_jump) for row in found]


def test_a_message_is_read_back_with_every_column(spark: SparkSession) -> None:
    row = enriched(spark, LINE).collect()[0].asDict()
    expected = trade(LINE)
    for name in type(expected).__dataclass_fields__:
        assert row[name] == getattr(expected, name), name
    assert {name for name, _ in TRADE_COLUMNS} <= set(row)


def test_enriching_changes_no_delivered_column(spark: SparkSession) -> None:
    """The replaced pipeline overwrote trade_iv."""
    before = stream_trades.parsed(spark.createDataFrame([(orjson.dumps(trade(LINE)), 0, 1)], MESSAGES))
    after = stream_trades.enriched(before)
    assert after.select(*before.columns).collect() == before.collect()
    derived = after.select("premium", "side", "canceled", "expiry_bin", "delta_bin").collect()[0]
    assert tuple(derived) == (1300.0, "unknown", False, "short", "20-40")  # 1.30 is the midpoint of the quote


def test_the_side_is_of_the_price_and_not_of_a_symbol_called_sell(spark: SparkSession) -> None:
    """The replaced pipeline compared the word SELL with the symbol."""
    ask = trade(LINE).ask
    row = enriched(spark, changed(0, "SELL", changed(9, str(ask)))).collect()[0]
    assert (row.symbol, row.side) == ("SELL", "buy")


def test_a_size_far_above_the_median_of_the_file_before_the_day_is_high_volume(spark: SparkSession) -> None:
    lines = [changed(14, "0", changed(8, size)) for size in ("332", "333", "1000")]
    low, high, higher = (score for score, _ in scores(spark, *lines))  # e^1.2 * 100 = 332.01
    assert low is None
    assert high == pytest.approx(math.log(3.33))
    assert higher == pytest.approx(math.log(10))


def test_fewer_contracts_than_a_block_are_no_high_volume(spark: SparkSession) -> None:
    usual = [("AAPL", "2018-01-05", "9999-12-31", *BUCKET, 30, 1.0, 1.0, 1.0, 1.0, *KNOWN[5:])]
    found = scores(
        spark, changed(14, "0", changed(8, "99")), changed(14, "0", changed(8, "100")), usual=usual
    )
    assert [score is not None for score, _ in found] == [False, True]


def test_volatility_far_above_the_usual_is_a_jump_and_an_unknown_or_fallen_one_is_none(
    spark: SparkSession,
) -> None:
    lines = [changed(14, iv) for iv in ("0.1491", "0.1492", "0", "0.0001")]  # e^0.4 * 0.1 = 0.14918
    below, jump, unknown, fallen = (score for _, score in scores(spark, *lines))
    assert (below, unknown, fallen) == (None, None, None)
    assert jump == pytest.approx(math.log(1.492) / 0.1)


def test_in_a_bucket_of_equal_volatilities_a_small_rise_is_no_jump(spark: SparkSession) -> None:
    usual = [("AAPL", "2018-01-05", "9999-12-31", *BUCKET, *KNOWN[:5], 30, 0.1, 0.0001, 0.001)]
    found = scores(spark, changed(14, "0.1199"), changed(14, "0.1201"), usual=usual)
    assert [score is not None for _, score in found] == [False, True]


@pytest.mark.parametrize(
    "line",
    [changed(10, "40"), changed(0, CANARY_SYMBOL), changed(0, "MSFT"), changed(6, "C"), changed(15, "-0.1")],
    ids=["cancel", "canary", "no-baseline", "call", "other-delta"],
)
def test_what_must_not_signal_does_not(spark: SparkSession, line: str) -> None:
    assert scores(spark, changed(14, "9", changed(8, "100000", line))) == [(None, None)]


def test_a_small_or_constant_bucket_says_nothing(spark: SparkSession) -> None:
    loud = changed(14, "9", changed(8, "100000"))
    few = (signals.MIN_BUCKET - 1, 150.0, 100.0, 50.0, 1.0, signals.MIN_BUCKET - 1, 0.1, 0.02, 0.1)
    equal = (30, 100.0, 100.0, 0.0, 0.0, 30, 0.1, 0.0, 0.0)
    alone = (1, 100.0, 100.0, None, None, 1, 0.1, None, None)
    for known in (few, equal, alone):
        rows = [("AAPL", "2018-01-05", "9999-12-31", *BUCKET, *known)]
        assert scores(spark, loud, usual=rows) == [(None, None)]


def test_every_trade_comes_out_once_whatever_the_baseline_holds(spark: SparkSession) -> None:
    lines = [changed(2, str(number)) for number in range(10)]
    assert len(scores(spark, *lines)) == 10
    assert len(scores(spark, *lines, usual=USUAL[:1])) == 10


def test_a_cancel_shares_its_match_key_with_its_trade_and_no_other(spark: SparkSession) -> None:
    one = changed(10, "18")
    cancel = changed(1, "2018-01-08 15:00:00.000", changed(2, "9", changed(11, "18", changed(10, "40"))))
    others = [changed(10, "95"), changed(8, "11", one), changed(9, "1.31", one), changed(7, "9", one)]
    found = [row.match for row in enriched(spark, one, cancel, *others).orderBy("offset").collect()]
    assert found[0] == found[1]
    assert found[0] not in found[2:]


class Baseline(BaselineCache):
    """A baseline table that says what the test put there; ``looks``: how often it was read anew on demand."""

    def __init__(self, rows: Sequence[Usual] = ()) -> None:
        super().__init__([])
        self.table, self.looks = list(rows), 0

    def rows(self, *, anew: bool = False) -> list[Usual]:
        self.looks += anew
        return list(self.table)


def passed(batches: Iterator[RecordBatch]) -> Iterator[RecordBatch]:
    """In the place of `sink.arrow_sink`: encodes the trades as it does, and stores none."""
    for batch in batches:
        cql_values.rows(trades_of(batch), TRADE_COLUMNS)
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

    def refused(self, rows: list[dict[str, Any]]) -> None:
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
    plan, followed, inbox = stream_trades.Plan(spark, baseline, passed), Followed(), directory / "inbox"
    inbox.mkdir()
    stands_in: Any = followed
    write = stream_trades.batch_writer(plan, stands_in, stands_in, lambda: stands_in)
    queries: list[StreamingQuery] = []

    def start() -> StreamingQuery:
        lines = spark.readStream.text(str(inbox))
        messages = lines.select(
            F.col("value").cast("binary").alias("value"),
            F.lit(0).alias("partition"),
            F.lit(7).cast("long").alias("offset"),
        )
        stream = plan.stored(messages).writeStream.foreachBatch(write)
        queries.append(stream.option("checkpointLocation", str(directory / "checkpoint")).start())
        return queries[-1]

    with ThreadPoolExecutor(1) as pool:
        ended = pool.submit(stream_trades.supervise, spark, plan, start, directory / "checkpoint")
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


def test_the_first_batch_of_a_query_looks_at_the_baseline_anew_and_the_others_do_not(
    spark: SparkSession,
) -> None:
    baseline = Baseline()
    plan = stream_trades.Plan(spark, baseline, passed)
    plan.stored(spark.createDataFrame([(b"{", 0, 1)], MESSAGES))
    assert (plan.outdated(), plan.outdated()) == (None, None)
    assert baseline.looks == 1


def test_a_plan_is_outdated_by_other_statistics_and_by_more_executors_only(
    spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    baseline = Baseline([*USUAL, ("MSFT", *USUAL[0][1:-1], math.nan)])
    plan = stream_trades.Plan(spark, baseline, passed)
    plan.stored(spark.createDataFrame([(b"{", 0, 1)], MESSAGES))
    baseline.table = [("MSFT", *USUAL[0][1:-1], float("nan")), *USUAL]  # read anew, in another order
    assert plan.outdated() is None
    monkeypatch.setattr(plan, "_cores", lambda: 2)
    assert plan.outdated() == "there are more executors now"
    baseline.table = list(USUAL)
    assert plan.outdated() == plan.outdated() == "the baseline says something else now"


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
    with stream_trades.lock(tmp_path / "checkpoint"), pytest.raises(Refused, match="another driver"):
        stream_trades.lock(tmp_path / "checkpoint")
    stream_trades.lock(tmp_path / "checkpoint").close()


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
    with stream_trades.lock(checkpoint):
        assert stream_trades.supervise(vain, None, vain.start, checkpoint) == 1  # type: ignore[arg-type]
    assert vain.starts == starts
    found = sorted(entry.name for entry in checkpoint.iterdir())
    assert found == (left or ["driver.lock", "offsets"])
    aside = {path.name for path in (tmp_path / "checkpoint.set-aside").rglob("*")}
    assert aside == ({"offsets", "7"} if left else {"older"})
