"""Compare two trading days in Cassandra, table by table and column by column.

The second day is the first one again, some days later: the same lines with every date moved. So the pipeline must have
stored the same, with dates and identities (digests over dates) mapped back.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, Any

from kintsugi.core.settings import KEYSPACE

if TYPE_CHECKING:
    from cassandra.cluster import Session

# What may differ, each with its reason: whole tables, and columns of a table.
EXCEPTED_TABLES = {
    "late_trades": "keyed by Kafka's offsets; and a kill changes the batches, so which trades count as late",
}
# An empty table is always the same: a comparison without rows in these says nothing.
TELLING = ("cancel", "flow_alert", "flow_window", "trade", "unusual_top", "unusual_trade")
EXCEPTED: dict[tuple[str, str], str] = {
    ("cancel", "match"): "a digest over the expiration too, which is moved; trade_id tells what was matched",
}

Row = dict[str, Any]
Key = tuple[Any, ...]


@dataclass(slots=True)
class TableDifference:
    """Of one table: ``rows`` on the first day, keys that only one day has, and differing values by column."""

    rows: int = 0
    only_first: list[str] = field(default_factory=list)
    only_second: list[str] = field(default_factory=list)
    columns: Counter[str] = field(default_factory=Counter)

    @property
    def same(self) -> bool:
        return not (self.only_first or self.only_second or self.columns)


def move_trade_line(line: str, days: int) -> str:
    """A line of a trade file with its time and its expiration moved by whole days."""
    return _move_dates(line, days, columns=(1, 4))


def move_eod_line(line: str, days: int) -> str:
    """A line of an end-of-day file with its day and its expiration moved by whole days."""
    return _move_dates(line, days, columns=(1, 3))


def _move_dates(line: str, days: int, columns: tuple[int, ...]) -> str:
    """A line with the dates moved that begin these columns."""
    fields = line.split(",", max(columns) + 1)
    for column in columns:
        text = fields[column]
        fields[column] = f"{date.fromisoformat(text[:10]) + timedelta(days)}{text[10:]}"
    return ",".join(fields)


def compare_rows(table: str, first: Mapping[Key, Row], second: Mapping[Key, Row]) -> TableDifference:
    """Compare the rows of two days of ``table``, by key; columns in ``EXCEPTED`` may differ."""
    found = TableDifference(rows=len(first))
    found.only_first = sorted(str(key) for key in first.keys() - second.keys())
    found.only_second = sorted(str(key) for key in second.keys() - first.keys())
    for key in first.keys() & second.keys():
        for name, value in first[key].items():
            if value != second[key].get(name) and (table, name) not in EXCEPTED:
                found.columns[name] += 1
    return found


def move_row_back(row: Row, days: int, identities: Mapping[bytes, bytes]) -> Row:
    """A row of the second day as it would stand on the first: dates and times moved, identities mapped."""
    return {name: _move_value_back(value, days, identities) for name, value in row.items()}


def _move_value_back(value: Any, days: int, identities: Mapping[bytes, bytes]) -> Any:
    if isinstance(value, bytes):
        return identities.get(value, value)
    if isinstance(value, date | datetime):
        return value - timedelta(days)
    return value


def tables_of_days(session: Session) -> dict[str, list[str]]:
    """Tables of the keyspace with a ``trade_date`` → their primary key's columns; without ``EXCEPTED_TABLES``."""
    found: dict[str, list[str]] = {}
    columns = session.execute(
        "SELECT table_name, column_name, kind, position FROM system_schema.columns WHERE keyspace_name = %s",
        (KEYSPACE,),
    )
    keys: dict[str, list[tuple[str, int, str]]] = {}
    dated = set()
    for column in columns:
        if column.column_name == "trade_date":
            dated.add(column.table_name)
        if column.kind in {"partition_key", "clustering"}:
            order = (column.kind != "partition_key", column.position, column.column_name)
            keys.setdefault(column.table_name, []).append((str(order[0]), order[1], order[2]))
    for table in sorted(dated - EXCEPTED_TABLES.keys()):
        found[table] = [name for _, _, name in sorted(keys[table])]
    return found


def rows_of_day(session: Session, table: str, key: list[str], day: date) -> Iterator[tuple[Key, Row]]:
    """(primary key, row) of every row of a table on one trading day, at LOCAL_QUORUM."""
    for row in _select_day(session, table, day):
        plain = {name: _to_plain(value) for name, value in row._asdict().items()}
        yield tuple(plain[name] for name in key), plain


def key_rows(
    rows: Iterable[tuple[Key, Row]], key: list[str], days: int, identities: Mapping[bytes, bytes]
) -> dict[Key, Row]:
    """Rows of the second day by the key that they would have on the first."""
    found = {}
    for _, row in rows:
        moved_back = move_row_back(row, days, identities)
        found[tuple(moved_back[name] for name in key)] = moved_back
    return found


def _select_day(session: Session, table: str, day: date) -> Iterator[Any]:
    from cassandra.query import SimpleStatement

    statement = f"SELECT * FROM {KEYSPACE}.{table} WHERE trade_date = %s ALLOW FILTERING"
    # Not idempotent: see benchmarks.throughput.stored.
    yield from session.execute(
        SimpleStatement(statement, fetch_size=1000, is_idempotent=False), (day,), timeout=60
    )


def _to_plain(value: Any) -> Any:
    """The driver's own types as Python's."""
    inner = getattr(value, "date", None)
    if inner is not None and not isinstance(value, datetime):
        return inner()
    return value
