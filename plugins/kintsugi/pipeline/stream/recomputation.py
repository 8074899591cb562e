"""Compute the rows of the derived tables of a symbol's day from its stored trades alone. Pure.

The driver keeps the tables up to date batch by batch (`derived_tables`). This is the same function without batches: the
reconciliation compares the tables with its result, and repairs them. ``late_trades`` isn't computed here: it counts how
trades arrived, so it doesn't follow from the stored trades.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from kintsugi.pipeline.stream.cancels import OPENING, Candidate, match_cancels
from kintsugi.pipeline.stream.derived_records import Cancel, Day, MatchColumns, TradeKey, WindowKey
from kintsugi.pipeline.stream.derived_table_keys import (
    CANCEL,
    CANCELED_BY,
    FLOW_ALERT,
    FLOW_WINDOW,
    SCORES,
    UNUSUAL_CANCELED,
    UNUSUAL_TOP,
    UNUSUAL_TRADE,
    Key,
    Row,
    Scores,
    Table,
    cancel_row,
    rank_rows,
    window_row,
)
from kintsugi.pipeline.stream.flow_windows import Sums, WindowFlow, flow_of, window_signals


class ExpectedTrade(NamedTuple):
    """A row of ``trade``; ``match_columns``: for a cancel, those of the trade that it cancels."""

    trade_id: bytes
    ts: int
    slot: int
    sequence: int
    match_columns: MatchColumns
    canceled: bool
    flow: WindowFlow | None  # None for a cancel
    premium: float
    side: str
    iv: float
    delta: float
    canceled_by: bytes | None
    scores: Scores | None
    condition: int

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> ExpectedTrade:
        """Return the trade in a row of ``trade``, with dates as text and times in milliseconds since 1970 UTC."""
        canceled = row["canceled"]
        identity = row["trade_id"]
        flow = flow_of(row["ts"], row["option_type"], row["side"], row["size"], row["price"], row["delta"])
        return cls(
            bytes.fromhex(identity) if isinstance(identity, str) else identity, row["ts"], row["slot"],
            row["sequence"], MatchColumns.of(row, "canceled_condition" if canceled else "condition"), canceled,
            None if canceled else flow, row["premium"], row["side"], row["iv"], row["delta"], row[CANCELED_BY],
            row[SCORES], row["condition"],
        )  # fmt: skip


@dataclass(slots=True)
class Recomputed:
    """Rows by table and key, and cancels by the keys of their trades."""

    rows: dict[Table, dict[Key, Row]] = field(default_factory=lambda: defaultdict(dict))
    marks: dict[TradeKey, bytes] = field(default_factory=dict)

    def put(self, table: Table, row: Row) -> None:
        self.rows[table][table.key_of(row)] = row


class DayTrades:
    """The stored trades of a symbol's day, added one by one; `tables` computes the derived rows."""

    def __init__(self, day: Day) -> None:
        self.day = day
        self._trades: dict[MatchColumns, list[ExpectedTrade]] = defaultdict(list)
        self._cancels: dict[MatchColumns, list[ExpectedTrade]] = defaultdict(list)
        self._sums: dict[tuple[int, int], Sums] = defaultdict(Sums)
        self._scored: list[ExpectedTrade] = []
        self.marked: dict[TradeKey, bytes] = {}

    def add(self, trade: ExpectedTrade) -> None:
        """Add one row; each row may be added once."""
        if trade.flow is None:
            self._cancels[trade.match_columns].append(trade)
            return
        self._trades[trade.match_columns].append(trade)
        self._sums[trade.slot, trade.flow.window].add(trade.flow)
        if trade.scores:
            self._scored.append(trade)
        if trade.canceled_by is not None:
            self.marked[self._key_of(trade)] = trade.canceled_by

    def _key_of(self, trade: ExpectedTrade) -> TradeKey:
        return (*self.day, trade.slot, trade.ts, trade.trade_id)

    def tables(self) -> Recomputed:
        """Compute the rows of all tables; the column ``match`` of ``cancel`` is None."""
        result = Recomputed()
        sums = {window: replace(total) for window, total in self._sums.items()}
        canceled: set[bytes] = set()
        for columns, cancels in self._cancels.items():
            trades = {trade.trade_id: trade for trade in self._trades.get(columns, ())}
            matches = match_cancels(map(_match_candidate, cancels), map(_match_candidate, trades.values()))
            for cancel in cancels:
                record = Cancel(
                    cancel.trade_id, cancel.ts, cancel.slot, cancel.sequence, columns, 0,
                    matches.get(cancel.trade_id), condition=cancel.condition,
                )  # fmt: skip
                row = cancel_row(self.day, record)
                result.put(CANCEL, (*row[:MATCH], None, *row[MATCH + 1 :]))
            for cancel_id, identity in matches.items():
                trade = trades[identity]
                canceled.add(identity)
                result.marks[self._key_of(trade)] = cancel_id
                if trade.flow is not None:
                    sums[trade.slot, trade.flow.window].add(trade.flow, -1)
        for (slot, start), total in sums.items():
            row = window_row(WindowKey(*self.day, slot, start), window_signals(total))
            result.put(FLOW_WINDOW, row)
            if row[-1]:
                result.put(FLOW_ALERT, row)
        for trade in self._scored:
            table = UNUSUAL_CANCELED if trade.trade_id in canceled else UNUSUAL_TRADE
            for row in self._unusual_rows(trade):
                result.put(table, row)
                for rank in rank_rows([(table, row)]):
                    result.put(UNUSUAL_TOP, rank)
        return result

    def _unusual_rows(self, trade: ExpectedTrade) -> Iterable[Row]:
        symbol, date = self.day
        columns = trade.match_columns
        for signal, (score, mean, deviation) in (trade.scores or {}).items():
            yield (
                date, symbol, trade.ts, trade.trade_id, signal, score, columns.root, columns.expiration,
                columns.strike, columns.option_type, columns.size, columns.price, trade.premium, trade.side, trade.iv,
                trade.delta, mean, deviation,
            )  # fmt: skip


MATCH = CANCEL.names.index("match")


def _match_candidate(trade: ExpectedTrade) -> Candidate:
    opening = trade.canceled and trade.condition == OPENING
    return Candidate(trade.ts, trade.sequence, trade.trade_id, opening)
