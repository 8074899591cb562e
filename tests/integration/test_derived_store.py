"""What follows from the trades, on a real Cassandra: the same tables as in memory, whatever is repeated."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import date
from typing import TYPE_CHECKING, Any

import pytest

from kintsugi.core.errors import GuardRefused
from kintsugi.core.settings import KEYSPACE
from kintsugi.pipeline import schema, score_backfill
from kintsugi.pipeline.cassandra_session import session_scope
from kintsugi.pipeline.stream.baselines import BUCKET_INDEXES, STATISTICS, BaselineCache, announce_baseline
from kintsugi.pipeline.stream.cassandra_repository import CassandraRepository
from kintsugi.pipeline.stream.cassandra_sink import Writer
from kintsugi.pipeline.stream.cql_values import cassandra_date
from kintsugi.pipeline.stream.derived_table_keys import (
    DERIVED_TABLES,
    FLOW_WINDOW,
    LATE_TRADES,
    Put,
    window_row,
)
from kintsugi.pipeline.stream.derived_tables import DerivedTables
from kintsugi.pipeline.stream.stored_trades import (
    to_milliseconds,
)
from tests.integration import servers
from tests.unit.pipeline.stream.test_derived_tables import STAMPS, at, cancel_of, table

if TYPE_CHECKING:
    from cassandra.cluster import Session
from tests.integration.derived_pair import Pair, audited, filled, store

ADDRESS = "127.31.94.3"
DAY = "2018-01-08"


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    folder = tmp_path_factory.mktemp("derived")
    started = servers.cassandra(folder / "cassandra", ADDRESS)
    try:
        schema.ensure_tables([ADDRESS], replication=1)
        with session_scope([ADDRESS]) as session:
            yield session
    finally:
        servers.stop_all([started])
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(autouse=True)
def empty(session: Session) -> None:
    for name in schema.TABLES:
        session.execute(f"TRUNCATE {name}", timeout=60)


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


def test_all_tables_are_what_follows_from_the_stored_trades(session: Session) -> None:
    pair = filled(session)
    audit, moving = audited(session)
    assert (audit.named, moving) == ({}, 0)
    counts = {table_.name: len(pair.memory.store.rows(table_)) for table_ in DERIVED_TABLES}
    assert all(counts[table_.name] for table_ in DERIVED_TABLES if table_ is not LATE_TRADES)
    assert audit.compared == {name: count for name, count in counts.items() if name != LATE_TRADES.name}


ROW = "trade_date = '{day}' AND symbol = 'AAPL' AND ts = {ts} AND trade_id = {trade_id} AND signal = 'high_volume'"
WINDOW = "symbol = 'AAPL' AND trade_date = '{day}' AND window_start = {window_start}"
TRADE = "symbol = 'AAPL' AND trade_date = '{day}' AND slot = {slot} AND ts = {ts} AND trade_id = {trade_id}"


@pytest.mark.parametrize(
    ("table_", "change"),
    [
        ("flow_window", "UPDATE flow_window SET trades = 99 WHERE " + WINDOW),
        ("flow_window", "UPDATE flow_window SET call_delta = 0.5 WHERE " + WINDOW),
        ("flow_window", "DELETE FROM flow_window WHERE " + WINDOW),
        ("flow_window", "INSERT INTO flow_window (symbol, trade_date, window_start, trades) "
                        "VALUES ('NONE', '{day}', 60000, 1)"),
        ("flow_alert", "DELETE FROM flow_alert WHERE " + WINDOW),
        ("flow_alert", "UPDATE flow_alert SET signal = 'imbalance' WHERE trade_date = '{day}' AND symbol = 'NONE' "
                       "AND window_start = 60000"),
        ("cancel", "UPDATE cancel SET trade_id = 0x01 WHERE symbol = 'AAPL' AND trade_date = '{day}' "
                   "AND cancel_id = {cancel_id}"),
        ("cancel", "DELETE FROM cancel WHERE symbol = 'AAPL' AND trade_date = '{day}' AND cancel_id = {cancel_id}"),
        ("trade", "UPDATE trade SET canceled_by = 0x01 WHERE " + TRADE),
        ("unusual_trade", "UPDATE unusual_trade SET score = 99 WHERE " + ROW),
        ("unusual_trade", "DELETE FROM unusual_trade WHERE " + ROW),
        ("unusual_canceled", "INSERT INTO unusual_canceled (trade_date, symbol, ts, trade_id, signal, score) "
                             "VALUES ('{day}', 'AAPL', {ts}, {trade_id}, 'iv_jump', 1)"),
        ("unusual_top", "DELETE FROM unusual_top WHERE trade_date = '{day}' AND ranking = 'high_volume' "
                        "AND value = {score}"),
        ("unusual_top", "INSERT INTO unusual_top (trade_date, ranking, value, symbol, ts, trade_id, signal) "
                        "VALUES ('{day}', 'premium', 1e9, 'AAPL', {ts}, {trade_id}, 'high_volume')"),
    ],
)  # fmt: skip
def test_a_row_that_does_not_follow_from_the_trades_is_named_and_repaired(
    session: Session, table_: str, change: str
) -> None:
    pair = filled(session)
    row = session.execute("SELECT * FROM unusual_trade").all()[0]
    (slot,) = {
        trade.slot
        for trade in session.execute("SELECT trade_id, slot FROM trade")
        if trade.trade_id == row.trade_id
    }
    window = (
        row.ts
        if "flow_alert" not in change
        else session.execute("SELECT * FROM flow_alert").one().window_start
    )
    values = {
        "day": DAY, "ts": to_milliseconds(row.ts), "trade_id": f"0x{row.trade_id.hex()}", "slot": slot,
        "window_start": to_milliseconds(window.replace(second=0, microsecond=0)), "score": row.score,
        "cancel_id": f"0x{session.execute('SELECT cancel_id FROM cancel').one().cancel_id.hex()}",
    }  # fmt: skip
    session.execute(change.format(**values))
    audit, moving = audited(session)
    assert (set(audit.wrong), moving, audit.repaired) == ({table_} | ranked(table_), 0, 0)
    assert all(names[0].startswith(name) for name, names in audit.named.items())
    audit, moving = audited(session, repair=True)
    assert (moving, audit.repaired) == (0, sum(audit.wrong.values()))
    pair.check()
    assert audited(session)[0].named == {}


def ranked(table_: str) -> set[str]:
    """What is wrong in the ranks when unusual trades are: they are compared with them."""
    return {"unusual_top"} if table_ == "unusual_trade" else set()


def test_a_driver_forgets_what_it_held_when_tables_were_repaired(session: Session) -> None:
    pair = filled(session)
    one = at(0.2, 500)
    pair.feed(one, scores={one.trade_id: 5.0})
    session.execute("TRUNCATE unusual_trade", timeout=60)
    session.execute("TRUNCATE unusual_top", timeout=60)
    audit, _ = audited(session, repair=True)
    assert audit.repaired > 3
    pair.feed(one, scores={one.trade_id: 6.0})
    pair.check()


def test_a_window_that_lost_a_trade_is_named(session: Session) -> None:
    pair = Pair(session)
    pair.feed(*[at(n * 20, n) for n in range(12)])
    trade = session.execute("SELECT * FROM trade").all()[5]
    key = f"ts = {to_milliseconds(trade.ts)} AND trade_id = 0x{trade.trade_id.hex()}"
    session.execute(
        f"DELETE FROM trade WHERE symbol = 'AAPL' AND trade_date = '{DAY}' AND slot = {trade.slot} AND {key}"
    )
    audit, moving = audited(session)
    start = trade.ts.replace(second=0, microsecond=0)
    assert (audit.named, moving) == ({"flow_window": [f"flow_window AAPL {DAY} {start:%H:%M:%S}Z"]}, 0)


def test_what_is_still_being_written_is_not_wrong(session: Session) -> None:
    pair = Pair(session)
    pair.feed(*[at(n, n) for n in range(10)])
    late = [at(n / 10, 100 + n) for n in range(10)]
    first = store(pair.writer, *late)
    stuck, moving = audited(session, lambda: False)
    assert (stuck.named, moving) == ({}, 1), "the stream hasn't passed them yet"

    def windows_come() -> bool:
        pair.derived.apply(table(*late, stamp=first))
        return True

    audit, moving = audited(session, windows_come)
    assert (audit.named, moving) == ({}, 0)

    def more_trades_come() -> bool:
        store(pair.writer, *(at(n / 10, 200 + n) for n in range(3)))
        return True

    store(pair.writer, at(0.05, 300))
    audit, moving = audited(session, more_trades_come)
    assert (audit.named, moving) == ({}, 1), "it changed between the two looks"


def test_tables_that_were_emptied_come_back_when_the_trades_do(session: Session) -> None:
    pair = Pair(session)
    day = [at(n / 5, n) for n in range(40)]
    pair.feed(*day, cancel_of(day[3], 9), scores={day[5].trade_id: 7.0})
    for name in schema.TABLES:
        session.execute(f"TRUNCATE {name}", timeout=60)
    pair.restart()
    pair.feed(*day, cancel_of(day[3], 9), scores={day[5].trade_id: 7.0})
    pair.check()


def test_an_older_driver_is_refused_and_its_values_lose(session: Session) -> None:
    older = CassandraRepository(session)
    pair = Pair(session)
    pair.feed(*[at(n / 5, n) for n in range(10)])
    known = pair.memory.store.windows_written
    stale = [Put(FLOW_WINDOW, window_row(key, found._replace(trades=-1))) for key, found in known.items()]
    older.write(stale, timestamp=1_000)
    pair.check()
    with pytest.raises(GuardRefused, match=r"µs .*\b1 µs"):
        DerivedTables(older, epoch=1).apply(table(at(0, 99)))


def test_of_two_versions_in_one_batch_exactly_one_is_stored_as_a_whole(session: Session) -> None:
    """Written at one timestamp they became a row that no file holds: of each column the greater value."""
    pair = Pair(session)
    first, second = at(0, 1, delta=-0.9, iv=0.2, bid=1.0), at(0, 1, delta=-0.1, iv=0.3, bid=0.5)
    for versions in ((first, second), (second, first)):
        pair.feed(*versions, scores={first.trade_id: 6.0})
        (row,) = session.execute("SELECT delta, iv, bid FROM trade").all()
        assert tuple(row) == (versions[-1].delta, versions[-1].iv, versions[-1].bid)
        pair.check()
    known = next(STAMPS)
    pair.feed(first, stamp=known)
    pair.feed(second, stamp=known - 10)  # comes later, but is the older one
    (row,) = session.execute("SELECT delta FROM trade").all()
    assert row.delta == first.delta
    pair.check()


def test_a_trade_that_is_scored_again_stands_where_it_belongs_now(session: Session) -> None:
    pair = Pair(session)
    one, other = at(0, 1), at(0.5, 2)
    pair.feed(one, other, scores={one.trade_id: 5.0, other.trade_id: 6.0})
    pair.restart()
    pair.feed(one, scores={one.trade_id: 9.0})
    pair.feed(other)
    pair.check()
    (ranked,) = session.execute("SELECT value FROM unusual_top WHERE ranking = 'high_volume' ALLOW FILTERING")
    assert ranked.value == 9.0
    pair.feed(cancel_of(one, 2))
    pair.check()
    assert session.execute("SELECT * FROM unusual_top").all() == []
    assert len(session.execute("SELECT * FROM unusual_canceled").all()) == 1


def test_a_keyspace_of_an_earlier_release_is_migrated_with_its_scores(session: Session) -> None:
    pair, first = Pair(session), next(STAMPS)
    day = [at(n / 5, n) for n in range(20)]
    trades = [*day, cancel_of(day[3], 9)]
    pair.feed(*trades, scores={day[n].trade_id: float(n + 1) for n in (3, 7, 9)}, stamp=first)
    session.execute(
        "TRUNCATE trade", timeout=60
    )  # a dropped column would hide the older values that come back
    store(pair.writer, *trades, stamp=first)
    (cancel,) = pair.memory.store.marks.values()
    marked = (day[3].slot, day[3].ts, bytes.fromhex(day[3].trade_id))
    session.execute(
        f"UPDATE trade SET canceled_by = %s WHERE symbol = 'AAPL' AND trade_date = '{DAY}' "
        "AND slot = %s AND ts = %s AND trade_id = %s",
        (cancel, *marked),
    )
    session.execute(f"DELETE FROM stream_driver WHERE name = '{score_backfill.DONE}'")
    for table_, column in (
        ("cancel", "former"), ("stream_driver", "baseline_version"), ("stream_driver", "repair_version"),
    ):  # fmt: skip
        session.execute(f"ALTER TABLE {table_} DROP {column}")
    schema.migrate_tables([ADDRESS])
    pair.restart()
    pair.check()
    session.execute("UPDATE stream_driver SET repair_version = 1 WHERE name = 'stream_trades'")
    pair.feed(at(0, 77), scores={at(0, 77).trade_id: 3.0})
    pair.check()


def test_a_table_of_an_earlier_release_gets_its_columns(session: Session) -> None:
    session.execute("ALTER TABLE trade DROP canceled_by")
    schema.ensure_tables([ADDRESS], replication=1)
    assert session.execute("SELECT canceled_by FROM trade").all() == []


def test_only_the_newest_baseline_before_a_day_is_read_by_its_key(session: Session) -> None:
    writer = Writer(session)

    def put(symbol: str, as_of: str, median: float) -> None:
        row = (
            symbol,
            cassandra_date(as_of),
            "P",
            "20-40",
            "short",
            30,
            1.0,
            median,
            1.0,
            30,
            1.0,
            1.0,
            1.0,
            1.0,
            1.0,
        )
        writer.write(writer.baseline, [[row]], retry_for=10)
        announce_baseline(session)

    for as_of, median in (("2018-01-04", 4.0), ("2018-01-05", 5.0), (DAY, 8.0)):
        put("AAPL", as_of, median)
    cache = BaselineCache([ADDRESS], refresh=0.0)
    days = [("AAPL", DAY), ("AAPL", "2018-01-05"), ("AAPL", "2018-01-04"), ("MSFT", DAY)]

    def medians() -> list[float | None]:
        found = cache.look_up(days)
        places = (BUCKET_INDEXES["P", "20-40", "short"], STATISTICS.index("volume_median"))
        return [None if (buckets := found[day]) is None else buckets[places] for day in days]

    try:
        assert medians() == [5.0, 4.0, None, None]
        put("MSFT", "2018-01-03", 3.0)
        assert medians() == [5.0, 4.0, None, 3.0]
    finally:
        assert cache._session is not None
        cache._session.cluster.shutdown()


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
    store(Writer(recorder), *(at(n, n) for n in range(3)))
    DerivedTables(CassandraRepository(recorder)).apply(table(*(at(n, n) for n in range(3))))
    assert sent
    assert {statement.consistency_level for statement in sent} == {None}  # the profile's
