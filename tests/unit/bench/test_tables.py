from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

from kintsugi.bench import driver, tables
from kintsugi.bench.feed import day_of, parts, trades
from kintsugi.bench.soak import moved


def test_a_moved_file_holds_the_same_trades_on_another_day() -> None:
    part = next(parts("soak_killed", 2, rows=30, seconds=10))
    other = moved(part, -1, day_of("soak", 2).isoformat())
    assert other.key != part.key
    assert day_of("soak", 2).isoformat() in other.key
    for one, two in zip(trades(part), trades(other), strict=True):
        assert one.trade_id != two.trade_id
        assert (one.symbol, one.slot, one.sequence, one.price) == (
            two.symbol,
            two.slot,
            two.sequence,
            two.price,
        )
        assert one.ts - two.ts == 86_400_000
        assert date.fromisoformat(one.trade_date) - date.fromisoformat(two.trade_date) == timedelta(1)
        assert date.fromisoformat(one.expiration) - date.fromisoformat(two.expiration) == timedelta(1)


def test_a_row_is_moved_back_with_its_identity() -> None:
    row = {
        "trade_id": b"2",
        "ts": datetime(2025, 1, 8, 12, tzinfo=UTC),
        "expiration": date(2025, 1, 9),
        "size": 3,
        "mark": None,
    }
    assert tables.back(row, 1, {b"2": b"1"}) == {
        "trade_id": b"1", "ts": datetime(2025, 1, 7, 12, tzinfo=UTC), "expiration": date(2025, 1, 8), "size": 3,
        "mark": None,
    }  # fmt: skip


def test_what_differs_is_named() -> None:
    first = {("a",): {"size": 1, "side": "buy"}, ("b",): {"size": 2, "side": "buy"}}
    second = {("a",): {"size": 1, "side": "sell"}, ("c",): {"size": 2, "side": "buy"}}
    found = tables.compare("trade", first, second)
    assert not found.same
    assert dict(found.columns) == {"side": 1}
    assert (found.only_first, found.only_second) == (["('b',)"], ["('c',)"])
    assert tables.compare("trade", first, first).same


def test_the_driver_is_its_submitter_and_its_application_and_nothing_else() -> None:
    jvm = [
        b"/usr/bin/java",
        b"org.apache.spark.deploy.SparkSubmit",
        b"/x/spark_apps/stream_trades.py",
        b"--bootstrap",
    ]
    application = [b"/venv/bin/python", b"/x/spark_apps/stream_trades.py", b"--bootstrap"]
    launcher = [
        b"python",
        b"-m",
        b"kintsugi.trades.stream",
        b"--application",
        b"/x/spark_apps/stream_trades.py",
    ]
    assert [driver.kind_of(words) for words in (jvm, application, launcher, [b"sshd"])] == [
        "jvm",
        "python",
        None,
        None,
    ]
