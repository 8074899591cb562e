"""The same batches for Cassandra and for the tables in memory, and the audit of what is stored."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from kintsugi.pipeline.reconcile import derived_tables_audit
from kintsugi.pipeline.reconcile.derived_tables_audit import DerivedAudit
from kintsugi.pipeline.row_parser import Trade, is_cancel
from kintsugi.pipeline.schema import TRADE_COLUMNS
from kintsugi.pipeline.stream.cassandra_repository import CassandraRepository, read_row
from kintsugi.pipeline.stream.cassandra_sink import Writer, group_by_partition
from kintsugi.pipeline.stream.cql_values import cassandra_date
from kintsugi.pipeline.stream.derived_table_keys import (
    DERIVED_TABLES,
    LATE_TRADES,
)
from kintsugi.pipeline.stream.derived_tables import DerivedTables
from kintsugi.pipeline.stream.in_memory_repository import InMemoryRepository
from kintsugi.pipeline.stream.stored_trades import (
    ALWAYS,
    PartitionRange,
    list_partitions,
    read_partitions,
)
from tests.unit.pipeline.stream.test_derived_tables import STAMPS, Stream, at, cancel_of, table

if TYPE_CHECKING:
    from cassandra.cluster import Session


def stored_row(one: Trade, side: str = "buy") -> tuple[Any, ...]:
    values = {name: getattr(one, name, None) for name, _ in TRADE_COLUMNS} | {
        "trade_id": bytes.fromhex(one.trade_id), "trade_date": cassandra_date(one.trade_date),
        "expiration": cassandra_date(one.expiration), "side": side, "canceled": is_cancel(one),
        "premium": one.size * one.price * 100,
    }  # fmt: skip
    return tuple(values[name] for name, _ in TRADE_COLUMNS)


def store(writer: Writer, *trades: Trade, stamp: int | None = None) -> int:
    """What the executors do: write trades, the first one as version ``stamp``; returns that."""
    first = next(STAMPS) if stamp is None else stamp
    rows = [(*stored_row(one), first + number) for number, one in enumerate(trades)]
    writer.write(writer.versioned_trade, group_by_partition(rows, 3), retry_for=10)
    return first


class Pair:
    """The same batches for Cassandra and for the tables in memory."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.writer = Writer(session)
        self.memory = Stream(InMemoryRepository())
        self.derived = DerivedTables(CassandraRepository(session))

    def feed(self, *trades: Trade, scores: dict[str, float] | None = None, stamp: int | None = None) -> None:
        stamp = store(self.writer, *trades, stamp=stamp)
        self.derived.apply(table(*trades, scores=scores, stamp=stamp))
        self.memory.feed(*trades, scores=scores, stamp=stamp)

    def restart(self) -> None:
        self.derived = DerivedTables(CassandraRepository(self.session))

    def check(self) -> None:
        """Every table says what the one in memory says, in every column."""
        for table_ in DERIVED_TABLES:
            if table_ is LATE_TRADES:
                continue
            select = f"SELECT {', '.join(table_.names)} FROM {table_.name}"
            found = {
                table_.key_of(row): row for row in (read_row(table_, r) for r in self.session.execute(select))
            }
            assert found == {table_.key_of(row): row for row in self.memory.store.rows(table_)}, table_.name
        trades = self.session.execute("SELECT trade_id, canceled_by, scores FROM trade").all()
        marks = {bytes(row.trade_id): bytes(row.canceled_by) for row in trades if row.canceled_by}
        assert marks == self.memory.store.marks
        scores = {bytes(row.trade_id): dict(row.scores) for row in trades if row.scores}
        assert scores == self.memory.store.scores


def audited(
    session: Session, passed: Callable[[], bool] = lambda: True, *, repair: bool = False
) -> tuple[DerivedAudit, int]:
    """The audit of everything that is stored, and how many rows it found being written."""
    audit = DerivedAudit(session, repair=repair, grace_s=0.0)
    places: list[PartitionRange] = [(*place, *ALWAYS) for place in sorted(list_partitions(session))]
    for place, rows in zip(
        places, read_partitions(session, places, derived_tables_audit.COLUMNS), strict=True
    ):
        audit.see(place, rows)
    return audit, audit.settle(passed, deadline=time.monotonic())


def filled(session: Session) -> Pair:
    """Tables with something of everything: windows, alerts, cancels with and without a trade, unusual trades."""
    pair = Pair(session)
    day = [at(n * 7, n, size=1 + n % 3) for n in range(60)] + [at(0.1, 100 + n, size=4) for n in range(25)]
    rows = [
        *day,
        *(cancel_of(one, one.sequence * 7 + 3) for one in day[:60:7]),
        cancel_of(at(0, 5, size=77), 1),
    ]
    scores = {one.trade_id: float(n) for n, one in enumerate(day) if n % 5 == 2 or n == 14}
    for start in range(0, len(rows), 30):
        pair.feed(*rows[max(0, start - 10) : start + 30], scores=scores)
    return pair
