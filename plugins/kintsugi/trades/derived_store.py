"""Cassandra as the `derived.Store`: reads the truth, writes what follows from it, all at LOCAL_QUORUM.

Every statement is idempotent; one that fails (a node is being replaced) is sent again until a deadline.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from kintsugi.errors import KintsugiError
from kintsugi.settings import KEYSPACE
from kintsugi.trades.derived_types import Alike, Cancel, Changes, Day, DayRecord, Stored, WindowKey
from kintsugi.trades.schema import (
    CANCEL_COLUMNS,
    LATE_COLUMNS,
    TOP_COLUMNS,
    UNUSUAL_COLUMNS,
    WINDOW_COLUMNS,
)  # fmt: skip
from kintsugi.trades.sink import cassandra_date
from kintsugi.trades.stored import milliseconds
from kintsugi.trades.windows import WINDOW_MS, flow_of

if TYPE_CHECKING:
    from cassandra.cluster import Session

IN_FLIGHT = 64
BATCHED = 30
RETRY_SECONDS = 60.0
DRIVER = "stream_trades"
STORED = "trade_id, ts, sequence, option_type, side, size, price, delta, canceled"

Statement = tuple[Any, tuple[Any, ...]]


class CassandraStore:
    """One driver's session; closed with the session's cluster."""

    def __init__(self, session: Session) -> None:
        self._session = session
        day = "symbol = ? AND trade_date = ?"
        slot = f"SELECT {STORED} FROM {KEYSPACE}.trade WHERE {day} AND slot = ?"
        self._claim = self._prepare(
            f"INSERT INTO {KEYSPACE}.stream_driver (name, epoch) VALUES ('{DRIVER}', ?) USING TIMESTAMP ?"
        )
        self._youngest = self._prepare(f"SELECT epoch FROM {KEYSPACE}.stream_driver WHERE name = '{DRIVER}'")
        self._day_windows = self._prepare(
            f"SELECT window_start, signal FROM {KEYSPACE}.flow_window WHERE {day}"
        )
        self._day_cancels = self._prepare(f"SELECT * FROM {KEYSPACE}.cancel WHERE {day}")
        self._window = self._prepare(f"{slot} AND ts >= ? AND ts < ?")
        # Filtering stays within one window of a partition, and only the few cancels ask. A page is full when enough
        # rows fit, however many were read: over a whole partition it took longer than Cassandra lets a read take.
        self._alike = self._prepare(
            f"{slot} AND ts >= ? AND ts < ? AND root = ? AND expiration = ? AND strike = ? AND option_type = ? "
            "AND exchange = ? AND size = ? AND price = ? AND condition = ? ALLOW FILTERING"
        )
        self._put_window = self._insert("flow_window", WINDOW_COLUMNS)
        self._put_alert = self._insert("flow_alert", WINDOW_COLUMNS)
        self._put_cancel = self._insert("cancel", CANCEL_COLUMNS)
        self._put_unusual = self._insert("unusual_trade", UNUSUAL_COLUMNS)
        self._put_canceled = self._insert("unusual_canceled", UNUSUAL_COLUMNS)
        self._put_top = self._insert("unusual_top", TOP_COLUMNS)
        self._put_late = self._insert("late_trades", LATE_COLUMNS)
        self._mark = self._prepare(
            f"UPDATE {KEYSPACE}.trade USING TIMESTAMP ? SET canceled_by = ? "
            f"WHERE {day} AND slot = ? AND ts = ? AND trade_id = ?"
        )
        one = "trade_date = ? AND symbol = ? AND ts = ? AND trade_id = ?"
        names = ", ".join(name for name, _ in UNUSUAL_COLUMNS)
        self._unusual_of, self._canceled_of = (
            self._prepare(f"SELECT {names} FROM {KEYSPACE}.{table} WHERE {one}")
            for table in ("unusual_trade", "unusual_canceled")
        )
        self._drop_unusual, self._drop_canceled = (
            self._prepare(f"DELETE FROM {KEYSPACE}.{table} USING TIMESTAMP ? WHERE {one} AND signal = ?")
            for table in ("unusual_trade", "unusual_canceled")
        )
        self._drop_top = self._prepare(
            f"DELETE FROM {KEYSPACE}.unusual_top USING TIMESTAMP ? WHERE trade_date = ? AND ranking = ? AND value = ? "
            "AND symbol = ? AND ts = ? AND trade_id = ? AND signal = ?"
        )
        self._drop_alert = self._prepare(
            f"DELETE FROM {KEYSPACE}.flow_alert USING TIMESTAMP ? "
            "WHERE trade_date = ? AND symbol = ? AND window_start = ?"
        )

    def claim(self, epoch: int) -> None:
        """Last write wins by timestamp, and the timestamp is the epoch: the youngest stays, whoever writes when."""
        list(self._run([(self._claim, (epoch, epoch))]))

    def youngest(self) -> int:
        (rows,) = self._run([(self._youngest, ())])
        return max((row.epoch for row in rows), default=0)

    def days(self, days: Sequence[Day]) -> Mapping[Day, DayRecord]:
        keys = [(symbol, cassandra_date(date)) for symbol, date in days]
        windows = list(self._run((self._day_windows, key) for key in keys))
        cancels = list(self._run((self._day_cancels, key) for key in keys))
        return {
            day: DayRecord(
                [milliseconds(row.window_start) for row in found],
                [milliseconds(row.window_start) for row in found if row.signal],
                [_cancel(row) for row in taken],
            )
            for day, found, taken in zip(days, windows, cancels, strict=True)
        }

    def windows(self, keys: Sequence[WindowKey]) -> Mapping[WindowKey, Iterable[Stored]]:
        asked = ((self._window, _bounds(key)) for key in keys)
        return {
            key: [_stored(row, key.slot) for row in rows if not row.canceled]
            for key, rows in zip(keys, self._run(asked), strict=True)
        }

    def alike(self, columns: Alike, keys: Sequence[WindowKey]) -> Iterable[Stored]:
        rest = (columns.root, cassandra_date(columns.expiration), *columns[2:])
        asked = ((self._alike, (*_bounds(key), *rest)) for key in keys)
        for key, rows in zip(keys, self._run(asked), strict=True):
            yield from (_stored(row, key.slot) for row in rows)

    def write(self, changes: Changes, timestamp: int) -> None:
        """Write in an order in which whatever is cut short is found again by the repeated batch.

        A trade's row in ``unusual_trade`` leads to its rows in ``unusual_top``: it is written before
        them, and removed after them. A row that moves is written where it goes before it is removed.
        """
        self._put_unusual_rows([_with_days(row) for row in changes.unusual], timestamp)
        self._write_batches(
            (self._put_canceled, row[0], (*_with_days(row), timestamp)) for row in changes.unusual_canceled
        )
        self._take_back(changes, timestamp)
        self._free(changes, timestamp)
        self._write_batches(
            (
                self._mark,
                (*day, slot),
                (timestamp, cancel, day[0], cassandra_date(day[1]), slot, ts, identity),
            )
            for day, slot, ts, identity, cancel in changes.marks
        )
        self._write_batches(
            (self._put_late, row[0], (cassandra_date(row[0]), *row[1:], timestamp)) for row in changes.late
        )
        windows = [
            (
                key,
                (
                    key.symbol,
                    cassandra_date(key.trade_date),
                    key.start,
                    *found[:-1],
                    found.signal or "",
                    timestamp,
                ),
            )
            for key, found in changes.windows.items()
        ]
        self._write_batches((self._put_alert, key.trade_date, row) for key, row in windows if row[-2])
        quiet = (
            (self._drop_alert, (timestamp, cassandra_date(k.trade_date), k.symbol, k.start))
            for k in changes.quiet
        )
        list(self._run(quiet))
        self._write_batches((self._put_window, key.day, row) for key, row in windows)
        self._write_batches(
            (self._put_cancel, day, (*_cancel_row(day, cancel), timestamp)) for day, cancel in changes.cancels
        )

    def _put_unusual_rows(self, rows: list[tuple[Any, ...]], timestamp: int) -> None:
        self._write_batches((self._put_unusual, row[0], (*row, timestamp)) for row in rows)
        self._write_batches(
            (self._put_top, (row[0], ranking), (ranking, value, *row, timestamp))
            for row in rows
            for ranking, value in _rankings(row)
        )

    def _take_back(self, changes: Changes, timestamp: int) -> None:
        rows = self._rows_of(self._unusual_of, changes.taken_back)
        self._write_batches((self._put_canceled, row[0], (*row, timestamp)) for row in rows)
        list(self._run((self._drop_top, (timestamp, row[0], ranking, value, *row[1:5]))
                       for row in rows for ranking, value in _rankings(row)))  # fmt: skip
        list(self._run((self._drop_unusual, (timestamp, *row[:5])) for row in rows))

    def _free(self, changes: Changes, timestamp: int) -> None:
        rows = self._rows_of(self._canceled_of, changes.freed)
        self._put_unusual_rows(rows, timestamp)
        list(self._run((self._drop_canceled, (timestamp, *row[:5])) for row in rows))

    def _rows_of(self, statement: Any, trades: list[tuple[Day, int, bytes]]) -> list[tuple[Any, ...]]:
        """The rows of these trades, fit to be written again."""
        asked = ((statement, (cassandra_date(date), symbol, ts, key)) for (symbol, date), ts, key in trades)
        return [
            _with_days((str(row[0]), row[1], milliseconds(row[2]), *row[3:7], str(row[7]), *row[8:]))
            for rows in self._run(asked)
            for row in rows
        ]

    def _write_batches(self, rows: Iterable[tuple[Any, Any, tuple[Any, ...]]]) -> None:
        """Write (statement, partition, values), grouped into unlogged batches of one partition."""
        from cassandra.query import BatchStatement, BatchType

        groups: dict[Any, list[Statement]] = defaultdict(list)
        for statement, partition, values in rows:
            groups[partition].append((statement, values))
        batches = []
        for group in groups.values():
            for start in range(0, len(group), BATCHED):
                batch = BatchStatement(BatchType.UNLOGGED)
                batch.is_idempotent = True
                for statement, values in group[start : start + BATCHED]:
                    batch.add(statement, values)
                batches.append((batch, ()))
        list(self._run(batches))

    def _run(self, statements: Iterable[Statement]) -> Iterator[list[Any]]:
        """The rows of each statement, in order; many are in flight at a time."""
        deadline = time.monotonic() + RETRY_SECONDS
        source = iter(statements)
        while wave := list(islice(source, IN_FLIGHT)):
            futures = [self._session.execute_async(*self._bound(*statement)) for statement in wave]
            for statement, future in zip(wave, futures, strict=True):
                yield self._result(statement, future, deadline)

    def _bound(self, statement: Any, values: tuple[Any, ...]) -> tuple[Any, ...]:
        return (statement, values) if values else (statement,)

    def _result(self, statement: Statement, future: Any, deadline: float) -> list[Any]:
        while True:
            try:
                return list(future.result())
            except Exception as error:
                if time.monotonic() > deadline:
                    raise KintsugiError(
                        f"Cassandra refused what follows from the trades for {RETRY_SECONDS:.0f} s: {error}; "
                        "the stream will try the batch again, look at the health of the cassandra nodes"
                    ) from error
            time.sleep(0.2)
            future = self._session.execute_async(*self._bound(*statement))

    def _insert(self, table: str, columns: tuple[tuple[str, str], ...]) -> Any:
        names = ", ".join(name for name, _ in columns)
        marks = ", ".join("?" for _ in columns)
        return self._prepare(f"INSERT INTO {KEYSPACE}.{table} ({names}) VALUES ({marks}) USING TIMESTAMP ?")

    def _prepare(self, text: str) -> Any:
        statement = self._session.prepare(text)
        statement.is_idempotent = True
        return statement


def _bounds(key: WindowKey) -> tuple[Any, ...]:
    """A window as the statements take it: its partition, and from when to when."""
    return key.symbol, cassandra_date(key.trade_date), key.slot, key.start, key.start + WINDOW_MS


def _with_days(row: tuple[Any, ...]) -> tuple[Any, ...]:
    """A row of UNUSUAL_COLUMNS with its dates as the driver takes them."""
    return (cassandra_date(row[0]), *row[1:7], cassandra_date(row[7]), *row[8:])


def _rankings(row: tuple[Any, ...]) -> tuple[tuple[str, float], tuple[str, float]]:
    """(ranking, value) of a row of UNUSUAL_COLUMNS in ``unusual_top``: its premium, and its signal's score."""
    return ("premium", row[12]), (row[4], row[5])


def _stored(row: Any, slot: int) -> Stored:
    ts = milliseconds(row.ts)
    flow = flow_of(ts, row.option_type, row.side, row.size, row.price, row.delta)
    return Stored(bytes(row.trade_id), ts, slot, row.sequence, flow)


def _cancel(row: Any) -> Cancel:
    alike = Alike(
        row.root, str(row.expiration), row.strike, row.option_type, row.exchange, row.size, row.price,
        row.canceled_condition,
    )  # fmt: skip
    taken = None if row.trade_id is None else bytes(row.trade_id)
    return Cancel(bytes(row.cancel_id), milliseconds(row.ts), row.slot, row.sequence, alike, row.match, taken)


def _cancel_row(day: Day, cancel: Cancel) -> tuple[Any, ...]:
    alike = cancel.alike
    return (
        day[0], cassandra_date(day[1]), cancel.cancel_id, cancel.ts, cancel.slot, cancel.sequence, alike.root,
        cassandra_date(alike.expiration), *alike[2:], cancel.match, cancel.trade_id,
    )  # fmt: skip
