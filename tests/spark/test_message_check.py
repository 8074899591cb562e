"""What isn't a trade is named, and nothing on the topic ends a batch."""

from __future__ import annotations

import json
import random
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import orjson

from kintsugi.pipeline.schema import TRADE_COLUMNS, VERSION_COLUMN
from kintsugi.pipeline.stream import cql_values, message_check
from kintsugi.pipeline.stream.baselines import newest_before
from kintsugi.pipeline.stream.cassandra_sink import trades_of
from kintsugi.pipeline.stream.derived_tables import DerivedTables
from kintsugi.pipeline.stream.in_memory_repository import InMemoryRepository
from kintsugi.pipeline.stream.signals import days_of, with_scores
from kintsugi.pipeline.trade_identity import SYNTHETIC_SYMBOL
from spark_apps import stream_trades
from tests.unit.pipeline.test_row_parser import LINE, changed, trade

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

MESSAGES = "value binary, partition int, offset bigint, timestamp timestamp"
SENT = datetime(2026, 11, 28, tzinfo=UTC)
GOOD: dict[str, Any] = json.loads(orjson.dumps(trade(LINE)))


def checked(spark: SparkSession, *values: bytes | None):
    rows = [(value, 0, number, SENT) for number, value in enumerate(values)]
    parsed = stream_trades.parse_messages(spark.createDataFrame(rows, MESSAGES))
    columns = dict.fromkeys(
        (*(name for name, _ in (*TRADE_COLUMNS, VERSION_COLUMN)), *stream_trades.RETURNED_NAMES)
    )
    return stream_trades.enrich_trades(parsed).select(*columns).orderBy("offset").toArrow()


def other(**changes: Any) -> bytes:
    return json.dumps({**GOOD, **changes}).encode()


def without(name: str) -> bytes:
    return json.dumps({key: value for key, value in GOOD.items() if key != name}).encode()


LAWFUL = {
    "trade": orjson.dumps(trade(LINE)),
    "cancel": orjson.dumps(trade(changed(10, "40"))),
    "synthetic": orjson.dumps(trade(changed(0, SYNTHETIC_SYMBOL))),
    "index": orjson.dumps(trade(changed(0, "^SPX"))),
    "midnight": orjson.dumps(trade(changed(1, "2018-01-08 23:59:59.999"))),
    # What no later step needs may be missing, or unknown.
    "no-exchanges": without("exchanges"),
    "no-iv": without("iv"),
    "no-quote": without("bid"),
    "unknown-field": other(venue="x"),
}
UNLAWFUL: list[tuple[bytes | None, str]] = [
    (None, message_check.TOMBSTONE),
    (b"", message_check.NOT_JSON),
    (b"{", message_check.NOT_JSON),
    (b"\xff\xfe\x00", message_check.NOT_JSON),
    (b"[" * 100_000, message_check.NOT_JSON),
    (b"x" * 1_000_000, message_check.NOT_JSON),
    (b'{"schema":2,"trade":{}}', message_check.NOT_JSON),
    (b"null", message_check.NOT_JSON),
    (without("trade_id"), "trade_id"),
    (other(trade_id="g" * 32), "trade_id"),
    (without("symbol"), "symbol"),
    (other(symbol="A" * 100_000), "symbol"),
    (other(symbol=""), "symbol"),
    (other(trade_date="20180108"), "trade_date"),
    (other(trade_date="2018-02-30"), "trade_date"),
    (other(trade_date="0000-01-01"), "trade_date"),
    (other(ts=0), "ts"),
    (other(ts="soon"), "ts"),
    (other(slot=96), "slot"),
    (other(slot=None), "slot"),
    (other(expiration="2018-13-01"), "expiration"),
    (other(size=0), "size"),
    (other(size=2**31), "size"),
    (other(price="NaN"), "price"),
    (other(price=-0.01), "price"),
    (other(strike="Infinity"), "strike"),
    (other(delta=float("nan")), "delta"),
    (other(delta=None), "delta"),
    (other(exchange=40_000), "exchange"),
    (other(condition=-1), "condition"),
    (other(exchanges=40_000), "exchanges"),
    (other(bid=1e300), "bid"),
    (other(option_type="X"), "option_type"),
    (without("sequence"), "sequence"),
]


def test_a_trade_has_no_problem_and_of_anything_else_the_first_fault_is_named(spark: SparkSession) -> None:
    found = checked(spark, *LAWFUL.values(), *(value for value, _ in UNLAWFUL)).to_pylist()
    lawful, unlawful = found[: len(LAWFUL)], found[len(LAWFUL) :]
    assert {name: row["problem"] for name, row in zip(LAWFUL, lawful, strict=True)} == dict.fromkeys(LAWFUL)
    assert all(row["symbol"] and row["raw"] is None for row in lawful)
    for (value, problem), row in zip(UNLAWFUL, unlawful, strict=True):
        head, size = (None, None) if value is None else (value[: message_check.RAW_BYTES], len(value))
        assert (row["problem"], row["raw"], row["bytes"], row["symbol"]) == (problem, head, size, None)


def mutations(seed: int, count: int) -> list[bytes]:
    """Trades with one value replaced by another kind of value, or with bytes flipped, cut and spliced."""
    chance = random.Random(seed)
    odd: list[Any] = [
        None,
        "",
        "x",
        -1,
        0,
        1.5,
        2**31,
        2**63,
        1e308,
        "NaN",
        "9999-12-31",
        "2118-01-01",
        [],
        {},
        True,
        "C",
    ]
    made = []
    for _ in range(count):
        if chance.random() < 0.5:
            names = chance.sample(sorted(GOOD), chance.randint(1, 3))
            made.append(other(**{name: chance.choice(odd) for name in names}))
            continue
        value = bytearray(orjson.dumps(trade(LINE)))
        for _ in range(chance.randint(1, 4)):
            value[chance.randrange(len(value))] = chance.randrange(256)
        made.append(bytes(value[: chance.randint(0, len(value))] if chance.random() < 0.3 else value))
    return made


def test_no_message_ends_a_batch(spark: SparkSession) -> None:
    """What passes the check can be encoded for Cassandra and derived from; each message is one row."""
    values = mutations(seed=23, count=3_000)
    rows = checked(spark, *values)
    assert rows.num_rows == len(values)
    (batch,) = rows.combine_chunks().to_batches()
    trades = trades_of(batch)
    assert 0 < trades.num_rows < len(values)
    assert len(cql_values.encode_rows(trades, TRADE_COLUMNS)) == trades.num_rows
    kept = rows.filter(rows.column("problem").is_null())
    scored = with_scores(kept, newest_before([], days_of(kept)))
    assert DerivedTables(InMemoryRepository()).apply(scored).trades == trades.num_rows
