"""The tables are made on a real Cassandra in tests/integration/test_trades.py."""

from __future__ import annotations

from kintsugi.pipeline.row_parser import Trade
from kintsugi.pipeline.schema import TABLES, TRADE_COLUMNS


def test_a_trade_is_stored_with_every_column_it_travels_with() -> None:
    assert set(Trade.__dataclass_fields__) <= {name for name, _ in TRADE_COLUMNS}


def test_partitions_are_bounded_by_quarters_of_an_hour_and_days() -> None:
    assert "PRIMARY KEY ((symbol, trade_date, slot), ts, trade_id)" in TABLES["trade"]
    assert "PRIMARY KEY (trade_date, symbol, ts, trade_id, signal)" in TABLES["unusual_trade"]
    assert "PRIMARY KEY ((symbol, trade_date), window_start)" in TABLES["flow_window"]
    assert "PRIMARY KEY ((symbol, trade_date), cancel_id)" in TABLES["cancel"]
    forever = {name for name, statement in TABLES.items() if "default_time_to_live" not in statement}
    assert forever == {"stream_driver"}  # one row
