"""The tables that follow from the stored trades: their keys, and the order in which a batch writes them.

A batch may be cut short between any two writes, and the repeated batch may be cut otherwise. So each dependent row is
reachable from a *leading* row at every moment, and `Changes.stages` keeps this order; each stage is complete before
the next one begins:

1. Rows of ``cancel`` are written. ``trade_id`` and ``former`` name every trade whose mark, window and ranks the cancel
   may have changed, so that a repeat settles them even if it finds another match.
2. Dependent rows that no longer hold are deleted: ``unusual_top`` under a former score, ``flow_alert``.
3. Leading rows are written: ``flow_window``, ``unusual_trade``, ``unusual_canceled``.
4. Dependent rows are written: ``unusual_top``, ``flow_alert``, the marks of ``trade``, ``late_trades``.
5. Leading rows that no longer hold are deleted, and ``former`` is emptied.

A driver that starts reads the leading rows of a symbol's day. Whatever was left behind is found from them, because
the trades of an unfinished batch come again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from kintsugi.pipeline.schema import (
    CANCEL_COLUMNS,
    LATE_COLUMNS,
    TOP_COLUMNS,
    UNUSUAL_COLUMNS,
    WINDOW_COLUMNS,
)
from kintsugi.pipeline.stream.derived_records import Cancel, Day, MatchColumns, TradeKey, WindowKey
from kintsugi.pipeline.stream.flow_windows import WindowSignals

Row = tuple[
    Any, ...
]  # in the order of a table's columns; dates as text, times in milliseconds since 1970 UTC
Key = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """A table: its columns (name, CQL type), its primary key, and how many of the key's columns are its partition."""

    name: str
    columns: tuple[tuple[str, str], ...]
    key: tuple[str, ...]
    partition: int

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for name, _ in self.columns)

    def key_of(self, row: Row) -> Key:
        """The primary key of a row, in the order of ``key``."""
        names = self.names
        return tuple(row[names.index(name)] for name in self.key)


_UNUSUAL_KEY = ("trade_date", "symbol", "ts", "trade_id", "signal")
FLOW_WINDOW = Table("flow_window", WINDOW_COLUMNS, ("symbol", "trade_date", "window_start"), 2)
FLOW_ALERT = Table("flow_alert", WINDOW_COLUMNS, ("trade_date", "symbol", "window_start"), 1)
CANCEL = Table("cancel", CANCEL_COLUMNS, ("symbol", "trade_date", "cancel_id"), 2)
UNUSUAL_TRADE = Table("unusual_trade", UNUSUAL_COLUMNS, _UNUSUAL_KEY, 1)
UNUSUAL_CANCELED = Table("unusual_canceled", UNUSUAL_COLUMNS, _UNUSUAL_KEY, 1)
UNUSUAL_TOP = Table(
    "unusual_top", TOP_COLUMNS, ("trade_date", "ranking", "value", "symbol", "ts", "trade_id", "signal"), 2
)
LATE_TRADES = Table("late_trades", LATE_COLUMNS, ("trade_date", "reason", "partition", "end_offset"), 1)
DERIVED_TABLES = (
    FLOW_WINDOW, FLOW_ALERT, CANCEL, UNUSUAL_TRADE, UNUSUAL_CANCELED, UNUSUAL_TOP, LATE_TRADES,
)  # fmt: skip

CANCELED_BY, SCORES = "canceled_by", "scores"
Scores = Mapping[
    str, tuple[float, float, float]
]  # signal → score, and what is usual: mean or median, deviation


class Put(NamedTuple):
    """A whole row."""

    table: Table
    row: Row


class Delete(NamedTuple):
    """A row that isn't to be there, by its key."""

    table: Table
    key: Key


class Mark(NamedTuple):
    """A value of a trade that follows later: the cancel that takes it back, or its scores; None: neither."""

    place: TradeKey
    column: str
    value: Any


Write = Put | Delete | Mark


@dataclass(slots=True)
class Changes:
    """What one batch writes, all absolute. See the module for the stages."""

    cancels: list[Write] = field(default_factory=list)
    outdated: list[Write] = field(default_factory=list)
    leading: list[Write] = field(default_factory=list)
    dependent: list[Write] = field(default_factory=list)
    closing: list[Write] = field(default_factory=list)

    def stages(self) -> Iterator[list[Write]]:
        """The stages that write something, in order."""
        stages = (self.cancels, self.outdated, self.leading, self.dependent, self.closing)
        return (stage for stage in stages if stage)

    def put_window(self, key: WindowKey, found: WindowSignals, *, alert: bool) -> None:
        """A window, and whether it is among the alerts; ``alert``: it was among them."""
        row = window_row(key, found)
        self.leading.append(Put(FLOW_WINDOW, row))
        if found.signal:
            self.dependent.append(Put(FLOW_ALERT, row))
        elif alert:
            self.outdated.append(Delete(FLOW_ALERT, FLOW_ALERT.key_of(row)))

    def put_cancel(self, day: Day, cancel: Cancel) -> None:
        """A cancel with what it takes back; what it took back before is settled when the last stage is written."""
        self.cancels.append(Put(CANCEL, cancel_row(day, cancel)))
        if cancel.former:
            self.closing.append(Put(CANCEL, cancel_row(day, cancel._replace(former=frozenset()))))

    def place_unusual(self, known: Iterable[tuple[Table, Row]], wanted: Iterable[tuple[Table, Row]]) -> None:
        """The rows of one trade among the unusual ones: those on record, and those that there have to be."""
        known, wanted = list(known), list(wanted)
        tops = {UNUSUAL_TOP.key_of(row): row for row in rank_rows(wanted)}
        stale = (UNUSUAL_TOP.key_of(row) for row in rank_rows(known))
        self.outdated += [Delete(UNUSUAL_TOP, key) for key in stale if key not in tops]
        self.leading += [Put(table, row) for table, row in wanted]
        self.dependent += [Put(UNUSUAL_TOP, row) for row in tops.values()]
        kept = {(table.name, table.key_of(row)) for table, row in wanted}
        gone = ((table, table.key_of(row)) for table, row in known)
        self.closing += [Delete(table, key) for table, key in gone if (table.name, key) not in kept]


def rank_rows(rows: Iterable[tuple[Table, Row]]) -> Iterator[Row]:
    """The rows of ``unusual_top`` that rows of ``unusual_trade`` have: by premium, and by the score of their signal."""
    for table, row in rows:
        if table is UNUSUAL_TRADE:
            yield ("premium", row[12], *row)
            yield (row[4], row[5], *row)


def window_row(key: WindowKey, found: WindowSignals) -> Row:
    """The row of ``flow_window`` and, if it signals, of ``flow_alert``."""
    return (key.symbol, key.trade_date, key.start, *found[:-1], found.signal or "")


def cancel_row(day: Day, cancel: Cancel) -> Row:
    """The row of ``cancel``."""
    return (
        *day, cancel.cancel_id, cancel.ts, cancel.slot, cancel.sequence, *cancel.alike, cancel.match, cancel.trade_id,
        cancel.former, cancel.condition,
    )  # fmt: skip


def cancel_of(row: Row) -> Cancel:
    """A row of the table ``cancel`` as a record."""
    return Cancel(
        row[2],
        row[3],
        row[4],
        row[5],
        MatchColumns(*row[6:14]),
        row[14],
        row[15],
        row[16] or frozenset(),
        row[17],
    )
