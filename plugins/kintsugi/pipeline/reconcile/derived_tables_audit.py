"""Are the derived tables what follows from the stored trades? Reconciliation's look at every one of them.

All derived tables but ``late_trades`` are a function of the stored trades (`recomputation`). Reconciliation reads the
trades anyway, so it computes them again and compares, row by row and column by column.

1. Partition by partition the trades of a symbol's day are taken in. When the day is complete, its rows of
   ``flow_window``, ``flow_alert``, ``cancel``, ``unusual_trade`` and ``unusual_canceled`` are read and compared, and
   the marks of its trades.
2. ``unusual_top`` is divided by day and ranking, not by symbol. So it is compared with ``unusual_trade``, day by day,
   when that has been compared. Symbols that have rows on such a day but no trade are compared, too.
3. The stream stores a batch's trades before all else. So what differs is looked at again when the stream has committed
   what was on the topic at the last look: what has not changed by then on either side is wrong.
4. A repair writes what is wrong as it should be, or deletes it, and tells the driver to forget what it holds in memory.
   Its writes are dated back by GRACE_S, so that a batch of the driver that is under way wins.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from kintsugi.core.settings import KEYSPACE
from kintsugi.pipeline.stream.baselines import VERSIONS
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
    cancel_of,
    rank_rows,
    window_row,
)
from kintsugi.pipeline.stream.derived_tables import TRADE_SIGNALS
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

COLUMNS = ("side", "canceled", "premium", "canceled_by", "scores")  # of `trade`, beside what is read anyway
SLOTS = 96  # quarters of an hour, a day
BY_SYMBOL = (FLOW_WINDOW, CANCEL)  # tables whose partition is a symbol's day
BY_DAY = (FLOW_ALERT, UNUSUAL_TRADE, UNUSUAL_CANCELED)  # tables whose partition is a day, sorted by symbol
RANKINGS = ("premium", *TRADE_SIGNALS)
GRACE_S = 60.0
NAMED = 100
NOTHING = window_signals(Sums())
CONDITION = CANCEL.names.index("condition")
MARKS = "trade"


class DerivedRowDifference(NamedTuple):
    """A row that isn't as it should be; ``table`` None: the mark ``canceled_by`` of a trade. None: no row."""

    table: Table | None
    key: Key
    expected: Any
    stands: Any

    @property
    def place(self) -> tuple[str, Key]:
        return (MARKS if self.table is None else self.table.name), self.key

    def __str__(self) -> str:
        """The table, and the columns of the key that a person can look for."""
        name, key = self.place
        kinds = dict(self.table.columns) if self.table else {}
        names = self.table.key if self.table else ("symbol", "trade_date", "slot", "ts", "trade_id")
        shown = (
            _format_value(kinds.get(column, ""), value) for column, value in zip(names, key, strict=True)
        )
        return f"{name} {' '.join(shown)}"

    def repair(self) -> Write:
        """The write after which it is as it should be."""
        if self.table is None:
            symbol, date, slot, ts, identity = self.key
            return Mark((symbol, date, slot, ts, identity), CANCELED_BY, self.expected)
        if self.expected is None:
            return Delete(self.table, self.key)
        row = self.expected
        if self.table is CANCEL:
            row = (*row[:MATCH], match_number(cancel_of(row).alike), *row[MATCH + 1 :])
        return Put(self.table, row)


Known = dict[Day | str, dict[tuple[str, Key], int]]  # by symbol's day, or by day: a hash of both sides


class DerivedAudit:
    """Compares the days whose partitions it is shown, and keeps what differs; ``repair``: writes what is wrong."""

    def __init__(self, session: Session, *, repair: bool = False, grace_s: float = GRACE_S) -> None:
        self._session, self._grace_s = session, grace_s
        self._store = CassandraRepository(session) if repair else None
        self._queries = {table.name: self._prepare(table, "symbol = ? AND trade_date = ?")
                         for table in (*BY_SYMBOL, *BY_DAY)}  # fmt: skip
        self._top = self._prepare(UNUSUAL_TOP, "trade_date = ? AND ranking = ?")
        self._of_day = {table.name: self._prepare(table, "trade_date = ?") for table in BY_DAY}
        self._trades: DayTrades | None = None
        self._seen: set[Day] = set()
        self._skipped: set[Day] = set()
        self._known: Known = {}
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

    def see(self, read: PartitionRange, rows: Iterable[Any]) -> None:
        """The rows of a partition (with COLUMNS); all partitions of a symbol's day in a row."""
        day = read[:2]
        if self._trades is None or day != self._trades.day:
            self.close()
            self._trades = DayTrades(day)
        _add_rows(self._trades, read[2], rows)

    def close(self) -> None:
        """Compare the day whose partitions were seen last."""
        if self._trades is not None:
            trades, self._trades = self._trades, None
            self._seen.add(trades.day)
            self._note(trades.day, self._differences(trades, count=True))

    def skip(self, day: Day) -> None:
        """A day that has trades but isn't to be compared: Cassandra may have let some of them go."""
        self._skipped.add(day)

    def settle(self, passed: Callable[[], bool], deadline: float) -> int:
        """Look at what differs again, once or until ``deadline``; returns how many rows are still being written.

        ``passed`` waits until the stream has stored what is on the topic by now, and says whether it has. What is
        wrong is counted in ``wrong`` afterwards.
        """
        self.close()
        self._look_at_days()
        while self._known and passed():
            before, self._known = self._known, {}
            days = sorted(place for place in before if not isinstance(place, str))
            repaired = {day[1] for day in days if self._look_again(day, before[day])}
            # The ranks of a day follow from its rows, so where these were repaired, the ranks are too.
            for date in sorted({place for place in before if isinstance(place, str)} | repaired):
                self._look_again(date, before.get(date, {}), at_once=date in repaired)
            if time.monotonic() >= deadline:
                break
        if self.repaired:
            announce_repair(self._session)
        return sum(len(found) for found in self._known.values())

    def _look_again(
        self, place: Day | str, before: dict[tuple[str, Key], int], *, at_once: bool = False
    ) -> bool:
        """Tell what is wrong from what is being written; ``at_once``: it is all wrong. Returns whether it repaired."""
        began = time.time() - self._grace_s
        found = list(self._ranks(place) if isinstance(place, str) else self._differences(self._read(place)))
        if at_once:
            wrong = found
        else:
            found = [one for one in found if one.place in before]
            wrong = [one for one in found if before[one.place] == _hash_sides(one)]
            self._note(place, (one for one in found if before[one.place] != _hash_sides(one)))
        for one in wrong:
            name = one.place[0]
            self.wrong[name] += 1
            if len(self.named[name]) < NAMED:
                self.named[name].append(str(one))
        if self._store is None or not wrong:
            return False
        self._store.write([one.repair() for one in wrong], round(began * 1e6))
        self.repaired += len(wrong)
        return True

    def _read(self, day: Day) -> DayTrades:
        trades = DayTrades(day)
        reads: list[PartitionRange] = [(*day, slot, *ALWAYS) for slot in range(SLOTS)]
        for read, rows in zip(reads, read_partitions(self._session, reads, COLUMNS), strict=True):
            _add_rows(trades, read[2], rows)
        return trades

    def _note(self, place: Day | str, found: Iterable[DerivedRowDifference]) -> None:
        sides = {one.place: _hash_sides(one) for one in found}
        if sides:
            self._known[place] = sides

    # One symbol's day

    def _differences(self, trades: DayTrades, *, count: bool = False) -> Iterator[DerivedRowDifference]:
        expected = trades.tables()
        values = (trades.day[0], cassandra_date(trades.day[1]))
        asked = [
            (table, query, self._session.execute_async(query, values))
            for table, query in ((table, self._queries[table.name]) for table in (*BY_SYMBOL, *BY_DAY))
        ]
        for table, query, future in asked:
            rows = (read_row(table, row) for row in await_rows(self._session, query, values, future))
            stands = {table.key_of(row): row for row in rows}
            if count:
                self.compared[table.name] += len(stands.keys() | expected.rows[table].keys())
            yield from row_differences(table, expected.rows[table], stands)
        for place in expected.marks.keys() | trades.marked.keys():
            sides = expected.marks.get(place), trades.marked.get(place)
            if sides[0] != sides[1]:
                yield DerivedRowDifference(None, place, *sides)

    # All symbols of a day

    def _look_at_days(self) -> None:
        """The ranks of each day that was seen, and the symbols that have rows on it but no trade."""
        dates = {date for _, date in self._seen}
        strays = {
            (row.symbol, str(row.trade_date))
            for table in BY_SYMBOL
            for row in self._session.execute(
                f"SELECT DISTINCT symbol, trade_date FROM {KEYSPACE}.{table.name}"
            )
        }
        for date in sorted(dates):
            self._note(date, self._ranks(date, count=True))
            for table in BY_DAY:
                strays |= {(row[table.names.index("symbol")], date) for row in self._rows_of_day(table, date)}
        for day in sorted(strays - self._seen - self._skipped):
            if day[1] in dates:
                self._note(day, self._differences(DayTrades(day), count=True))

    def _ranks(self, date: str, *, count: bool = False) -> Iterator[DerivedRowDifference]:
        stands: dict[Key, Row] = {}
        for ranking in RANKINGS:
            values = (cassandra_date(date), ranking)
            future = self._session.execute_async(self._top, values)
            for row in await_rows(self._session, self._top, values, future):
                found = read_row(UNUSUAL_TOP, row)
                stands[UNUSUAL_TOP.key_of(found)] = found
        rows = ((UNUSUAL_TRADE, row) for row in self._rows_of_day(UNUSUAL_TRADE, date))
        expected = {
            UNUSUAL_TOP.key_of(row): row for row in rank_rows(rows) if (row[3], date) not in self._skipped
        }
        if self._skipped:
            stands = {key: row for key, row in stands.items() if (row[3], date) not in self._skipped}
        if count:
            self.compared[UNUSUAL_TOP.name] += len(stands.keys() | expected.keys())
        return row_differences(UNUSUAL_TOP, expected, stands)

    def _rows_of_day(self, table: Table, date: str) -> list[Row]:
        query, values = self._of_day[table.name], (cassandra_date(date),)
        future = self._session.execute_async(query, values)
        return [read_row(table, row) for row in await_rows(self._session, query, values, future)]


def row_differences(
    table: Table, expected: dict[Key, Row], stands: dict[Key, Row]
) -> Iterator[DerivedRowDifference]:
    """The rows of a table that aren't as expected. Pure.

    An empty window may stand or not. Of ``cancel`` two columns aren't compared: ``match`` only says where to look, and
    ``condition`` is null in rows of an earlier release.
    """
    for key in expected.keys() | stands.keys():
        sides = expected.get(key), stands.get(key)
        if _comparable_row(table, sides[0]) != _comparable_row(table, sides[1]):
            yield DerivedRowDifference(table, key, *sides)


def _comparable_row(table: Table, row: Row | None) -> Row | None:
    if row is None:
        return None
    if table is FLOW_WINDOW:
        empty = window_row(WindowKey(row[0], row[1], 0, row[2]), NOTHING)
        return None if row == empty else row
    return (*row[:MATCH], *row[MATCH + 1 : CONDITION]) if table is CANCEL else row


def _hash_sides(one: DerivedRowDifference) -> int:
    return hash((one.expected, one.stands))


def _add_rows(trades: DayTrades, slot: int, rows: Iterable[Any]) -> None:
    """The stored rows of a partition; one that isn't whole was not written by the stream."""
    for row in rows:
        if row.canceled is None or row.side is None or row.size is None:
            continue
        canceled, ts = row.canceled, to_milliseconds(row.ts)
        alike = MatchColumns(
            row.root, str(row.expiration), row.strike, row.option_type, row.exchange, row.size, row.price,
            row.canceled_condition if canceled else row.condition,
        )  # fmt: skip
        flow = None if canceled else flow_of(ts, row.option_type, row.side, row.size, row.price, row.delta)
        by = None if row.canceled_by is None else bytes(row.canceled_by)
        scores = None if row.scores is None else dict(row.scores)
        trades.add(
            ExpectedTrade(
                bytes(row.trade_id), ts, slot, row.sequence, alike, canceled, flow, row.premium, row.side, row.iv,
                row.delta, by, scores, row.condition,
            )
        )  # fmt: skip


def _format_value(kind: str, value: Any) -> str:
    if isinstance(value, bytes):
        return value.hex()
    if kind == "timestamp":
        return f"{datetime.fromtimestamp(value / 1000, UTC):%H:%M:%S}Z"
    return str(value)


def announce_repair(session: Session) -> None:
    """Say that derived tables were repaired: the driver forgets what it holds in memory before its next batch."""
    session.execute(
        f"UPDATE {KEYSPACE}.stream_driver SET repair_version = %s WHERE name = '{VERSIONS}'",
        (time.time_ns() // 1000,),
    )
