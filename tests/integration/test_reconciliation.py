"""The reconciliation on real servers, the stream aside: what is lost, extra, altered, on its way, withdrawn, replayed.

Rows go from the topic into ``trade`` by a plain insert here; that the stream stores the same is shown by
test_trades.py, where the reconciliation of its tables is complete.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from datetime import UTC, date, datetime
from typing import Any

import psycopg
import pytest
from kafka import KafkaAdminClient, KafkaConsumer
from kafka.admin import ConfigResource, ConfigResourceType

from kintsugi.core.errors import InputError
from kintsugi.core.settings import BUCKET, DEAD_LETTER_TOPIC, KEYSPACE, TOPIC
from kintsugi.db.intake import IntakeStore
from kintsugi.db.ledger_entry import FileState, Tally
from kintsugi.pipeline import consumer_offsets, schema, stream_lag
from kintsugi.pipeline.ingest.file_manifest import FileIngestReport, check_manifest
from kintsugi.pipeline.ingest.file_reader import read_lines
from kintsugi.pipeline.ingest.ingest_run import ingest_pending
from kintsugi.pipeline.ingest.replay import Schedule, replay_files, select_files
from kintsugi.pipeline.kafka_producer import open_producer
from kintsugi.pipeline.object_listing import S3Object
from kintsugi.pipeline.reconcile.reconciliation import reconcile_files
from kintsugi.sampledata.generator import HEADER, generate_day
from tests.integration.pipeline import Pipeline, running

KEY = "trades/2024-10-08/UnderlyingOptionsTradesCalcs_2024-10-08.csv"
DERIVED = {"premium": 0.0, "side": "unknown", "canceled": False, "expiry_bin": "short", "delta_bin": "0-20"}


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    with running(tmp_path_factory.mktemp("reconciliation"), "127.31.91") as made:
        yield made


@pytest.fixture(scope="module")
def lines(servers: Pipeline) -> list[bytes]:
    made = generate_day(servers.folder / "day", day=date(2024, 10, 8), seed=7, trades=2000)
    return made.trade_files[0].read_bytes().splitlines()[1:]


@pytest.fixture
def pipeline(servers: Pipeline) -> Pipeline:
    """The servers with nothing in them but an old topic: no file, no ledger, no row."""
    for page in servers.s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET):
        for item in page.get("Contents", []):
            servers.s3.delete_object(Bucket=BUCKET, Key=item["Key"])
    with psycopg.connect(servers.dsn) as connection:
        connection.execute("TRUNCATE ledger_file")
    servers.session.execute("TRUNCATE trade", timeout=30)
    skip(servers)
    return servers


def body(lines: list[bytes]) -> bytes:
    return b"\n".join([HEADER.encode(), *lines, b""])


def ingest(pipeline: Pipeline) -> list[FileIngestReport]:
    reports = ingest_pending(pipeline.s3, pipeline.ledger, pipeline.bootstrap)
    for report in reports:
        check_manifest(pipeline.s3, report.to_dict())
    return reports


def skip(pipeline: Pipeline) -> None:
    found = stream_lag.read_lag(pipeline.bootstrap)
    assert found is not None
    commit(pipeline, found.end)


def commit(pipeline: Pipeline, ends: dict[int, int]) -> None:
    consumer = consumer_offsets.group_consumer(pipeline.bootstrap)
    consumer_offsets.commit_offsets(consumer, ends)
    consumer.close()


def store(pipeline: Pipeline) -> int:
    """What the stream does: rows stored, then the group's offsets. Returns the number of messages."""
    from kafka import TopicPartition

    found = stream_lag.read_lag(pipeline.bootstrap)
    assert found is not None
    names = [name for name, _ in schema.TRADE_COLUMNS]
    statement = pipeline.session.prepare(
        f"INSERT INTO {KEYSPACE}.trade ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})"
    )
    consumer = KafkaConsumer(bootstrap_servers=pipeline.bootstrap, enable_auto_commit=False)
    consumer.assign([TopicPartition(TOPIC, number) for number in found.end])
    for number in found.end:
        consumer.seek(TopicPartition(TOPIC, number), found.committed[number] or 0)
    count = 0
    while any(consumer.position(TopicPartition(TOPIC, n)) < end for n, end in found.end.items()):
        for message in itertools.chain.from_iterable(consumer.poll(1000).values()):
            row = {**json.loads(message.value), **DERIVED}
            row["trade_id"] = bytes.fromhex(row["trade_id"])
            row["ts"] = datetime.fromtimestamp(row["ts"] / 1000, UTC)
            pipeline.session.execute(statement, [row[name] for name in names])
            count += 1
    consumer.close()
    commit(pipeline, found.end)
    return count


def test_a_row_deleted_added_or_altered_by_hand_is_named_and_nothing_else(
    pipeline: Pipeline, lines: list[bytes]
) -> None:
    pipeline.put(KEY, body(lines[:300]))
    ingest(pipeline)
    assert store(pipeline) == 300
    good = pipeline.reconcile(until=30)
    assert good.complete, good
    assert (good.stored, good.lost_before_kafka, good.seconds < 20) == (300, 0, True)
    assert [entry.stored for entry in pipeline.ledger.entries()] == [300]
    rows: list[Any] = pipeline.session.execute("SELECT * FROM trade LIMIT 3").all()
    where = "symbol = %s AND trade_date = %s AND slot = %s AND ts = %s AND trade_id = %s"
    keys = [(row.symbol, row.trade_date, row.slot, row.ts, row.trade_id) for row in rows]
    pipeline.session.execute(f"DELETE FROM trade WHERE {where}", keys[0])
    pipeline.session.execute(f"UPDATE trade SET iv = 9 WHERE {where}", keys[1])
    other = bytes(range(16))
    pipeline.session.execute(f"UPDATE trade SET price = 1 WHERE {where}", (*keys[2][:4], other))
    pipeline.session.execute(f"UPDATE trade SET price = 1 WHERE {where}", ("NONE", *keys[2][1:]))
    found = pipeline.reconcile(until=30)
    assert found.seconds < 20, "what the stream has passed isn't waited for"
    assert (found.lost, found.altered, found.extra) == (
        [rows[0].trade_id.hex()],
        [rows[1].trade_id.hex()],
        [other.hex()],
    )
    assert (found.doubled, found.in_flight, found.lost_before_kafka) == (1, 0, 0)
    assert not found.balanced


def test_a_file_that_failed_raises_nothing_but_leaves_the_account_incomplete(
    pipeline: Pipeline, lines: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def reading(s3: Any, bucket: str, key: str, *rest: Any, **more: Any) -> Any:
        yield from read_lines(s3, bucket, key, *rest, **more)
        if key.endswith("_2.csv"):
            raise OverflowError("nobody has thought of this")

    for module in ("ingest.file_ingest", "reconcile.file_trades"):
        monkeypatch.setattr(f"kintsugi.pipeline.{module}.read_lines", reading)
    monkeypatch.setattr("kintsugi.pipeline.ingest.file_ingest.CHUNK_ROWS", 10)
    pipeline.put(KEY, body(lines[:50]))
    pipeline.put(KEY.replace(".csv", "_2.csv"), body(lines[50:75]))
    reports = ingest(pipeline)
    assert [report.state for report in reports] == [FileState.DONE, FileState.FAILED]
    assert store(pipeline) >= 50
    found = pipeline.reconcile(until=30)
    assert (found.balanced, found.complete, found.unread_count) == (True, False, 1), found
    assert "OverflowError" in found.unread[0]
    assert len(found.unreadable) == 1
    monkeypatch.undo()
    assert IntakeStore(pipeline.dsn).redrive() == [KEY.replace(".csv", "_2.csv")]
    ingest(pipeline)
    store(pipeline)
    found = pipeline.reconcile(until=30)
    assert (found.complete, found.stored, found.unread) == (True, 75, []), found


def test_windows_that_nobody_wrote_are_wrong_once_the_stream_has_passed_their_trades(
    pipeline: Pipeline, lines: list[bytes]
) -> None:
    pipeline.put(KEY, body(lines[:100]))
    ingest(pipeline)
    ends = stream_lag.read_lag(pipeline.bootstrap)
    assert ends is not None
    store(pipeline)
    commit(pipeline, {**ends.end, 0: ends.end[0] - 1})
    moving = pipeline.reconcile(derived=True)
    assert moving.balanced, moving
    assert 0 < moving.derived_in_flight == moving.derived["flow_window"]
    commit(pipeline, ends.end)
    found = pipeline.reconcile(until=30, derived=True)
    assert (found.wrong_windows, found.derived_in_flight) == (moving.derived["flow_window"], 0)
    assert found.wrong_derived_named["flow_window"][0].endswith("Z")
    assert not found.balanced
    assert (found.lost_count, found.altered_count) == (0, 0)


def test_what_is_on_its_way_is_neither_lost_nor_extra(pipeline: Pipeline, lines: list[bytes]) -> None:
    pipeline.put(KEY, body(lines[:100]))
    ingest(pipeline)
    store(pipeline)
    pipeline.put(KEY.replace(".csv", "_2.csv"), body(lines[100:200]))
    ingest(pipeline)  # and the stream hasn't stored them
    pipeline.put(KEY.replace(".csv", "_3.csv"), body(lines[200:250]))  # and nobody has ingested them
    found = pipeline.reconcile()
    assert (found.balanced, found.complete, found.in_flight, found.stored) == (True, False, 150, 100), found
    assert [entry.stored for entry in pipeline.ledger.entries()] == [100, None]
    ingest(pipeline)
    store(pipeline)
    assert pipeline.reconcile().complete
    assert [entry.stored for entry in pipeline.ledger.entries()] == [100, 100, 50]
    (part,) = [e for e in pipeline.ledger.entries() if e.key.endswith("_2.csv")]
    only = reconcile_files(
        pipeline.s3,
        pipeline.session,
        pipeline.ledger,
        bootstrap=pipeline.bootstrap,
        files=[(part.key, part.etag)],
    )
    assert (only.complete, only.files, only.stored, only.produced) == (True, 1, 100, 100), only


def test_what_a_feed_delivers_while_the_account_is_taken_is_not_extra(
    pipeline: Pipeline, lines: list[bytes]
) -> None:
    pipeline.put(KEY, body(lines[:30]))
    ingest(pipeline)
    store(pipeline)

    class Meanwhile:
        """The session; before its first query is prepared, another file comes and is stored."""

        def prepare(self, query: str) -> Any:
            if len(pipeline.ledger.entries()) == 1:
                pipeline.put(KEY.replace(".csv", "_2.csv"), body(lines[30:50]))
                ingest(pipeline)
                store(pipeline)
            return pipeline.session.prepare(query)

        def __getattr__(self, name: str) -> Any:
            return getattr(pipeline.session, name)

    found = reconcile_files(pipeline.s3, Meanwhile(), pipeline.ledger, bootstrap=pipeline.bootstrap)
    assert len(pipeline.ledger.entries()) == 2
    assert (found.complete, found.files, found.stored, found.extra_count) == (True, 1, 30, 0), found


def test_what_the_ledger_says_is_ingested_but_the_topic_lacks_was_lost_before_it(
    pipeline: Pipeline, lines: list[bytes]
) -> None:
    pipeline.put(KEY, body(lines[-40:]))  # which no other test sends
    (source,) = select_all(pipeline)
    with pipeline.ledger.claim(source.key, source.etag, source.size) as claim:
        assert claim is not None
        claim.finish(Tally(41, 40, 40, {}, 0, 40), FileState.DONE)
    found = pipeline.reconcile()
    assert (found.lost_count, found.lost_before_kafka) == (40, 40)


def test_a_corrected_file_adds_and_corrects_and_what_it_no_longer_holds_is_withdrawn(
    pipeline: Pipeline, lines: list[bytes]
) -> None:
    pipeline.put(KEY, body(lines[:100]))
    ingest(pipeline)
    store(pipeline)
    fields = lines[10].split(b",")
    fields[14] = b"0.9999"  # a corrected volatility
    corrected = [*lines[20:100], b",".join(fields), *lines[100:130]]
    pipeline.put(KEY, body(corrected))
    before = pipeline.reconcile()
    assert (before.balanced, before.in_flight, before.altered_count) == (True, 31, 0), before
    (report,) = ingest(pipeline)
    assert report.tally.produced == 111
    before = pipeline.reconcile()
    assert (before.balanced, before.in_flight, before.altered_count) == (True, 31, 0), before
    store(pipeline)
    found = pipeline.reconcile()
    assert (found.complete, found.withdrawn_count, found.extra_count, found.altered_count) == (
        True,
        19,
        0,
        0,
    ), found
    assert found.stored == 130
    pipeline.s3.delete_object(Bucket=BUCKET, Key=KEY)
    found = pipeline.reconcile()
    assert (found.complete, found.withdrawn_count) == (True, 130)


def test_two_files_may_tell_a_trade_differently_and_either_is_right(
    pipeline: Pipeline, lines: list[bytes]
) -> None:
    fields = lines[0].split(b",")
    fields[12] = b"0.0001"
    pipeline.put(KEY, body(lines[:5]))
    pipeline.put(
        "trades/2024-10/UnderlyingOptionsTradesCalcs_2024-10.csv", body([b",".join(fields), *lines[1:9]])
    )
    ingest(pipeline)
    store(pipeline)
    found = pipeline.reconcile()
    assert (found.complete, found.stored, found.duplicates) == (True, 9, 5), found
    assert [entry.stored for entry in pipeline.ledger.entries()] == [5, 9]


def test_trades_older_than_cassandra_keeps_them_are_expired_not_lost(
    pipeline: Pipeline, lines: list[bytes]
) -> None:
    pipeline.put(KEY, body(lines[:10]))
    ingest(pipeline)
    with psycopg.connect(pipeline.dsn) as connection:
        connection.execute("UPDATE ledger_file SET finished_at = now() - interval '40 days'")
    found = pipeline.reconcile()
    assert (found.complete, found.expired, found.lost_count) == (True, 10, 0)


def select_all(pipeline: Pipeline) -> list[S3Object]:
    from kintsugi.pipeline.object_listing import list_own_trade_files

    return select_files(list_own_trade_files(pipeline.s3), everything=True)


def test_a_replay_of_everything_restores_the_trades_and_goes_on_where_it_was(
    pipeline: Pipeline, lines: list[bytes]
) -> None:
    pipeline.put(KEY, body([*lines[:600], b"no trade"]))
    pipeline.put(KEY.replace(".csv", "_2.csv"), body(lines[590:900]))
    first = ingest(pipeline)
    store(pipeline)
    pipeline.session.execute("TRUNCATE trade", timeout=30)
    empty = pipeline.reconcile()
    assert (empty.lost_count, len(empty.lost), empty.lost_before_kafka) == (900, 100, 0)

    class Killed(BaseException):
        """The process ends here."""

    def killed_after(count: int) -> Any:
        calls = itertools.count()

        def pace(_: int) -> None:
            if next(calls) == count:
                raise Killed

        return pace

    from kintsugi.pipeline.ingest.file_ingest import ingest_object

    one, two = select_all(pipeline)
    with open_producer(pipeline.bootstrap) as kafka, pytest.raises(Killed):
        ingest_object(
            pipeline.s3,
            one,
            ledger=pipeline.ledger,
            kafka=kafka,
            replay="r",
            chunk_rows=200,
            pace=killed_after(450),
        )
    assert [entry.tally.lines_done for entry in pipeline.ledger.replayed("r")] == [401]
    skip(pipeline)  # so that only what is sent from here on is counted
    again = replay_files(
        pipeline.s3, pipeline.ledger, pipeline.bootstrap, [one, two], name="r", schedule=Schedule()
    )
    assert [a.tally for a in again] == [a.tally for a in first]
    for report in again:
        check_manifest(pipeline.s3, report.to_dict())
    assert store(pipeline) == 200 + 310
    replay_files(pipeline.s3, pipeline.ledger, pipeline.bootstrap, [one, two], name="r", schedule=Schedule())
    assert store(pipeline) == 0, "a finished replay sends nothing"
    replay_files(
        pipeline.s3, pipeline.ledger, pipeline.bootstrap, [one, two], name="s", schedule=Schedule(speed=10**6)
    )
    assert store(pipeline) == 600 + 310
    found = pipeline.reconcile()
    assert (found.complete, found.stored, found.produced) == (True, 900, 910), found
    assert len(pipeline.ledger.entries()) == 2, "a replay is no second ingest"
    with pytest.raises(InputError, match="name"):
        replay_files(pipeline.s3, pipeline.ledger, pipeline.bootstrap, [one], name="", schedule=Schedule())


def test_what_the_servers_keep_is_bounded(pipeline: Pipeline) -> None:
    admin = KafkaAdminClient(bootstrap_servers=pipeline.bootstrap)
    try:
        for name in (TOPIC, DEAD_LETTER_TOPIC):
            found = admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, name)])
            text = repr(found)
            assert str(schema.TOPIC_RETENTION_HOURS * 3_600_000) in text
            assert str(schema.TOPIC_RETENTION_BYTES) in text
    finally:
        admin.close()
    rows = pipeline.session.execute(
        "SELECT table_name, default_time_to_live FROM system_schema.tables WHERE keyspace_name = %s",
        (KEYSPACE,),
    ).all()
    assert {row.table_name for row in rows} == set(schema.TABLES)
    rows = [row for row in rows if row.table_name != "stream_driver"]  # one row, ever
    assert all(row.default_time_to_live >= schema.TRADE_DAYS * schema.DAY for row in rows)
    assert all(row.default_time_to_live <= schema.BASELINE_DAYS * schema.DAY for row in rows)
