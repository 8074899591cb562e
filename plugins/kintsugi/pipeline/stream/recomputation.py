"""What the derived tables of a symbol's day have to say, computed from its stored trades alone. Pure.

The driver keeps the tables up to date batch by batch (`derived`). This is the same function without batches: it is
what reconciliation compares the tables with, and repairs them to. Not a function of the trades, and so not here:
``late_trades``, which counts how trades arrived.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
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
    """A row of ``trade``; ``alike``: of a cancel, the columns of the trade that it takes back."""

    trade_id: bytes
    ts: int
    slot: int
    sequence: int
    alike: MatchColumns
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
        """Of the columns of ``trade``, with dates as text and times in milliseconds since 1970 UTC."""
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
    """Rows by table and key, and which cancel takes a trade back, by the trade's key."""

    rows: dict[Table, dict[Key, Row]] = field(default_factory=lambda: defaultdict(dict))
    marks: dict[TradeKey, bytes] = field(default_factory=dict)

    def put(self, table: Table, row: Row) -> None:
        self.rows[table][table.key_of(row)] = row


class DayTrades:
    """The stored trades of a symbol's day, as they are read; `tables` is what follows from them."""

    def __init__(self, day: Day) -> None:
        self.day = day
        self._trades: dict[MatchColumns, list[ExpectedTrade]] = defaultdict(list)
        self._cancels: dict[MatchColumns, list[ExpectedTrade]] = defaultdict(list)
        self._sums: dict[tuple[int, int], Sums] = defaultdict(Sums)
        self._scored: list[ExpectedTrade] = []
        self.marked: dict[TradeKey, bytes] = {}

    def add(self, trade: ExpectedTrade) -> None:
        """Take in one row; each row once."""
        if trade.flow is None:
            self._cancels[trade.alike].append(trade)
            return
        self._trades[trade.alike].append(trade)
        self._sums[trade.slot, trade.flow.window].add(trade.flow)
        if trade.scores:
            self._scored.append(trade)
        if trade.canceled_by is not None:
            self.marked[self._place(trade)] = trade.canceled_by

    def _place(self, trade: ExpectedTrade) -> TradeKey:
        return (*self.day, trade.slot, trade.ts, trade.trade_id)

    def tables(self) -> Recomputed:
        """The rows of all tables; the column ``match`` of ``cancel`` is left None."""
        found = Recomputed()
        sums = {key: Sums(**_values(value)) for key, value in self._sums.items()}
        taken: set[bytes] = set()
        for alike, cancels in self._cancels.items():
            trades = {trade.trade_id: trade for trade in self._trades.get(alike, ())}
            matched = match_cancels(map(_match_candidate, cancels), map(_match_candidate, trades.values()))
            for cancel in cancels:
                by = cancel.trade_id
                taken_back = matched.get(by)
                record = Cancel(
                    by,
                    cancel.ts,
                    cancel.slot,
                    cancel.sequence,
                    alike,
                    0,
                    taken_back,
                    condition=cancel.condition,
                )
                row = cancel_row(self.day, record)
                found.put(CANCEL, (*row[:MATCH], None, *row[MATCH + 1 :]))
            for by, identity in matched.items():
                trade = trades[identity]
                taken.add(identity)
                found.marks[self._place(trade)] = by
                if trade.flow is not None:
                    sums[trade.slot, trade.flow.window].add(trade.flow, -1)
        for (slot, start), total in sums.items():
            row = window_row(WindowKey(*self.day, slot, start), window_signals(total))
            found.put(FLOW_WINDOW, row)
            if row[-1]:
                found.put(FLOW_ALERT, row)
        for trade in self._scored:
            table = UNUSUAL_CANCELED if trade.trade_id in taken else UNUSUAL_TRADE
            for row in self._unusual(trade):
                found.put(table, row)
                for rank in rank_rows([(table, row)]):
                    found.put(UNUSUAL_TOP, rank)
        return found

    def _unusual(self, trade: ExpectedTrade) -> Iterable[Row]:
        symbol, date = self.day
        alike = trade.alike
        for signal, (score, mean, deviation) in (trade.scores or {}).items():
            yield (
                date, symbol, trade.ts, trade.trade_id, signal, score, alike.root, alike.expiration, alike.strike,
                alike.option_type, alike.size, alike.price, trade.premium, trade.side, trade.iv, trade.delta, mean,
                deviation,
            )  # fmt: skip


MATCH = CANCEL.names.index("match")


def _match_candidate(trade: ExpectedTrade) -> Candidate:
    opening = trade.canceled and trade.condition == OPENING
    return Candidate(trade.ts, trade.sequence, trade.trade_id, opening)


def _values(sums: Sums) -> dict[str, int]:
    return {name: getattr(sums, name) for name in Sums.__slots__}
