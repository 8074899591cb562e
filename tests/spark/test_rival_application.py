"""The rival stores the rows that our stream stores: the same messages give the same values."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import TYPE_CHECKING

import orjson

from benchmarks.throughput.rival import application, process
from kintsugi.pipeline.schema import TRADE_COLUMNS
from spark_apps import stream_trades
from tests.unit.pipeline.test_row_parser import LINE, changed, trade

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

MESSAGES = "value binary, partition int, offset bigint, timestamp timestamp"
SPARK_TYPES = {"text": "string", "blob": "binary"}
CONVERTED = ("trade_id", "trade_date", "expiration", "ts")


def test_the_rival_reads_the_message_that_the_stream_reads() -> None:
    fields = (f"{field.name} {field.dataType.simpleString()}" for field in stream_trades.MESSAGE.fields)
    assert ", ".join(fields) == application.MESSAGE
    assert application.ANSWER == process.ANSWER


def test_the_rivals_rows_are_those_of_the_stream(spark: SparkSession) -> None:
    lines = (LINE, changed(10, "40", changed(11, "18")), changed(9, "1.20"))
    sent = datetime(2026, 11, 28, 12, tzinfo=UTC)
    values = [(orjson.dumps(trade(line)), 0, number, sent) for number, line in enumerate(lines)]
    messages = spark.createDataFrame(values, MESSAGES)
    rival = application.decode_trades(messages, list(TRADE_COLUMNS))
    ours = stream_trades.enrich_trades(stream_trades.parse_messages(messages))
    names = [name for name, _ in TRADE_COLUMNS if name not in CONVERTED]
    assert rival.select(names).collect() == ours.select(names).collect()
    assert len({row.side for row in rival.collect()}) > 1


def test_the_rivals_columns_have_the_types_of_the_table(spark: SparkSession) -> None:
    messages = spark.createDataFrame([(orjson.dumps(trade(LINE)), 0, 0, datetime.now(UTC))], MESSAGES)
    rival = application.decode_trades(messages, list(TRADE_COLUMNS))
    assert [(field.name, field.dataType.simpleString()) for field in rival.schema.fields] == [
        (name, SPARK_TYPES.get(kind, kind)) for name, kind in TRADE_COLUMNS
    ]
    row, expected = rival.collect()[0], trade(LINE)
    assert bytes(row.trade_id).hex() == expected.trade_id
    assert row.trade_date == date.fromisoformat(expected.trade_date)
    assert row.expiration == date.fromisoformat(expected.expiration)
    assert (
        row.ts.replace(tzinfo=UTC).timestamp() * 1000 == expected.ts
        or row.ts.timestamp() * 1000 == expected.ts
    )
