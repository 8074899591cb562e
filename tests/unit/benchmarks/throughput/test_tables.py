from __future__ import annotations

from datetime import UTC, date, datetime

from benchmarks.throughput import driver, tables


def test_a_row_is_moved_back_with_its_identity() -> None:
    row = {
        "trade_id": b"2",
        "ts": datetime(2025, 1, 8, 12, tzinfo=UTC),
        "expiration": date(2025, 1, 9),
        "size": 3,
        "mark": None,
    }
    assert tables.move_row_back(row, 1, {b"2": b"1"}) == {
        "trade_id": b"1", "ts": datetime(2025, 1, 7, 12, tzinfo=UTC), "expiration": date(2025, 1, 8), "size": 3,
        "mark": None,
    }  # fmt: skip


def test_what_differs_is_named() -> None:
    first = {("a",): {"size": 1, "side": "buy"}, ("b",): {"size": 2, "side": "buy"}}
    second = {("a",): {"size": 1, "side": "sell"}, ("c",): {"size": 2, "side": "buy"}}
    found = tables.compare_rows("trade", first, second)
    assert not found.same
    assert dict(found.columns) == {"side": 1}
    assert (found.only_first, found.only_second) == (["('b',)"], ["('c',)"])
    assert tables.compare_rows("trade", first, first).same


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
        b"kintsugi.pipeline.stream.submission",
        b"--application",
        b"/x/spark_apps/stream_trades.py",
    ]
    assert [driver.kind_of(words) for words in (jvm, application, launcher, [b"sshd"])] == [
        "jvm",
        "python",
        None,
        None,
    ]
