"""What follows from the trades, on a real Cassandra: the same tables as in memory, whatever is repeated."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from datetime import UTC, date
from typing import TYPE_CHECKING, Any

import pytest

from kintsugi.errors import Refused
from kintsugi.settings import KEYSPACE
from kintsugi.trades import schema, window_audit
from kintsugi.trades.cassandra import connected
from kintsugi.trades.derived import Derived
from kintsugi.trades.derived_memory import MemoryStore
from kintsugi.trades.derived_store import CassandraStore
from kintsugi.trades.derived_types import Changes
from kintsugi.trades.rows import Trade, is_cancel
from kintsugi.trades.schema import TRADE_COLUMNS
from kintsugi.trades.sink import Writer, by_partition, cassandra_date
from kintsugi.trades.stored import ALWAYS, Read, partitions, read_partitions
from kintsugi.trades.window_audit import WindowAudit
from tests.integration import servers
from tests.unit.trades.test_derived import Stream, at, cancel_of, table

if TYPE_CHECKING:
    from cassandra.cluster import Session

ADDRESS = "127.31.94.3"
DAY = "2018-01-08"


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    folder = tmp_path_factory.mktemp("derived")
    started = servers.cassandra(folder / "cassandra", ADDRESS)
    try:
        schema.ensure_tables([ADDRESS], replication=1)
        with connected([ADDRESS]) as session:
            yield session
    finally:
        servers.stop_all([started])
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(autouse=True)
def empty(session: Session) -> None:
    for name in schema.TABLES:
        session.execute(f"TRUNCATE {name}")


def stored_row(one: Trade) -> tuple[Any, ...]:
    values = {name: getattr(one, name, None) for name, _ in TRADE_COLUMNS} | {
        "trade_id": bytes.fromhex(one.trade_id), "trade_date": cassandra_date(one.trade_date),
        "expiration": cassandra_date(one.expiration), "side": "buy", "canceled": is_cancel(one),
        "premium": one.size * one.price * 100,
    }  # fmt: skip
    return tuple(values[name] for name, _ in TRADE_COLUMNS)


class Pair:
    """The same batches for Cassandra and for the tables in memory."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.writer = Writer(session)
        self.memory = Stream(MemoryStore())
        self.derived = Derived(CassandraStore(session))

    def feed(self, *trades: Trade, scores: dict[str, float] | None = None) -> None:
        rows = [stored_row(one) for one in trades]
        self.writer.write(self.writer.trade, by_partition(rows, 3), retry_for=10)
        self.derived.apply(table(*trades, scores=scores))
        self.memory.feed(*trades, scores=scores)

    def restart(self) -> None:
        self.derived = Derived(CassandraStore(self.session))

    def check(self) -> None:
        """Every table says what the one in memory says."""
        store = self.memory.store
        windows = {
            (row.symbol, str(row.trade_date), row.window_start): (*row[3:-1], row.signal or None)
            for row in self.session.execute(
                f"SELECT {', '.join(name for name, _ in schema.WINDOW_COLUMNS)} FROM flow_window"
            )
        }
        assert sorted(windows.values()) == sorted(tuple(found) for found in store.windows_written.values())
        alerts = {(row.symbol, row.window_start) for row in self.session.execute("SELECT * FROM flow_alert")}
        assert alerts == {(key[0], key[2]) for key, row in windows.items() if row[-1]}
        marks = {
            bytes(row.trade_id): bytes(row.canceled_by)
            for row in self.session.execute("SELECT trade_id, canceled_by FROM trade")
            if row.canceled_by
        }
        assert marks == store.marks
        cancels = {
            bytes(row.cancel_id): row.trade_id and bytes(row.trade_id)
            for row in self.session.execute("SELECT cancel_id, trade_id FROM cancel")
        }
        assert cancels == {key[1]: cancel.trade_id for key, cancel in store.cancels.items()}
        for name, expected in (
            ("unusual_trade", store.unusual),
            ("unusual_canceled", store.unusual_canceled),
        ):
            found = {
                (bytes(row.trade_id), row.signal): row
                for row in self.session.execute(f"SELECT * FROM {name}")
            }
            assert found.keys() == expected.keys()
            assert all(found[key].score == row[5] for key, row in expected.items())
        tops = {(bytes(r.trade_id), r.ranking) for r in self.session.execute("SELECT * FROM unusual_top")}
        assert tops == {(key, ranking) for key, signal in store.unusual for ranking in ("premium", signal)}


def test_batches_repeats_cancels_and_restarts_make_the_tables_that_memory_makes(session: Session) -> None:
    pair = Pair(session)
    day = [at(n / 5, n, size=1 + n % 3) for n in range(150)]
    scores = {one.trade_id: float(n) for n, one in enumerate(day) if not n % 10}
    rows = [
        *day,
        *(cancel_of(one, one.sequence / 5 + 3, 900 + n if n % 2 else None) for n, one in enumerate(day[::7])),
    ]
    rows = rows[80:] + rows[:80]  # many a cancel comes before its trade, many a trade late
    for start in range(0, len(rows), 30):
        pair.feed(*rows[max(0, start - 10) : start + 30], scores=scores)
        if start == 60:
            pair.restart()
    pair.feed(*rows[:40], scores=scores)
    pair.check()
    assert pair.memory.store.unusual_canceled
    ranked = session.execute(
        "SELECT value FROM unusual_top WHERE trade_date = %s AND ranking = 'high_volume'",
        (date.fromisoformat(DAY),),
    ).all()
    values = [row.value for row in ranked]
    assert values == sorted(values, reverse=True)
    assert len(values) > 3


def audited(session: Session, passed: Callable[[], bool] = lambda: True) -> tuple[WindowAudit, int]:
    """The audit of everything that is stored, and how many windows it found being written."""
    audit = WindowAudit(session)
    places: list[Read] = [(*place, *ALWAYS) for place in sorted(partitions(session))]
    for place, rows in zip(places, read_partitions(session, places, window_audit.COLUMNS), strict=True):
        audit.see(place, rows)
    return audit, audit.settle(passed, deadline=time.monotonic())


def test_windows_are_the_sums_of_the_trades_that_count(session: Session) -> None:
    pair = Pair(session)
    day = [at(n * 7, n, size=1 + n % 3) for n in range(150)]
    rows = [*day, *(cancel_of(one, one.sequence * 7 + 3) for one in day[::7])]
    for start in range(0, len(rows), 30):
        pair.feed(*rows[max(0, start - 10) : start + 30])
    audit, moving = audited(session)
    assert (audit.wrong, moving) == ([], 0)
    assert audit.compared == len(pair.memory.store.windows_written) > 10


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE flow_window SET trades = 99 WHERE {window}",
        "UPDATE flow_window SET call_delta = 0.5 WHERE {window}",
        "UPDATE flow_window SET signal = 'imbalance' WHERE {window}",
        "DELETE FROM flow_window WHERE {window}",
        "DELETE FROM trade WHERE {trade}",
        "UPDATE trade SET size = 7 WHERE {trade}",
        "UPDATE trade SET canceled_by = 0x01 WHERE {trade}",
    ],
)
def test_a_window_that_is_not_what_its_trades_sum_to_is_named(session: Session, change: str) -> None:
    pair = Pair(session)
    pair.feed(*[at(n * 20, n) for n in range(12)])
    trade = session.execute("SELECT * FROM trade").all()[5]
    start = trade.ts.replace(second=0, microsecond=0)
    window = f"symbol = '{trade.symbol}' AND trade_date = '{DAY}' AND window_start = {{start}}"
    stamp = round(start.replace(tzinfo=UTC).timestamp() * 1000)
    key = f"ts = {round(trade.ts.replace(tzinfo=UTC).timestamp() * 1000)} AND trade_id = 0x{trade.trade_id.hex()}"
    session.execute(
        change.format(
            window=window.format(start=stamp),
            trade=f"symbol = '{trade.symbol}' AND trade_date = '{DAY}' AND slot = {trade.slot} AND {key}",
        )
    )
    audit, moving = audited(session)
    assert ([window_audit.name(window) for window in audit.wrong], moving) == (
        [f"{trade.symbol} {DAY} {start:%H:%M}Z"],
        0,
    )


def test_a_window_without_any_trade_is_named(session: Session) -> None:
    pair = Pair(session)
    pair.feed(*[at(n, n) for n in range(3)])
    session.execute(
        f"UPDATE flow_window SET trades = 1 WHERE symbol = 'AAPL' AND trade_date = '{DAY}' AND window_start = 60000"
    )
    audit, _ = audited(session)
    assert [window_audit.name(window) for window in audit.wrong] == [f"AAPL {DAY} 00:01Z"]


def test_what_is_still_being_written_is_not_wrong(session: Session) -> None:
    pair = Pair(session)
    pair.feed(*[at(n, n) for n in range(10)])
    late = [at(n / 10, 100 + n) for n in range(10)]
    pair.writer.write(pair.writer.trade, by_partition([stored_row(one) for one in late], 3), retry_for=10)
    stuck, moving = audited(session, lambda: False)
    assert (stuck.wrong, moving) == ([], 1), "the stream hasn't passed them yet"

    def windows_come() -> bool:
        pair.derived.apply(table(*late))
        return True

    audit, moving = audited(session, windows_come)
    assert (audit.wrong, moving) == ([], 0)

    def more_trades_come() -> bool:
        more = [stored_row(at(n / 10, 200 + n)) for n in range(3)]
        pair.writer.write(pair.writer.trade, by_partition(more, 3), retry_for=10)
        return True

    pair.writer.write(pair.writer.trade, by_partition([stored_row(at(0.05, 300))], 3), retry_for=10)
    audit, moving = audited(session, more_trades_come)
    assert (audit.wrong, moving) == ([], 1), "it changed between the two looks"


def test_tables_that_were_emptied_come_back_when_the_trades_do(session: Session) -> None:
    pair = Pair(session)
    day = [at(n / 5, n) for n in range(40)]
    pair.feed(*day, cancel_of(day[3], 9), scores={day[5].trade_id: 7.0})
    for name in schema.TABLES:
        session.execute(f"TRUNCATE {name}")
    pair.restart()
    pair.feed(*day, cancel_of(day[3], 9), scores={day[5].trade_id: 7.0})
    pair.check()


def test_an_older_driver_is_refused_and_its_values_lose(session: Session) -> None:
    store = CassandraStore(session)
    pair = Pair(session)
    pair.feed(*[at(n / 5, n) for n in range(10)])
    known = pair.memory.store.windows_written
    stale = Changes(windows={key: found._replace(trades=-1) for key, found in known.items()})
    store.write(stale, timestamp=1_000)
    pair.check()
    with pytest.raises(Refused, match="taken over"):
        Derived(store, epoch=1).apply(table(at(0, 99)))


def test_a_table_of_an_earlier_release_gets_its_columns(session: Session) -> None:
    session.execute("ALTER TABLE trade DROP canceled_by")
    schema.ensure_tables([ADDRESS], replication=1)
    assert session.execute("SELECT canceled_by FROM trade").all() == []


def test_a_table_of_an_earlier_release_is_compacted_as_now(session: Session) -> None:
    def compaction() -> dict[str, str]:
        found = session.execute(
            "SELECT compaction FROM system_schema.tables WHERE keyspace_name = %s AND table_name = 'trade'",
            (KEYSPACE,),
        ).one()
        return {name: found.compaction.get(name, "default") for name in ("min_threshold", "min_sstable_size")}

    made = compaction()
    assert made == {"min_threshold": "8", "min_sstable_size": "1048576"}
    session.execute("ALTER TABLE trade WITH compaction = {'class': 'TimeWindowCompactionStrategy'}")
    assert compaction() != made
    schema.ensure_tables([ADDRESS], replication=1)
    assert compaction() == made


def test_rows_are_written_at_local_quorum(session: Session) -> None:
    """The replaced pipeline wrote its batches at ANY, where a hint is enough."""
    from cassandra import ConsistencyLevel
    from cassandra.cluster import EXEC_PROFILE_DEFAULT

    profile = session.cluster.profile_manager.profiles[EXEC_PROFILE_DEFAULT]
    assert profile.consistency_level == ConsistencyLevel.LOCAL_QUORUM
    sent: list[Any] = []

    class Recorder:
        """Says what is sent, and sends it."""

        def __getattr__(self, name: str) -> Any:
            return getattr(session, name)

        def execute_async(self, statement: Any, *values: Any) -> Any:
            sent.append(statement)
            return session.execute_async(statement, *values)

    recorder: Any = Recorder()
    writer = Writer(recorder)
    rows = [stored_row(at(n, n)) for n in range(3)]
    writer.write(writer.trade, by_partition(rows, 3), retry_for=10)
    Derived(CassandraStore(recorder)).apply(table(*(at(n, n) for n in range(3))))
    assert sent
    assert {statement.consistency_level for statement in sent} == {None}  # the profile's
