"""The audit of the derived tables: whether every row follows from the stored trades.

All derived tables except ``late_trades`` are a function of the stored trades (`recomputation`). The reconciliation
reads the trades anyway, so it computes the rows again and compares them column by column.

1. The trades of a symbol's day are collected partition by partition. When the day is complete, its rows of
   ``flow_window``, ``flow_alert``, ``cancel``, ``unusual_trade`` and ``unusual_canceled`` are read and compared, and
   the marks of its trades.
2. ``unusual_top`` is divided by day and ranking, not by symbol. So it is compared with ``unusual_trade`` day by day,
   after that table was compared. Symbols that have rows on such a day, but no trade, are compared, too.
3. The stream stores a batch's trades before everything else. So a difference is checked again after the stream has
   stored everything that was on the topic at the last check. If neither side has changed by then, the row is wrong.
4. A repair writes the expected row, or deletes the wrong one, and makes the driver drop what it holds in memory. Its
   timestamps are GRACE_S in the past, so that a running batch of the driver wins.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from kintsugi.core.settings import KEYSPACE
from kintsugi.pipeline.stream.baselines import VERSIONS
from kintsugi.pipeline.stream.batch_columns import TRADE_SIGNALS
from kintsugi.pipeline.stream.cassandra_repository import CassandraRepository, read_row
from kintsugi.pipeline.stream.cql_values import cassandra_date
from kintsugi.pipeline.stream.derived_records import Day, MatchColumns, WindowKey
from kintsugi.pipeline.stream.derived_table_keys import (
    CANCEL,
    CANCELED_BY,
    FLOW_ALERT,
    FLOW_WINDOW,
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
    rank_rows,
    window_row,
)
from kintsugi.pipeline.stream.flow_windows import Sums, flow_of, window_signals
from kintsugi.pipeline.stream.match_key import match_number
from kintsugi.pipeline.stream.recomputation import MATCH, DayTrades, ExpectedTrade
from kintsugi.pipeline.stream.stored_trades import (
    ALWAYS,
    PartitionRange,
    await_rows,
    read_partitions,
    to_milliseconds,
)

if TYPE_CHECKING:
    from cassandra.cluster import Session

COLUMNS = (
    "side",
    "canceled",
    "premium",
    "canceled_by",
    "scores",
)  # of `trade`, added to those that are read anyway
SLOTS = 96  # quarters of an hour in a day
BY_SYMBOL = (FLOW_WINDOW, CANCEL)  # tables whose partition is a symbol's day
BY_DAY = (FLOW_ALERT, UNUSUAL_TRADE, UNUSUAL_CANCELED)  # tables whose partition is a day, sorted by symbol
RANKINGS = ("premium", *TRADE_SIGNALS)
GRACE_S = 60.0
NAMED = 100
NOTHING = window_signals(Sums())
CONDITION = CANCEL.names.index("condition")
MARKS = "trade"


class DerivedRowDifference(NamedTuple):
    """A row that isn't as expected; None: no row. If ``table`` is None, it is the mark ``canceled_by`` of a trade."""

    table: Table | None
    key: Key
    expected: Any
    stored: Any

    @property
    def row_id(self) -> tuple[str, Key]:
        """The name of the table, and the key."""
        return (MARKS if self.table is None else self.table.name), self.key

    def __str__(self) -> str:
        """Format the table and the key, for a person who queries the row."""
        name, key = self.row_id
        types = dict(self.table.columns) if self.table else {}
        names = self.table.key if self.table else ("symbol", "trade_date", "slot", "ts", "trade_id")
        values = (
            _format_value(types.get(column, ""), value) for column, value in zip(names, key, strict=True)
        )
        return f"{name} {' '.join(values)}"

    def repair(self) -> Write:
        """Return the write that corrects the row."""
        if self.table is None:
            symbol, date, slot, ts, identity = self.key
            return Mark((symbol, date, slot, ts, identity), CANCELED_BY, self.expected)
        if self.expected is None:
            return Delete(self.table, self.key)
        row = self.expected
        if self.table is CANCEL:
            row = (*row[:MATCH], match_number(cancel_from_row(row).match_columns), *row[MATCH + 1 :])
        return Put(self.table, row)


Differences = dict[
    Day | str, dict[tuple[str, Key], int]
]  # by symbol's day, or by day: a hash of both sides of a row


class DerivedAudit:
    """Compares the days whose partitions are passed to it, and keeps what differs; ``repair``: corrects wrong rows."""

    def __init__(self, session: Session, *, repair: bool = False, grace_s: float = GRACE_S) -> None:
        self._session, self._grace_s = session, grace_s
        self._repository = CassandraRepository(session) if repair else None
        self._queries = {table.name: self._prepare(table, "symbol = ? AND trade_date = ?")
                         for table in (*BY_SYMBOL, *BY_DAY)}  # fmt: skip
        self._top = self._prepare(UNUSUAL_TOP, "trade_date = ? AND ranking = ?")
        self._of_day = {table.name: self._prepare(table, "trade_date = ?") for table in BY_DAY}
        self._trades: DayTrades | None = None
        self._compared_days: set[Day] = set()
        self._skipped_days: set[Day] = set()
        self._differences: Differences = {}
        self.compared: Counter[str] = Counter()  # rows by table
        self.wrong: Counter[str] = Counter()
        self.named: dict[str, list[str]] = defaultdict(list)  # at most NAMED a table
        self.repaired = 0

    def _prepare(self, table: Table, where: str) -> Any:
        statement = self._session.prepare(
            f"SELECT {', '.join(table.names)} FROM {KEYSPACE}.{table.name} WHERE {where}"
        )
        statement.is_idempotent = False  # see `stored_trades.read_partitions`
        return statement

    def see(self, partition: PartitionRange, rows: Iterable[Any]) -> None:
        """Add the rows of a partition (with COLUMNS). All partitions of a symbol's day must follow one another."""
        day = partition[:2]
        if self._trades is None or day != self._trades.day:
            self.close()
            self._trades = DayTrades(day)
        _add_rows(self._trades, partition[2], rows)

    def close(self) -> None:
        """Compare the day whose partitions were added last."""
        if self._trades is not None:
            trades, self._trades = self._trades, None
            self._compared_days.add(trades.day)
            self._keep(trades.day, self._compare_day(trades, count=True))

    def skip(self, day: Day) -> None:
        """Leave out a day that has trades: Cassandra may have expired some of them."""
        self._skipped_days.add(day)

    def settle(self, await_stored: Callable[[], bool], deadline: float) -> int:
        """Check the differences again, once or until ``deadline``; returns how many rows are still being written.

        ``await_stored`` waits until the stream has stored what is on the topic now, and returns whether it has. Wrong
        rows are counted in ``wrong``.
        """
        self.close()
        self._compare_dates()
        while self._differences and await_stored():
            before, self._differences = self._differences, {}
            days = sorted(scope for scope in before if not isinstance(scope, str))
            repaired_dates = {day[1] for day in days if self._check_again(day, before[day])}
            # The ranks of a day follow from its rows. If these were repaired, the ranks are repaired, too.
            for date in sorted({scope for scope in before if isinstance(scope, str)} | repaired_dates):
                self._check_again(date, before.get(date, {}), all_wrong=date in repaired_dates)
            if time.monotonic() >= deadline:
                break
        if self.repaired:
            announce_repair(self._session)
        return sum(len(hashes) for hashes in self._differences.values())

    def _check_again(
        self, scope: Day | str, before: dict[tuple[str, Key], int], *, all_wrong: bool = False
    ) -> bool:
        """Separate wrong rows from those being written, and repair the wrong ones; returns whether it repaired any.

        ``scope``: a symbol's day, or a date. ``before``: its differences at the last check. ``all_wrong``: every row
        that differs is wrong.
        """
        started = time.time() - self._grace_s
        differing = list(
            self._compare_ranks(scope) if isinstance(scope, str) else self._compare_day(self._read_day(scope))
        )
        if all_wrong:
            wrong = differing
        else:
            differing = [row for row in differing if row.row_id in before]
            wrong = [row for row in differing if before[row.row_id] == _hash_sides(row)]
            self._keep(scope, (row for row in differing if before[row.row_id] != _hash_sides(row)))
        for row in wrong:
            name = row.row_id[0]
            self.wrong[name] += 1
            if len(self.named[name]) < NAMED:
                self.named[name].append(str(row))
        if self._repository is None or not wrong:
            return False
        self._repository.write([row.repair() for row in wrong], round(started * 1e6))
        self.repaired += len(wrong)
        return True

    def _read_day(self, day: Day) -> DayTrades:
        trades = DayTrades(day)
        ranges: list[PartitionRange] = [(*day, slot, *ALWAYS) for slot in range(SLOTS)]
        for partition, rows in zip(ranges, read_partitions(self._session, ranges, COLUMNS), strict=True):
            _add_rows(trades, partition[2], rows)
        return trades

    def _keep(self, scope: Day | str, differing: Iterable[DerivedRowDifference]) -> None:
        hashes = {row.row_id: _hash_sides(row) for row in differing}
        if hashes:
            self._differences[scope] = hashes

    # One symbol's day

    def _compare_day(self, trades: DayTrades, *, count: bool = False) -> Iterator[DerivedRowDifference]:
        expected = trades.tables()
        values = (trades.day[0], cassandra_date(trades.day[1]))
        queries = [(table, self._queries[table.name]) for table in (*BY_SYMBOL, *BY_DAY)]
        futures = [self._session.execute_async(query, values) for _, query in queries]
        for (table, query), future in zip(queries, futures, strict=True):
            rows = (read_row(table, row) for row in await_rows(self._session, query, values, future))
            stored = {table.key_of(row): row for row in rows}
            if count:
                self.compared[table.name] += len(stored.keys() | expected.rows[table].keys())
            yield from row_differences(table, expected.rows[table], stored)
        for trade_key in expected.marks.keys() | trades.marked.keys():
            sides = expected.marks.get(trade_key), trades.marked.get(trade_key)
            if sides[0] != sides[1]:
                yield DerivedRowDifference(None, trade_key, *sides)

    # All symbols of a day

    def _compare_dates(self) -> None:
        """Compare the ranks of each date, and the symbols that have rows on it but no trade."""
        dates = {date for _, date in self._compared_days}
        without_trades = {
            (row.symbol, str(row.trade_date))
            for table in BY_SYMBOL
            for row in self._session.execute(
                f"SELECT DISTINCT symbol, trade_date FROM {KEYSPACE}.{table.name}"
            )
        }
        for date in sorted(dates):
            self._keep(date, self._compare_ranks(date, count=True))
            for table in BY_DAY:
                symbol = table.names.index("symbol")
                without_trades |= {(row[symbol], date) for row in self._rows_of_day(table, date)}
        for day in sorted(without_trades - self._compared_days - self._skipped_days):
            if day[1] in dates:
                self._keep(day, self._compare_day(DayTrades(day), count=True))

    def _compare_ranks(self, date: str, *, count: bool = False) -> Iterator[DerivedRowDifference]:
        stored: dict[Key, Row] = {}
        for ranking in RANKINGS:
            values = (cassandra_date(date), ranking)
            future = self._session.execute_async(self._top, values)
            for raw_row in await_rows(self._session, self._top, values, future):
                row = read_row(UNUSUAL_TOP, raw_row)
                stored[UNUSUAL_TOP.key_of(row)] = row
        rows = ((UNUSUAL_TRADE, row) for row in self._rows_of_day(UNUSUAL_TRADE, date))
        skipped = self._skipped_days
        expected = {UNUSUAL_TOP.key_of(row): row for row in rank_rows(rows) if (row[3], date) not in skipped}
        if skipped:
            stored = {key: row for key, row in stored.items() if (row[3], date) not in skipped}
        if count:
            self.compared[UNUSUAL_TOP.name] += len(stored.keys() | expected.keys())
        return row_differences(UNUSUAL_TOP, expected, stored)

    def _rows_of_day(self, table: Table, date: str) -> list[Row]:
        query, values = self._of_day[table.name], (cassandra_date(date),)
        future = self._session.execute_async(query, values)
        return [read_row(table, row) for row in await_rows(self._session, query, values, future)]


def row_differences(
    table: Table, expected: dict[Key, Row], stored: dict[Key, Row]
) -> Iterator[DerivedRowDifference]:
    """Yield the rows of a table that aren't as expected. Pure.

    An empty window may be stored or not. Two columns of ``cancel`` aren't compared: ``match`` only helps to find the
    trade, and ``condition`` is null in rows of an earlier release.
    """
    for key in expected.keys() | stored.keys():
        sides = expected.get(key), stored.get(key)
        if _comparable_row(table, sides[0]) != _comparable_row(table, sides[1]):
            yield DerivedRowDifference(table, key, *sides)


def _comparable_row(table: Table, row: Row | None) -> Row | None:
    if row is None:
        return None
    if table is FLOW_WINDOW:
        empty = window_row(WindowKey(row[0], row[1], 0, row[2]), NOTHING)
        return None if row == empty else row
    return (*row[:MATCH], *row[MATCH + 1 : CONDITION]) if table is CANCEL else row


def _hash_sides(row: DerivedRowDifference) -> int:
    return hash((row.expected, row.stored))


def _add_rows(trades: DayTrades, slot: int, rows: Iterable[Any]) -> None:
    """Add the stored rows of a partition; an incomplete row wasn't written by the stream and is ignored."""
    for row in rows:
        if row.canceled is None or row.side is None or row.size is None:
            continue
        canceled, ts = row.canceled, to_milliseconds(row.ts)
        columns = MatchColumns(
            row.root, str(row.expiration), row.strike, row.option_type, row.exchange, row.size, row.price,
            row.canceled_condition if canceled else row.condition,
        )  # fmt: skip
        flow = None if canceled else flow_of(ts, row.option_type, row.side, row.size, row.price, row.delta)
        canceled_by = None if row.canceled_by is None else bytes(row.canceled_by)
        scores = None if row.scores is None else dict(row.scores)
        trades.add(
            ExpectedTrade(
                bytes(row.trade_id), ts, slot, row.sequence, columns, canceled, flow, row.premium, row.side, row.iv,
                row.delta, canceled_by, scores, row.condition,
            )
        )  # fmt: skip


def _format_value(kind: str, value: Any) -> str:
    if isinstance(value, bytes):
        return value.hex()
    if kind == "timestamp":
        return f"{datetime.fromtimestamp(value / 1000, UTC):%H:%M:%S}Z"
    return str(value)


def announce_repair(session: Session) -> None:
    """Announce that derived tables were repaired: the driver drops what it holds in memory before its next batch."""
    session.execute(
        f"UPDATE {KEYSPACE}.stream_driver SET repair_version = %s WHERE name = '{VERSIONS}'",
        (time.time_ns() // 1000,),
    )
