"""The way of a trade on real servers: S3, Postgres, Kafka, Spark and Cassandra, one of each."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from datetime import date
from typing import Any

import pytest
from kafka import KafkaAdminClient, TopicPartition

from kintsugi.core.settings import BUCKET, DEAD_LETTER_TOPIC, TOPIC
from kintsugi.db.ingest_ledger import IngestLedger
from kintsugi.db.ledger_entry import FileState
from kintsugi.notify import dead_letter_collector
from kintsugi.notify.dead_letter_collector import Letters
from kintsugi.pipeline import schema, stream_lag, synthetic_trade
from kintsugi.pipeline.consumer_offsets import topic_partitions
from kintsugi.pipeline.ingest.file_ingest import ingest_object
from kintsugi.pipeline.ingest.file_manifest import FileIngestReport, sum_reports
from kintsugi.pipeline.ingest.ingest_run import ingest_pending
from kintsugi.pipeline.ingest.replay import Schedule, replay_files, select_files
from kintsugi.pipeline.kafka_producer import open_producer
from kintsugi.pipeline.object_listing import list_own_trade_files, list_waiting_files
from kintsugi.pipeline.reconcile.topic_identities import read_identities
from kintsugi.pipeline.stream import baselines
from kintsugi.pipeline.trade_identity import SYNTHETIC_SYMBOL
from kintsugi.sampledata.generator import GeneratedDay, generate_day
from tests.integration.pipeline import Pipeline, running, s3_client
from tests.integration.servers import wait_until
from tests.integration.spark_driver import NET, REPOSITORY, Driver, build_baseline

DAY = date(2024, 10, 8)
TRADES = 4000


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    with running(tmp_path_factory.mktemp("pipeline"), NET) as made:
        yield made


@pytest.fixture(scope="module")
def day(pipeline: Pipeline) -> GeneratedDay:
    made = generate_day(pipeline.folder / "day", day=DAY, seed=3, trades=TRADES, parts=2, bad_rows=6)
    for file in made.trade_files:
        pipeline.put(f"trades/{DAY}/{file.name}", file.read_bytes())
    return made


@pytest.fixture(scope="module")
def ingested(pipeline: Pipeline, day: GeneratedDay) -> list[FileIngestReport]:
    return ingest_pending(pipeline.s3, pipeline.ledger, pipeline.bootstrap)


def test_topics_and_tables_can_be_ensured_again(pipeline: Pipeline) -> None:
    schema.ensure_topics(pipeline.bootstrap, replication=1)
    schema.ensure_tables(pipeline.contact_points, replication=1)


def test_every_row_of_a_day_is_accounted_for(
    pipeline: Pipeline, day: GeneratedDay, ingested: list[FileIngestReport]
) -> None:
    found = sum_reports(report.to_dict() for report in ingested)
    assert (found["read"], found["accepted"]) == (day.rows, day.trades + day.duplicates)
    assert sum(found["rejected"].values()) == day.bad_rows
    assert found["produced"] == found["accepted"]
    assert list_waiting_files(pipeline.s3, pipeline.ledger) == []
    assert len(set(read_identities(pipeline.bootstrap))) >= day.trades


def test_rejected_rows_are_in_the_topic_and_in_s3_with_line_and_reason(
    pipeline: Pipeline, day: GeneratedDay, ingested: list[FileIngestReport]
) -> None:
    from kafka import KafkaConsumer

    letters = [
        json.loads(line)
        for item in pipeline.s3.list_objects_v2(Bucket=BUCKET, Prefix="dead-letter/")["Contents"]
        for line in pipeline.s3.get_object(Bucket=BUCKET, Key=item["Key"])["Body"].read().splitlines()
    ]
    mine = [letter for letter in letters if letter["file"].startswith(f"trades/{DAY}/")]
    assert len(mine) == day.bad_rows
    lines = {file.name: file.read_bytes().split(b"\n") for file in day.trade_files}
    for letter in mine:
        raw = lines[letter["file"].rpartition("/")[2]][letter["line"] - 1]
        assert letter.get("raw", "").encode() == raw or "raw_base64" in letter
        assert letter["reason"]
        assert letter["text"]
    consumer = KafkaConsumer(
        bootstrap_servers=pipeline.bootstrap, auto_offset_reset="earliest", consumer_timeout_ms=30_000
    )
    consumer.assign(topic_partitions(consumer, DEAD_LETTER_TOPIC))
    missing = list(mine)
    for message in consumer:
        missing = [letter for letter in missing if letter != json.loads(message.value)]
        if not missing:
            break
    consumer.close()
    assert not missing


def test_an_unreadable_file_is_reported_and_the_next_one_goes_in(
    pipeline: Pipeline, day: GeneratedDay
) -> None:
    good = day.trade_files[0].read_bytes().split(b"\n")[:20]
    unreadable = "trades/broken/UnderlyingOptionsTradesCalcs_2024-10-08_a.csv"
    pipeline.put(unreadable, b"\x00\x01 no text \xff")
    damaged = "trades/broken/UnderlyingOptionsTradesCalcs_2024-10-08_b.csv.gz"
    pipeline.put(damaged, gzip.compress(b"\n".join(good), 0)[:-900])
    one, two = ingest_pending(pipeline.s3, pipeline.ledger, pipeline.bootstrap)
    assert (one.state, one.tally.read) == (FileState.FAILED, 0)
    assert one.reason
    assert "can't be read" in one.reason
    assert two.state is FileState.DONE
    assert two.tally.accepted > 5
    assert two.tally.rejected == {"truncated": 1}
    assert list_waiting_files(pipeline.s3, pipeline.ledger) == []
    # The vendor takes one back and delivers the other whole: nothing is complete while a file isn't read to its end.
    pipeline.s3.delete_object(Bucket=BUCKET, Key=unreadable)
    pipeline.put(damaged, gzip.compress(b"\n".join(good)))
    (again,) = ingest_pending(pipeline.s3, pipeline.ledger, pipeline.bootstrap)
    assert (again.state, again.tally.rejected) == (FileState.DONE, {})
    assert again.tally.accepted > two.tally.accepted


def test_a_killed_ingest_goes_on_where_it_was(pipeline: Pipeline) -> None:
    made = generate_day(pipeline.folder / "killed", day=date(2024, 10, 9), seed=4, trades=TRADES)
    key = "trades/2024-10-09/UnderlyingOptionsTradesCalcs_2024-10-09.csv"
    pipeline.put(key, made.trade_files[0].read_bytes())
    before = len(set(read_identities(pipeline.bootstrap)))
    child = subprocess.Popen(
        [sys.executable, __file__, pipeline.s3.meta.endpoint_url, pipeline.dsn, pipeline.bootstrap[0]],
        env={**os.environ, "PYTHONPATH": f"{REPOSITORY / 'plugins'}:{REPOSITORY}"},
    )

    def midway() -> bool:
        assert child.poll() is None, "the ingest ended before it could be killed"
        return any(0 < entry.tally.lines_done < TRADES for entry in pipeline.ledger.entries(key))

    wait_until(midway, 60, "the ingest is midway", interval=0.005)
    child.send_signal(signal.SIGKILL)
    child.wait()
    (entry,) = pipeline.ledger.entries(key)
    assert entry.state is FileState.RUNNING
    (report,) = ingest_pending(pipeline.s3, pipeline.ledger, pipeline.bootstrap)
    assert (report.tally.read, report.tally.accepted, report.tally.duplicates) == (TRADES, TRADES, 0)
    assert len(set(read_identities(pipeline.bootstrap))) == before + TRADES


def test_of_two_ingesters_of_one_file_one_works(pipeline: Pipeline) -> None:
    made = generate_day(pipeline.folder / "both", day=date(2024, 10, 10), seed=5, trades=500)
    pipeline.put(
        "trades/2024-10-10/UnderlyingOptionsTradesCalcs_2024-10-10.csv", made.trade_files[0].read_bytes()
    )
    (source,) = list_waiting_files(pipeline.s3, pipeline.ledger)
    reports: list[FileIngestReport | None] = []
    with open_producer(pipeline.bootstrap) as kafka:
        work = lambda: reports.append(  # noqa: E731
            ingest_object(pipeline.s3, source, ledger=pipeline.ledger, kafka=kafka)
        )
        threads = [threading.Thread(target=work) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    done = [report for report in reports if report is not None]
    assert len(done) == 1
    assert done[0].tally.produced == 500


@pytest.fixture(scope="module")
def driver(pipeline: Pipeline) -> Driver:
    return Driver(pipeline)


def test_an_end_of_day_file_becomes_a_baseline_and_is_done_once(
    pipeline: Pipeline, driver: Driver, day: GeneratedDay
) -> None:
    build_baseline(pipeline, driver, day)
    assert baselines.pending_files(pipeline.s3, BUCKET) == []
    rows = pipeline.session.execute("SELECT symbol, as_of FROM baseline").all()
    assert len(rows) > 300
    assert {str(row.as_of) for row in rows} == {"2024-10-07"}
    version = pipeline.session.execute(
        "SELECT baseline_version FROM stream_driver WHERE name = 'stream_trades'"
    ).one()
    assert version.baseline_version, "the stream is told"


def caught_up(pipeline: Pipeline) -> bool:
    return stream_lag.read_consumer_lag(pipeline.bootstrap) == 0


def assert_windows_hold_every_trade_once(pipeline: Pipeline) -> None:
    """But for cancels and what they took back; every cancel of the generator's takes its trade back."""
    trades = pipeline.session.execute("SELECT symbol, canceled, canceled_by FROM trade").all()
    cancels = sum(row.canceled for row in trades)
    taken = sum(row.canceled_by is not None for row in trades)
    assert taken == cancels > 0
    expected = Counter(row.symbol for row in trades if not row.canceled and row.canceled_by is None)
    found: Counter[str] = Counter()
    for row in pipeline.session.execute("SELECT symbol, trades FROM flow_window"):
        found[row.symbol] += row.trades
    del expected[SYNTHETIC_SYMBOL]
    assert found == expected


def test_what_is_in_the_files_is_in_cassandra_once_and_a_driver_without_checkpoint_repeats_nothing(
    pipeline: Pipeline, driver: Driver, day: GeneratedDay
) -> None:
    ingest_pending(pipeline.s3, pipeline.ledger, pipeline.bootstrap)
    process = driver.start()
    try:
        driver.wait_until(lambda: caught_up(pipeline), 180, "the stream has caught up")
        report = pipeline.reconcile(until=30)
        assert report.complete, report
        assert report.stored == report.accepted - report.duplicates == report.in_kafka
        truth = {item["trade_id"] for item in json.loads(day.truth_file.read_text())["unusual"]}
        unusual = pipeline.session.execute("SELECT * FROM unusual_trade WHERE trade_date = %s", (DAY,)).all()
        large = {row.trade_id.hex() for row in unusual if row.signal == "high_volume"}
        assert truth <= large
        assert len(large) <= len(truth) + 4  # of 4000
        assert_windows_hold_every_trade_once(pipeline)

        second = subprocess.run(driver.command, env=driver.env, check=False, timeout=120, capture_output=True)
        assert second.returncode == 3
        assert b"another driver runs on the checkpoint" in second.stdout + second.stderr

        process.kill()
        process.wait()
        shutil.rmtree(driver.checkpoint)  # as if the node's disk were gone
        identity = synthetic_trade.send_synthetic_trade(pipeline.s3)
        ingest_pending(pipeline.s3, pipeline.ledger, pipeline.bootstrap)
        process = driver.start()
        driver.wait_until(
            lambda: synthetic_trade.has_arrived(pipeline.session, identity), 180, "the canary arrives"
        )
        assert "no checkpoint" in driver.log.read_text().rpartition("starting from {")[0]
        assert pipeline.reconcile(until=10).complete
    finally:
        process.kill()
        process.wait()


def test_a_message_that_is_no_trade_and_one_that_kafka_deleted_stop_no_driver(
    pipeline: Pipeline, driver: Driver, day: GeneratedDay
) -> None:
    """Garbage alone, then garbage among trades; then a driver whose position the log no longer holds."""
    letters = Letters()
    process = driver.start()
    try:
        with open_producer(pipeline.bootstrap) as kafka:
            for value in (b"{", b"", b'{"trade_id":"x"}', b"\xff" * 900_000):
                kafka.send(TOPIC, key=b"AAPL", value=value)
            kafka.send(TOPIC, value=b"no key, no trade")
            kafka.flush()
        driver.wait_until(lambda: caught_up(pipeline), 240, "the stream has passed what is no trade")
        for letter in dead_letter_collector.read_messages(pipeline.bootstrap, {}):
            letters.add(*letter)
        assert letters.reasons == {"json": 4, "trade_id": 1}
        assert "the query failed" not in driver.log.read_text()
        assert pipeline.reconcile(until=30).complete
    finally:
        process.kill()
        process.wait()
    synthetic_trade.send_synthetic_trade_to_kafka(pipeline.bootstrap)
    found = stream_lag.read_lag(pipeline.bootstrap)
    assert found is not None
    (partition,) = [number for number, end in found.end.items() if end > (found.committed[number] or 0)]
    admin = KafkaAdminClient(bootstrap_servers=pipeline.bootstrap)
    admin.delete_records({TopicPartition(TOPIC, partition): found.end[partition]})
    admin.close()
    identity = synthetic_trade.send_synthetic_trade(pipeline.s3)
    ingest_pending(pipeline.s3, pipeline.ledger, pipeline.bootstrap)
    process = driver.start()
    try:
        driver.wait_until(
            lambda: synthetic_trade.has_arrived(pipeline.session, identity), 240, "the canary arrives"
        )
    finally:
        process.kill()
        process.wait()
    again = Letters()
    for letter in dead_letter_collector.read_messages(pipeline.bootstrap, letters.following):
        again.add(*letter)
    assert again.lost == [(partition, found.committed[partition], found.end[partition])]


RESTORED = (
    "trade", "unusual_trade", "unusual_canceled", "unusual_top", "flow_window", "flow_alert", "cancel", "baseline",
)  # fmt: skip


def content(pipeline: Pipeline, table: str) -> list[tuple[str, ...]]:
    """The rows of a table, canaries aside; sums of doubles to nine digits, for they are added up in any order."""
    rows = pipeline.session.execute(f"SELECT * FROM {table}").all()
    cells = (row._asdict() for row in rows if getattr(row, "symbol", "") != SYNTHETIC_SYMBOL)
    return sorted(
        tuple(f"{v:.9g}" if isinstance(v, float) else repr(v) for v in row.values()) for row in cells
    )


def test_with_cassandra_empty_a_replay_of_everything_brings_back_every_table(
    pipeline: Pipeline, driver: Driver, day: GeneratedDay
) -> None:
    before = {table: content(pipeline, table) for table in RESTORED}
    assert all(before[table] for table in ("trade", "unusual_trade", "unusual_top", "flow_window", "cancel"))
    for table in RESTORED:
        pipeline.session.execute(f"TRUNCATE {table}", timeout=30)
    assert not content(pipeline, "trade")
    for item in pipeline.s3.list_objects_v2(Bucket=BUCKET, Prefix=baselines.EOD_MANIFESTS)["Contents"]:
        pipeline.s3.delete_object(Bucket=BUCKET, Key=item["Key"])
    build_baseline(pipeline, driver, day)  # as the runbook of replay_trades says, first
    process = driver.start()
    try:
        files = select_files(list_own_trade_files(pipeline.s3), everything=True)
        replay_files(
            pipeline.s3, pipeline.ledger, pipeline.bootstrap, files, name="restore", schedule=Schedule()
        )
        driver.wait_until(lambda: caught_up(pipeline), 180, "the stream has caught up")
        assert pipeline.reconcile(until=30).complete
        # Windows and signals follow the trades within a batch or two.
        driver.wait_until(
            lambda: all(len(content(pipeline, table)) >= len(rows) for table, rows in before.items()),
            60, "every table is as large as it was",
        )  # fmt: skip
    finally:
        process.kill()
        process.wait()
    for table, rows in before.items():
        assert content(pipeline, table) == rows, table


def test_a_row_deleted_added_or_altered_by_hand_is_named(pipeline: Pipeline) -> None:
    before = pipeline.reconcile()
    assert before.complete, "the test before this one must have filled the tables"
    row: Any = pipeline.session.execute("SELECT * FROM trade LIMIT 20").all()[-1]
    assert row.symbol != SYNTHETIC_SYMBOL
    key = (row.symbol, row.trade_date, row.slot, row.ts, row.trade_id)
    where = "symbol = %s AND trade_date = %s AND slot = %s AND ts = %s AND trade_id = %s"
    pipeline.session.execute(f"UPDATE trade SET price = %s WHERE {where}", (row.price + 1, *key))
    assert pipeline.reconcile().altered == [row.trade_id.hex()]
    pipeline.session.execute(f"DELETE FROM trade WHERE {where}", key)
    found = pipeline.reconcile()
    assert (found.lost, found.lost_count, found.complete) == ([row.trade_id.hex()], 1, False)
    other = bytes(16)
    pipeline.session.execute(f"UPDATE trade SET price = 1 WHERE {where}", (*key[:4], other))
    pipeline.session.execute(f"UPDATE trade SET price = 1 WHERE {where}", (key[0], key[1], 95, key[3], other))
    found = pipeline.reconcile()
    assert (found.extra, found.doubled) == ([other.hex()], 1)


def _ingest_slowly(url: str, dsn: str, bootstrap: str) -> None:
    """What the test kills: an ingest in chunks of 50 rows."""
    s3, ledger = s3_client(url), IngestLedger(dsn)
    with open_producer([bootstrap]) as kafka:
        for source in list_waiting_files(s3, ledger):
            ingest_object(s3, source, ledger=ledger, kafka=kafka, chunk_rows=50)


if __name__ == "__main__":
    _ingest_slowly(*sys.argv[1:4])
