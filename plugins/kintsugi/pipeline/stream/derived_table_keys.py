"""The derived tables: their keys, and the order in which a batch writes them.

A batch may be interrupted between any two writes, and the repeated batch may make other writes. So each dependent row
is always reachable from a *leading* row. `Changes.stages` keeps this order; each stage is complete before the next one
begins:

1. Rows of ``cancel`` are written. ``trade_id`` and ``former`` name every trade whose mark, window and ranks the cancel
   may have changed. A repeated batch corrects them even if it finds another match.
2. Obsolete dependent rows are deleted: ``unusual_top`` under a former score, ``flow_alert``.
3. Leading rows are written: ``flow_window``, ``unusual_trade``, ``unusual_canceled``.
4. Dependent rows are written: ``unusual_top``, ``flow_alert``, the marks of ``trade``, ``late_trades``.
5. Obsolete leading rows are deleted, and ``former`` is emptied.

A driver that starts reads the leading rows of a symbol's day. From them it finds everything that an unfinished batch
left behind, because the trades of that batch come again.
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
]  # by signal: score, baseline (mean or median), its deviation


class Put(NamedTuple):
    """A whole row."""

    table: Table
    row: Row


class Delete(NamedTuple):
    """The deletion of a row, by its key."""

    table: Table
    key: Key


class Mark(NamedTuple):
    """A value of a stored trade that is written later: the cancel that cancels it, or its scores; None: no value."""

    trade_key: TradeKey
    column: str
    value: Any


Write = Put | Delete | Mark


@dataclass(slots=True)
class Changes:
    """The writes of one batch, all absolute. The docstring of the module explains the stages."""

    cancels: list[Write] = field(default_factory=list)
    obsolete: list[Write] = field(default_factory=list)
    leading: list[Write] = field(default_factory=list)
    dependent: list[Write] = field(default_factory=list)
    closing: list[Write] = field(default_factory=list)

    def stages(self) -> Iterator[list[Write]]:
        """Return the stages that aren't empty, in order."""
        stages = (self.cancels, self.obsolete, self.leading, self.dependent, self.closing)
        return (stage for stage in stages if stage)

    def put_window(self, key: WindowKey, signals: WindowSignals, *, was_alert: bool) -> None:
        """Write a window, and write or delete its alert; ``was_alert``: ``flow_alert`` has a row of it."""
        row = window_row(key, signals)
        self.leading.append(Put(FLOW_WINDOW, row))
        if signals.signal:
            self.dependent.append(Put(FLOW_ALERT, row))
        elif was_alert:
            self.obsolete.append(Delete(FLOW_ALERT, FLOW_ALERT.key_of(row)))

    def put_cancel(self, day: Day, cancel: Cancel) -> None:
        """Write a cancel with its trade; the last stage empties ``former``."""
        self.cancels.append(Put(CANCEL, cancel_row(day, cancel)))
        if cancel.former:
            self.closing.append(Put(CANCEL, cancel_row(day, cancel._replace(former=frozenset()))))

    def place_unusual(self, stored: Iterable[tuple[Table, Row]], wanted: Iterable[tuple[Table, Row]]) -> None:
        """Replace the stored rows of one unusual trade by the wanted ones, each with its table."""
        stored, wanted = list(stored), list(wanted)
        tops = {UNUSUAL_TOP.key_of(row): row for row in rank_rows(wanted)}
        stored_tops = (UNUSUAL_TOP.key_of(row) for row in rank_rows(stored))
        self.obsolete += [Delete(UNUSUAL_TOP, key) for key in stored_tops if key not in tops]
        self.leading += [Put(table, row) for table, row in wanted]
        self.dependent += [Put(UNUSUAL_TOP, row) for row in tops.values()]
        wanted_keys = {(table.name, table.key_of(row)) for table, row in wanted}
        stored_keys = ((table, table.key_of(row)) for table, row in stored)
        self.closing += [
            Delete(table, key) for table, key in stored_keys if (table.name, key) not in wanted_keys
        ]


def rank_rows(rows: Iterable[tuple[Table, Row]]) -> Iterator[Row]:
    """Yield the rows of ``unusual_top`` for rows of ``unusual_trade``: by premium, and by the score of their signal."""
    for table, row in rows:
        if table is UNUSUAL_TRADE:
            yield ("premium", row[12], *row)
            yield (row[4], row[5], *row)


def window_row(key: WindowKey, signals: WindowSignals) -> Row:
    """Return the row of ``flow_window``, which is also that of ``flow_alert`` if the window signals."""
    return (key.symbol, key.trade_date, key.start, *signals[:-1], signals.signal or "")


def cancel_row(day: Day, cancel: Cancel) -> Row:
    """Return the row of ``cancel``."""
    return (
        *day, cancel.cancel_id, cancel.ts, cancel.slot, cancel.sequence, *cancel.match_columns, cancel.match,
        cancel.trade_id, cancel.former, cancel.condition,
    )  # fmt: skip


def cancel_from_row(row: Row) -> Cancel:
    """Return the cancel in a row of the table ``cancel``."""
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
