"""The driver's memory of the trades that came last."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from kintsugi.pipeline.stream.batch_columns import DERIVING_NAMES
from kintsugi.pipeline.stream.derived_records import MatchColumns
from kintsugi.pipeline.stream.recent_trades import RecentTrades

DAY = ("SPY", "2024-10-08")
CONTRACT: dict[str, Any] = {
    "root": "SPY", "expiration": "2024-10-18", "strike": 575.0, "option_type": "C", "exchange": 7, "size": 3,
    "price": 1.25, "condition": 18,
}  # fmt: skip
ALIKE = MatchColumns(**CONTRACT)


def batch(*rows: dict[str, Any]) -> pa.Table:
    usual = {"symbol": DAY[0], "trade_date": DAY[1], "slot": 38, "ts": 1_728_394_200_000, "match": 5, "canceled": False,
             "delta": 0.5, "side": "buy", "sequence": 1, **CONTRACT}  # fmt: skip
    return pa.Table.from_pylist(
        [{name: {**usual, **row}.get(name) for name in DERIVING_NAMES} for row in rows]
    )


def found(recent: RecentTrades, key: int = 5) -> list[str]:
    return [trade.trade_id.hex() for trade in recent.matching_trades(DAY, key, ALIKE)]


def test_only_trades_with_the_same_columns_of_the_same_day_are_found() -> None:
    recent = RecentTrades()
    recent.add(
        batch(
            {"trade_id": "a1"},
            {"trade_id": "a2", "match": 6},
            {"trade_id": "a3", "size": 4},  # the keys of two different trades may agree
            {"trade_id": "a4", "trade_date": "2024-10-09"},
            {"trade_id": "a5", "canceled": True},
        )
    )
    assert found(recent) == ["a1"]


def test_the_last_version_of_a_trade_comes_last() -> None:
    recent = RecentTrades()
    recent.add(batch({"trade_id": "a1", "delta": 0.5}))
    recent.add(batch({"trade_id": "a1", "delta": 0.25}))
    deltas = [trade.flow.delta for trade in recent.matching_trades(DAY, 5, ALIKE)]
    assert [abs(delta) for delta in deltas] == sorted((abs(delta) for delta in deltas), reverse=True)
    assert len(set(deltas)) == 2


def test_the_oldest_batches_are_forgotten_beyond_the_capacity_and_all_of_them_on_demand() -> None:
    recent = RecentTrades(capacity=2)
    for identity in ("a1", "a2", "a3"):
        recent.add(batch({"trade_id": identity}))
    assert found(recent) == ["a2", "a3"]
    recent.clear()
    assert found(recent) == []
