"""A `DerivedRepository` in memory, for the evaluation of the signals and for tests without Cassandra.

It applies Cassandra's rules for writes with timestamps to each cell (`Cell reconciliation` in Cassandra's
``db/rows/Cells.java``): the greater timestamp wins; at the same timestamp a deletion wins, and of two values the
one with the greater bytes. So two rows with one timestamp become a mixture of both, as in Cassandra.
"""

from __future__ import annotations

import struct
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kintsugi.pipeline.stream.derived_records import (
    Cancel,
    Day,
    DayRecord,
    DriverState,
    MatchColumns,
    StoredTrade,
    TradeKey,
    WindowKey,
)
from kintsugi.pipeline.stream.derived_table_keys import (
    CANCEL,
    CANCELED_BY,
    DERIVED_TABLES,
    FLOW_WINDOW,
    LATE_TRADES,
    SCORES,
    UNUSUAL_CANCELED,
    UNUSUAL_TOP,
    UNUSUAL_TRADE,
    Delete,
    Key,
    Mark,
    Put,
    Row,
    Table,
    Write,
    cancel_from_row,
)
from kintsugi.pipeline.stream.flow_windows import WindowSignals, window_start

if TYPE_CHECKING:
    from pyarrow import Table as ArrowTable

NEVER = -(2**63)
# Columns of a batch that aren't stored with its trades.
UNSTORED = frozenset({
    "stamp", "match", "partition", "offset", "high_volume", "iv_jump", "usual_volume_mean", "usual_volume_stddev",
    "usual_iv_median", "usual_iv_stddev",
})  # fmt: skip


class Cells:
    """One row: its cells with their write timestamps, and the timestamp of its deletion."""

    __slots__ = ("deleted", "marks", "stamp", "values")

    def __init__(self) -> None:
        self.values: Row | None = None  # the whole row, written at ``stamp``
        self.stamp = NEVER
        self.deleted = NEVER
        self.marks: dict[str, tuple[int, Any]] = {}  # columns that are written separately

    def put(self, values: Row, stamp: int) -> None:
        if stamp <= self.deleted or stamp < self.stamp:
            return
        if stamp == self.stamp and self.values is not None:
            values = tuple(map(_greater_value, self.values, values))
        self.values, self.stamp = values, stamp

    def mark(self, column: str, value: Any, stamp: int) -> None:
        current = self.marks.get(column, (NEVER, None))
        if stamp <= self.deleted or stamp < current[0]:
            return
        self.marks[column] = (stamp, value if stamp > current[0] else _greater_value(current[1], value))

    def delete(self, stamp: int) -> None:
        self.deleted = max(self.deleted, stamp)
        if self.stamp <= self.deleted:
            self.values, self.stamp = None, NEVER
        self.marks = {name: cell for name, cell in self.marks.items() if cell[0] > self.deleted}


def _greater_value(first: Any, second: Any) -> Any:
    """Return the value that wins of two with the same timestamp; None is a deletion."""
    if first is None or second is None:
        return None
    return max(first, second, key=_encode_value)


def _encode_value(value: Any) -> bytes:
    """Return a value's bytes in the native protocol, by which values are compared: numbers are big-endian."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, float):
        return struct.pack(">d", value)
    if isinstance(value, int):
        return struct.pack(">q", value)
    return repr(sorted(value.items() if isinstance(value, Mapping) else value)).encode()


class InMemoryRepository:
    """Tables as dictionaries of `Cells`; `rows` and the properties return what a query would."""

    def __init__(self) -> None:
        self._tables: dict[str, dict[Key, Cells]] = {table.name: {} for table in DERIVED_TABLES}
        self._trades: dict[Day, dict[int, dict[tuple[int, bytes], Cells]]] = defaultdict(
            lambda: defaultdict(dict)
        )
        self._columns: tuple[str, ...] = ()
        self._state = DriverState()

    def store(self, batch: ArrowTable) -> None:
        """Upsert the trades of a batch (columns `batch_columns.DERIVING`), as the executors do in the stream.

        The order is the batch's; the write timestamp of a row is its ``stamp``.
        """
        self._columns = tuple(name for name in batch.column_names if name not in UNSTORED)
        for row in batch.to_pylist():
            self.put_trade(tuple(row[name] for name in self._columns), row["stamp"])

    def put_trade(self, values: Row, stamp: int) -> None:
        """Upsert one trade."""
        row = dict(zip(self._columns, values, strict=True))
        identity = bytes.fromhex(row["trade_id"])
        self._cells((row["symbol"], row["trade_date"], row["slot"], row["ts"], identity)).put(values, stamp)

    def _cells(self, trade_key: TradeKey) -> Cells:
        symbol, date, slot, ts, identity = trade_key
        return self._trades[symbol, date][slot].setdefault((ts, identity), Cells())

    def trades(self, day: Day, slots: Iterable[int] | None = None) -> Iterator[dict[str, Any]]:
        """Yield the stored trades and cancels of a day, with their marks and the ``stamp`` of their row."""
        stored = self._trades.get(day, {})
        for slot in stored if slots is None else slots:
            for cells in stored.get(slot, {}).values():
                if cells.values is not None:
                    marks = {name: value for name, (_, value) in cells.marks.items()}
                    row = dict(zip(self._columns, cells.values, strict=True))
                    yield {CANCELED_BY: None, SCORES: None, **row, **marks, "stamp": cells.stamp}

    @property
    def trade_days(self) -> list[Day]:
        """The symbols and days with stored trades."""
        return sorted(self._trades)

    def claim(self, epoch: int) -> None:
        self._state = self._state._replace(epoch=max(self._state.epoch, epoch))

    def driver_state(self) -> DriverState:
        return self._state

    def announce_repair(self, version: int) -> None:
        """Announce that derived tables were repaired."""
        self._state = self._state._replace(repair=version)

    def days(self, days: Sequence[Day]) -> Mapping[Day, DayRecord]:
        windows, cancels = self._by_day(FLOW_WINDOW, days), self._by_day(CANCEL, days)
        unusual, canceled = self._by_day(UNUSUAL_TRADE, days), self._by_day(UNUSUAL_CANCELED, days)
        return {
            day: DayRecord(
                [row[2] for row in windows[day]],
                [row[2] for row in windows[day] if row[-1]],
                [cancel_from_row(row) for row in cancels[day]],
                unusual[day],
                canceled[day],
            )
            for day in days
        }

    def _by_day(self, table: Table, days: Sequence[Day]) -> dict[Day, list[Row]]:
        result: dict[Day, list[Row]] = {day: [] for day in days}
        symbol, date = table.names.index("symbol"), table.names.index("trade_date")
        for row in self.rows(table) if days else ():
            if (row[symbol], row[date]) in result:
                result[row[symbol], row[date]].append(row)
        return result

    def windows(self, keys: Sequence[WindowKey]) -> Mapping[WindowKey, Iterable[StoredTrade]]:
        return {
            key: [
                StoredTrade.of(row)
                for row in self.trades(key.day, [key.slot])
                if not row["canceled"] and window_start(row["ts"]) == key.start
            ]
            for key in keys
        }

    def matching_trades(self, columns: MatchColumns, keys: Sequence[WindowKey]) -> Iterable[StoredTrade]:
        for key in keys:
            for row in self.trades(key.day, [key.slot]):
                if (
                    not row["canceled"]
                    and window_start(row["ts"]) == key.start
                    and MatchColumns.of(row) == columns
                ):
                    yield StoredTrade.of(row)

    def write(self, writes: Sequence[Write], timestamp: int) -> None:
        for write in writes:
            self.apply(write, timestamp)

    def apply(self, write: Write, timestamp: int) -> None:
        """Apply one write."""
        if isinstance(write, Mark):
            self._cells(write.trade_key).mark(write.column, write.value, timestamp)
        elif isinstance(write, Put):
            rows = self._tables[write.table.name]
            rows.setdefault(write.table.key_of(write.row), Cells()).put(write.row, timestamp)
        elif isinstance(write, Delete):
            self._tables[write.table.name].setdefault(write.key, Cells()).delete(timestamp)

    def rows(self, table: Table) -> list[Row]:
        """Return the rows of a derived table."""
        return [cells.values for cells in self._tables[table.name].values() if cells.values is not None]

    @property
    def windows_written(self) -> dict[WindowKey, WindowSignals]:
        """The table ``flow_window``; the slot of a key is that of UTC."""
        return {
            WindowKey(row[0], row[1], row[2] // 900_000 % 96, row[2]): WindowSignals._make(
                (*row[3:-1], row[-1] or None)
            )
            for row in self.rows(FLOW_WINDOW)
        }

    @property
    def cancels(self) -> dict[tuple[Day, bytes], Cancel]:
        """The table ``cancel``."""
        return {((row[0], row[1]), row[2]): cancel_from_row(row) for row in self.rows(CANCEL)}

    @property
    def marks(self) -> dict[bytes, bytes]:
        """Cancel by trade, from the column ``canceled_by``."""
        return self._marks(CANCELED_BY)

    @property
    def scores(self) -> dict[bytes, Any]:
        """Scores by signal, by trade."""
        return self._marks(SCORES)

    def _marks(self, column: str) -> dict[bytes, Any]:
        rows = (row for day in self._trades for row in self.trades(day))
        return {bytes.fromhex(row["trade_id"]): row[column] for row in rows if row[column] is not None}

    @property
    def unusual(self) -> dict[tuple[bytes, str], Row]:
        """The table ``unusual_trade``, by identity and signal."""
        return {(row[3], row[4]): row for row in self.rows(UNUSUAL_TRADE)}

    @property
    def unusual_canceled(self) -> dict[tuple[bytes, str], Row]:
        """The table ``unusual_canceled``, by identity and signal."""
        return {(row[3], row[4]): row for row in self.rows(UNUSUAL_CANCELED)}

    @property
    def top(self) -> list[Row]:
        """The table ``unusual_top``."""
        return sorted(self.rows(UNUSUAL_TOP))

    @property
    def late(self) -> dict[tuple[str, str, int, int], int]:
        """The table ``late_trades``."""
        return {(row[0], row[1], row[2], row[3]): row[4] for row in self.rows(LATE_TRADES)}
