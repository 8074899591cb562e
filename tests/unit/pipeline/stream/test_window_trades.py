"""The arrays of a batch give what `flow_of` and `Sums.add` give trade by trade."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from kintsugi.pipeline.row_parser import MAX_DOLLARS
from kintsugi.pipeline.stream.derived_records import WindowKey
from kintsugi.pipeline.stream.flow_windows import Sums, flow_of, window_start
from kintsugi.pipeline.stream.window_trades import WindowTrades, group_by_window
from kintsugi.pipeline.trade_identity import SYNTHETIC_SYMBOL

SCHEMA = pa.schema(
    [
        ("trade_id", pa.string()), ("symbol", pa.string()), ("trade_date", pa.string()), ("slot", pa.int32()),
        ("ts", pa.int64()), ("option_type", pa.string()), ("size", pa.int32()), ("price", pa.float64()),
        ("delta", pa.float64()), ("side", pa.string()), ("canceled", pa.bool_()), ("match", pa.int64()),
        ("stamp", pa.int64()),
    ]
)  # fmt: skip
ROW = st.fixed_dictionaries(
    {
        "trade_id": st.sampled_from([f"{number:032x}" for number in range(12)]),
        "symbol": st.sampled_from(["AAPL", "MSFT", SYNTHETIC_SYMBOL]),
        "trade_date": st.sampled_from(["2018-01-08", "2018-01-09"]), "slot": st.integers(0, 2),
        "ts": st.integers(1_515_428_000_000, 1_515_428_200_000), "option_type": st.sampled_from("CP"),
        "size": st.one_of(st.integers(1, 500), st.integers(1, 2**31 - 1)),
        "price": st.one_of(st.floats(0, 50), st.floats(0, MAX_DOLLARS, exclude_max=True)),
        "delta": st.floats(-1, 1), "side": st.sampled_from(["buy", "sell", "unknown"]),
        "canceled": st.sampled_from([False, False, True]), "match": st.integers(0, 5),
        "stamp": st.integers(0, 3),
    }
)  # fmt: skip


@given(st.lists(ROW, max_size=40), st.integers(1, 3))
def test_arrays_give_what_single_trades_give(rows: list[dict[str, Any]], chunks: int) -> None:
    wanted: dict[WindowKey, WindowTrades] = {}
    sums: dict[WindowKey, Sums] = defaultdict(Sums)
    for row in rows:
        if row["canceled"] or row["symbol"] == SYNTHETIC_SYMBOL:
            continue
        key = WindowKey(row["symbol"], row["trade_date"], row["slot"], window_start(row["ts"]))
        flow = flow_of(row["ts"], row["option_type"], row["side"], row["size"], row["price"], row["delta"])
        group = wanted.setdefault(key, WindowTrades(key, [], [], [], {}, sums[key]))
        identity = bytes.fromhex(row["trade_id"])
        group.identities.append(identity)
        group.times.append(row["ts"])
        group.matches.append(row["match"])
        if row["stamp"] > group.versions.setdefault(identity, (row["stamp"], flow))[0]:
            group.versions[identity] = (row["stamp"], flow)
        sums[key].add(flow)
    cut = len(rows) // chunks
    batch = pa.concat_tables(
        pa.Table.from_pylist(part, SCHEMA) for part in (rows[:cut], rows[cut : 2 * cut], rows[2 * cut :])
    )
    assert {trades.key: trades for trades in group_by_window(batch)} == wanted


def test_only_a_batch_without_repetition_is_distinct() -> None:
    row = {
        "trade_id": "01", "symbol": "AAPL", "trade_date": "2018-01-08", "slot": 0, "ts": 1_515_428_000_000,
        "option_type": "C", "size": 1, "price": 2.0, "delta": 0.5, "side": "buy", "canceled": False, "match": 1,
        "stamp": 1,
    }  # fmt: skip
    for other, distinct in (("02", True), ("01", False)):
        (trades,) = group_by_window(pa.Table.from_pylist([row, row | {"trade_id": other}], SCHEMA))
        assert trades.is_distinct is distinct
        assert trades.sums.trades == 2
