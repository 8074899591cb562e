"""The `DerivedRepository` in Cassandra: reads stored trades and writes derived rows, all at LOCAL_QUORUM.

Every statement is idempotent. A statement that fails, because a node is being replaced, is sent again until a deadline.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache, partial
from itertools import islice
from typing import TYPE_CHECKING, Any

from kintsugi.core.settings import KEYSPACE
from kintsugi.pipeline.stream.cassandra_sink import RETRY_SECONDS, await_result
from kintsugi.pipeline.stream.cql_values import cassandra_date
from kintsugi.pipeline.stream.derived_records import (
    Day,
    DayRecord,
    DriverState,
    MatchColumns,
    StoredTrade,
    WindowKey,
)
from kintsugi.pipeline.stream.derived_table_keys import (
    CANCEL,
    CANCELED_BY,
    DERIVED_TABLES,
    SCORES,
    UNUSUAL_CANCELED,
    UNUSUAL_TRADE,
    Delete,
    Mark,
    Row,
    Table,
    Write,
    cancel_from_row,
)
from kintsugi.pipeline.stream.flow_windows import WINDOW_MS, flow_of
from kintsugi.pipeline.stream.stored_trades import to_milliseconds

if TYPE_CHECKING:
    from cassandra.cluster import Session

IN_FLIGHT = 64
BATCHED = 30
DRIVER = "stream_trades"
STORED = (
    "trade_id, ts, sequence, option_type, side, size, price, delta, canceled, WRITETIME(canceled) AS stamp"
)

Statement = tuple[Any, tuple[Any, ...]]


class CassandraRepository:
    """The statements of one driver's session; closed with the session's cluster."""

    def __init__(self, session: Session) -> None:
        self._session = session
        day = "symbol = ? AND trade_date = ?"
        slot = f"SELECT {STORED} FROM {KEYSPACE}.trade WHERE {day} AND slot = ?"
        self._claim = self._prepare(
            f"INSERT INTO {KEYSPACE}.stream_driver (name, epoch) VALUES ('{DRIVER}', ?) USING TIMESTAMP ?"
        )
        self._state = self._prepare(
            f"SELECT epoch, repair_version FROM {KEYSPACE}.stream_driver WHERE name = '{DRIVER}'"
        )
        self._of_day = (
            self._prepare(f"SELECT window_start, signal FROM {KEYSPACE}.flow_window WHERE {day}"),
            self._select(CANCEL, day),
            self._select(UNUSUAL_TRADE, day),
            self._select(UNUSUAL_CANCELED, day),
        )
        self._window = self._prepare(f"{slot} AND ts >= ? AND ts < ?")
        # Only the few cancels filter, and only within one window of a partition. Cassandra reads until enough rows
        # match to fill a page: over a whole partition that took longer than its read time-out.
        self._matching = self._prepare(
            f"{slot} AND ts >= ? AND ts < ? AND root = ? AND expiration = ? AND strike = ? AND option_type = ? "
            "AND exchange = ? AND size = ? AND price = ? AND condition = ? ALLOW FILTERING"
        )
        self._put = {table.name: self._insert(table) for table in DERIVED_TABLES}
        self._drop = {table.name: self._delete(table) for table in DERIVED_TABLES}
        self._mark = {
            column: self._prepare(
                f"UPDATE {KEYSPACE}.trade USING TIMESTAMP ? SET {column} = ? "
                f"WHERE {day} AND slot = ? AND ts = ? AND trade_id = ?"
            )
            for column in (CANCELED_BY, SCORES)
        }

    def claim(self, epoch: int) -> None:
        """Record the epoch; its write timestamp is the epoch, so the youngest driver wins, whoever writes last."""
        list(self._run([(self._claim, (epoch, epoch))]))

    def driver_state(self) -> DriverState:
        (rows,) = self._run([(self._state, ())])
        return next((DriverState(row.epoch or 0, row.repair_version or 0) for row in rows), DriverState())

    def days(self, days: Sequence[Day]) -> Mapping[Day, DayRecord]:
        keys = [(symbol, cassandra_date(date)) for symbol, date in days]
        rows = self._run((statement, key) for key in keys for statement in self._of_day)
        records = {}
        for day in days:
            windows, cancels, unusual, unusual_canceled = (next(rows) for _ in self._of_day)
            records[day] = DayRecord(
                [to_milliseconds(row.window_start) for row in windows],
                [to_milliseconds(row.window_start) for row in windows if row.signal],
                [cancel_from_row(read_row(CANCEL, row)) for row in cancels],
                [read_row(UNUSUAL_TRADE, row) for row in unusual],
                [read_row(UNUSUAL_CANCELED, row) for row in unusual_canceled],
            )
        return records

    def windows(self, keys: Sequence[WindowKey]) -> Mapping[WindowKey, Iterable[StoredTrade]]:
        statements = ((self._window, _window_bounds(key)) for key in keys)
        return {
            key: [_stored_trade(row, key.slot) for row in rows if row.canceled is False]
            for key, rows in zip(keys, self._run(statements), strict=True)
        }

    def matching_trades(self, columns: MatchColumns, keys: Sequence[WindowKey]) -> Iterable[StoredTrade]:
        values = (columns.root, cassandra_date(columns.expiration), *columns[2:])
        statements = ((self._matching, (*_window_bounds(key), *values)) for key in keys)
        for key, rows in zip(keys, self._run(statements), strict=True):
            yield from (_stored_trade(row, key.slot) for row in rows)

    def write(self, writes: Sequence[Write], timestamp: int) -> None:
        """Write all of them, in batches of one partition each."""
        from cassandra.query import BatchStatement, BatchType

        groups: dict[Any, list[Statement]] = defaultdict(list)
        for write in writes:
            partition, statement = self._statement(write, timestamp)
            groups[partition].append(statement)
        batches = []
        for group in groups.values():
            for start in range(0, len(group), BATCHED):
                batch = BatchStatement(BatchType.UNLOGGED)
                batch.is_idempotent = True
                for statement, values in group[start : start + BATCHED]:
                    batch.add(statement, values)
                batches.append((batch, ()))
        list(self._run(batches))

    def _statement(self, write: Write, timestamp: int) -> tuple[Any, Statement]:
        """Return the partition of a write, and its statement with values."""
        if isinstance(write, Mark):
            key = _bound_values(write.trade_key, _TRADE_KEY_TYPES)
            return ("trade", *key[:3]), (self._mark[write.column], (timestamp, write.value, *key))
        table = write.table
        key = write.key if isinstance(write, Delete) else table.key_of(write.row)
        partition = (table.name, *key[: table.partition])
        if isinstance(write, Delete):
            return partition, (
                self._drop[table.name],
                (timestamp, *_bound_values(key, _column_types(table, table.key))),
            )
        values = _bound_values(write.row, _column_types(table, table.names))
        return partition, (self._put[table.name], (*values, timestamp))

    def _run(self, statements: Iterable[Statement]) -> Iterator[list[Any]]:
        """Run statements, many at a time; yields the rows of each, in order."""
        deadline = time.monotonic() + RETRY_SECONDS
        source = iter(statements)
        while group := list(islice(source, IN_FLIGHT)):
            senders = [
                partial(self._session.execute_async, statement, values or None) for statement, values in group
            ]
            futures = [send() for send in senders]
            for send, future in zip(senders, futures, strict=True):
                yield await_result(send, future, deadline)

    def _select(self, table: Table, where: str) -> Any:
        return self._prepare(f"SELECT {', '.join(table.names)} FROM {KEYSPACE}.{table.name} WHERE {where}")

    def _insert(self, table: Table) -> Any:
        marks = ", ".join("?" for _ in table.columns)
        return self._prepare(
            f"INSERT INTO {KEYSPACE}.{table.name} ({', '.join(table.names)}) VALUES ({marks}) USING TIMESTAMP ?"
        )

    def _delete(self, table: Table) -> Any:
        key = " AND ".join(f"{name} = ?" for name in table.key)
        return self._prepare(f"DELETE FROM {KEYSPACE}.{table.name} USING TIMESTAMP ? WHERE {key}")

    def _prepare(self, text: str) -> Any:
        statement = self._session.prepare(text)
        statement.is_idempotent = True
        return statement


def _window_bounds(key: WindowKey) -> tuple[Any, ...]:
    """Return a window as values of a statement: its partition, its start and its end."""
    return key.symbol, cassandra_date(key.trade_date), key.slot, key.start, key.start + WINDOW_MS


_TRADE_KEY_TYPES = ("text", "date", "smallint", "timestamp", "blob")


@cache
def _column_types(table: Table, names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the CQL types of these columns."""
    types = dict(table.columns)
    return tuple(types[name] for name in names)


def _bound_values(values: tuple[Any, ...], types: tuple[str, ...]) -> tuple[Any, ...]:
    """Convert values for the driver: a date is ``YYYY-MM-DD`` before."""
    return tuple(
        cassandra_date(value) if cql_type == "date" else value
        for value, cql_type in zip(values, types, strict=True)
    )


def read_row(table: Table, row: Any) -> Row:
    """Convert a row of the driver, which has all columns of the table in order, to a `Row`."""
    return tuple(
        _read_value(value, cql_type) for value, (_, cql_type) in zip(row, table.columns, strict=True)
    )


def _read_value(value: Any, cql_type: str) -> Any:
    if value is None:
        return frozenset() if cql_type == "frozen<set<blob>>" else None
    if cql_type == "date":
        return str(value)
    if cql_type == "timestamp":
        return to_milliseconds(value)
    if cql_type == "frozen<set<blob>>":
        return frozenset(map(bytes, value))
    return bytes(value) if cql_type == "blob" else value


def _stored_trade(row: Any, slot: int) -> StoredTrade:
    ts = to_milliseconds(row.ts)
    flow = flow_of(ts, row.option_type, row.side, row.size, row.price, row.delta)
    return StoredTrade(bytes(row.trade_id), ts, slot, row.sequence, flow, row.stamp)
