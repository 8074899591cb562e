"""The instruments of the bench on real servers, one of each: they must see what is lost, late or sent twice."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import pyarrow as pa
import pytest
from botocore.config import Config

from benchmarks.throughput import feed, stored, tables
from benchmarks.throughput.delivery import deliver_file, open_kafka_python
from benchmarks.throughput.feed import Part
from benchmarks.throughput.ingest import scratch_ledger, scratch_topic
from benchmarks.throughput.latency import consumer_at_end
from benchmarks.throughput.meters import StreamMeter
from benchmarks.throughput.writers import Load, measure_rate, save_rows
from kintsugi.core.errors import StepFailed
from kintsugi.core.settings import BUCKET
from kintsugi.db.ingest_ledger import IngestLedger
from kintsugi.db.ledger_entry import FileState
from kintsugi.pipeline import schema
from kintsugi.pipeline.cassandra_session import session_scope
from kintsugi.pipeline.consumer_offsets import commit_offsets, group_consumer
from kintsugi.pipeline.object_listing import list_waiting_files
from kintsugi.pipeline.schema import TRADE_COLUMNS
from kintsugi.pipeline.stream import cassandra_sink, cql_values
from tests.integration import servers

if TYPE_CHECKING:
    from cassandra.cluster import Session

NET = "127.31.92"
SEED = 3
KINDS = {
    "double": pa.float64(), "bigint": pa.int64(), "timestamp": pa.int64(), "int": pa.int32(), "smallint": pa.int32(),
    "text": pa.string(), "date": pa.string(), "blob": pa.string(), "boolean": pa.bool_(),
}  # fmt: skip


@dataclass
class Place:
    folder: Path
    s3: Any
    ledger: IngestLedger
    dsn: str
    bootstrap: list[str]
    contact_points: list[str]
    session: Session


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("bench")
    started: list[servers.Server] = []
    try:
        started.append(kafka := servers.kafka(folder / "kafka", f"{NET}.1"))
        started.append(s3 := servers.s3(folder / "s3", f"{NET}.2"))
        started.append(postgres := servers.postgres(folder / "postgres", f"{NET}.2"))
        started.append(cassandra := servers.cassandra(folder / "cassandra", f"{NET}.3"))
        schema.ensure_topics([kafka.endpoint], replication=1)
        schema.ensure_tables([cassandra.address], replication=1)
        client = boto3.client(
            "s3", endpoint_url=s3.extra["url"], aws_access_key_id="kintsugi",
            aws_secret_access_key="kintsugi-test", region_name="us-east-1",
            config=Config(s3={"addressing_style": "path"}),
        )  # fmt: skip
        client.create_bucket(Bucket=BUCKET)
        with session_scope([cassandra.address]) as session:
            yield Place(
                folder,
                client,
                IngestLedger(postgres.extra["dsn"]),
                postgres.extra["dsn"],
                [kafka.endpoint],
                [cassandra.address],
                session,
            )
    finally:
        servers.stop_all(started)
        shutil.rmtree(folder, ignore_errors=True)


def record_batch(part: Part) -> pa.RecordBatch:
    """The trades of a part as Spark hands them to the sink; derived columns empty."""
    found = feed.parse_trades(part)
    return pa.RecordBatch.from_pydict(
        {
            name: pa.array([getattr(trade, name, None) for trade in found], KINDS[kind])
            for name, kind in TRADE_COLUMNS
        }
    )


@pytest.fixture(scope="module")
def part() -> Part:
    return next(feed.generate_parts("end_to_end", SEED, rows=600, seconds=1800))


@pytest.fixture(scope="module")
def written(place: Place, part: Part) -> stored.Expected:
    """The part in Cassandra, by the sink's own writer and encoding."""
    writer = cassandra_sink.Writer(place.session)
    rows = cql_values.encode_rows(record_batch(part), TRADE_COLUMNS)
    assert (
        writer.write(writer.trade, cassandra_sink.group_by_partition(rows, 3), retry_for=10, encoded=True)
        == part.rows
    )
    expected = stored.Expected()
    expected.add(feed.parse_trades(part))
    return expected


def test_encoded_rows_are_read_back_as_they_were_delivered(
    place: Place, part: Part, written: stored.Expected
) -> None:
    trades = {bytes.fromhex(trade.trade_id): trade for trade in feed.parse_trades(part)}
    seen = 0
    for _, rows in stored.read_trades(
        place.session, written.identities, tuple(name for name, _ in TRADE_COLUMNS)
    ):
        for row in rows:
            trade = trades[bytes(row.trade_id)]
            seen += 1
            for name in (
                "symbol",
                "slot",
                "sequence",
                "root",
                "strike",
                "size",
                "price",
                "delta",
                "exchanges",
            ):
                assert getattr(row, name) == getattr(trade, name), name
            assert str(row.expiration) == trade.expiration
            assert str(row.trade_date) == trade.trade_date
            assert round(
                (row.ts - row.ts.replace(hour=0, minute=0, second=0, microsecond=0)).total_seconds() * 1000
            ) == (trade.ts % 86_400_000)
            assert row.premium is None
    assert seen == part.rows


def test_a_row_that_is_missing_is_lost(place: Place, part: Part, written: stored.Expected) -> None:
    assert stored.compare_identities(place.session, written, wait_s=0) == stored.Found(part.rows, 0, 0)
    absent = feed.parse_trades(next(feed.generate_parts("end_to_end", SEED + 1, rows=5, seconds=10)))
    more = stored.Expected()
    more.add([*feed.parse_trades(part), *absent])
    assert stored.compare_identities(place.session, more, wait_s=0) == stored.Found(part.rows, 5, 0)


def test_a_bare_driver_writes_the_stored_rows_and_changes_none(
    place: Place, written: stored.Expected
) -> None:
    columns = tuple(name for name, _ in TRADE_COLUMNS)
    before = dict(stored.read_trades(place.session, written.identities, columns))
    rows = place.folder / "rows.pickle"
    save_rows(rows, stored.read_rows(place.session, written.identities, 500))
    for load in (Load(1, 16, 1), Load(30, 4, 2)):
        assert measure_rate(place.contact_points, rows, load, 1.0) > 50
    assert dict(stored.read_trades(place.session, written.identities, columns)) == before


def test_a_client_that_cannot_write_fails_the_measurement(place: Place) -> None:
    rows = place.folder / "bad.pickle"
    save_rows(rows, [[("text where", "no text", "belongs")]])
    with pytest.raises(StepFailed, match="failed"):
        measure_rate(place.contact_points, rows, Load(1, 1, 1), 1.0)


def test_a_delivered_file_is_on_record_and_not_ingested_again(place: Place) -> None:
    made = next(feed.generate_parts("growth", SEED, rows=200, seconds=60))
    with open_kafka_python(place.bootstrap) as kafka, StreamMeter(place.bootstrap, 0.1) as meter:
        before = meter.last.produced
        deliver_file(place.s3, place.ledger, kafka, made, feed.encode_messages(made))
        meter.wait_for(lambda now: now.produced == before + 200, 10, "the messages to arrive")
        assert meter.last.lag == 200 + before
        with pytest.raises(StepFailed, match="ingested already"):
            deliver_file(place.s3, place.ledger, kafka, made, feed.encode_messages(made))
    assert list_waiting_files(place.s3, place.ledger) == []
    (entry,) = place.ledger.entries(made.key)
    assert (entry.state, entry.tally.produced) == (FileState.DONE, 200)


def test_the_meter_sees_what_the_group_has_stored(place: Place) -> None:
    with open_kafka_python(place.bootstrap) as kafka, StreamMeter(place.bootstrap, 0.1) as meter:
        consumer = group_consumer(place.bootstrap)
        try:
            with consumer_at_end(place.bootstrap) as at_end:
                places = at_end.assignment()
                commit_offsets(consumer, {place.partition: at_end.position(place) for place in places})
            assert (
                meter.wait_for(lambda now: now.lag == 0, 10, "the lag to be gone").stored
                == meter.last.produced
            )
        finally:
            consumer.close()
        kafka.send("trades", key=b"x", value=b"{}").get(10)
        meter.wait_for(lambda now: now.lag == 1, 10, "the lag of one")
        with pytest.raises(StepFailed, match="waited 0 s in vain for the moon"):
            meter.wait_for(lambda _: False, 0.3, "the moon")


def test_the_scratch_topic_is_gone_afterwards(place: Place) -> None:
    from kafka import KafkaAdminClient

    with scratch_topic(place.bootstrap, replication=1) as topic:
        admin = KafkaAdminClient(bootstrap_servers=place.bootstrap)
        try:
            servers.wait_until(lambda: topic in admin.list_topics(), 10, "the topic is there")
        finally:
            admin.close()
    admin = KafkaAdminClient(bootstrap_servers=place.bootstrap)
    try:
        servers.wait_until(lambda: topic not in admin.list_topics(), 10, "the topic is gone")
    finally:
        admin.close()


def test_the_scratch_ledger_keeps_its_files_out_of_the_real_one(place: Place) -> None:
    before = place.ledger.entries()
    with scratch_ledger(place.dsn) as ledger:
        with ledger.claim("bench/x.csv", '"e"', 1) as claim:
            assert claim is not None
        assert [entry.key for entry in ledger.entries()] == ["bench/x.csv"]
    assert place.ledger.entries() == before
    with scratch_ledger(place.dsn) as again:
        assert again.entries() == []


def test_a_table_is_compared_by_its_own_key(place: Place, written: stored.Expected, part: Part) -> None:
    keys = tables.tables_of_days(place.session)
    assert keys["trade"] == ["symbol", "trade_date", "slot", "ts", "trade_id"]
    assert keys["unusual_trade"][0] == "trade_date"
    day = feed.day_of("end_to_end", SEED)
    found = dict(tables.rows_of_day(place.session, "trade", keys["trade"], day))
    assert len(found) == part.rows
    assert tables.compare_rows("trade", found, found).same
