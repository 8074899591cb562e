"""Back-pressure, and what Kafka deletes unread, on real servers; the stream is a consumer of the test."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from kafka import KafkaAdminClient, TopicPartition

from kintsugi.core.settings import BUCKET, TOPIC
from kintsugi.db.ingest_ledger import IngestLedger
from kintsugi.db.ledger_entry import FileState
from kintsugi.db.sent_offsets import SentOffsets
from kintsugi.db.stream_record import LossState, StreamRecord
from kintsugi.notify import dead_letter_collector
from kintsugi.pipeline import schema, stream_lag
from kintsugi.pipeline.consumer_offsets import LostRange, commit_offsets, group_consumer, starting_offsets
from kintsugi.pipeline.ingest import flow_control
from kintsugi.pipeline.ingest.backlog import LAG_MESSAGES, BacklogGauge
from kintsugi.pipeline.ingest.file_manifest import FileIngestReport
from kintsugi.pipeline.ingest.flow_control import FlowControl
from kintsugi.pipeline.ingest.ingest_run import ingest_pending
from kintsugi.pipeline.ingest.loss_replay import replay_loss
from kintsugi.pipeline.kafka_producer import open_producer
from kintsugi.pipeline.reconcile import topic_identities
from kintsugi.pipeline.stream.driver_reports import StreamLetters
from kintsugi.sampledata.generator import generate_day
from tests.integration import servers
from tests.integration.pipeline import s3_client
from tests.integration.servers import Server, wait_until

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

NET = "127.31.96"
DAY = date(2024, 10, 8)


@dataclass
class Flow:
    """Kafka, S3 and Postgres, and what the control plane keeps there."""

    folder: Path
    bootstrap: list[str]
    s3: S3Client
    ledger: IngestLedger
    record: StreamRecord
    sent: SentOffsets

    def control(self, name: str = "ingest") -> FlowControl:
        return FlowControl(name, BacklogGauge(self.bootstrap), self.record, self.sent)

    def put_day(self, seed: int, trades: int, day: date = DAY) -> str:
        made = generate_day(self.folder / str(seed), day=day, seed=seed, trades=trades)
        (file,) = made.trade_files
        key = f"trades/{day}/{file.name}"
        self.s3.put_object(Bucket=BUCKET, Key=key, Body=file.read_bytes())
        return key

    def ingest(self) -> list[FileIngestReport]:
        return ingest_pending(self.s3, self.ledger, self.bootstrap, control=self.control())

    def store_all(self) -> None:
        """As if the stream had stored everything that is on the topic now."""
        consumer = group_consumer(self.bootstrap)
        parts = [TopicPartition(TOPIC, n) for n in range(schema.TOPIC_PARTITIONS)]
        ends = consumer.end_offsets(parts)
        commit_offsets(consumer, {part.partition: at for part, at in ends.items()})
        consumer.close()

    def delete(self, partition: int, before: int) -> None:
        """As retention does: the log begins at ``before``."""
        admin = KafkaAdminClient(bootstrap_servers=self.bootstrap)
        admin.delete_records({TopicPartition(TOPIC, partition): before})
        admin.close()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flow]:
    folder = tmp_path_factory.mktemp("flow")
    started: list[Server] = []
    try:
        started.append(kafka := servers.kafka(folder / "kafka", f"{NET}.1"))
        started.append(s3 := servers.s3(folder / "s3", f"{NET}.2"))
        started.append(postgres := servers.postgres(folder / "postgres", f"{NET}.2"))
        schema.ensure_topics([kafka.endpoint], replication=1)
        client = s3_client(s3.extra["url"])
        client.create_bucket(Bucket=BUCKET)
        dsn = postgres.extra["dsn"]
        yield Flow(folder, [kafka.endpoint], client, IngestLedger(dsn), StreamRecord(dsn), SentOffsets(dsn))
    finally:
        servers.stop_all(started)
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def storing(at: Flow, rows_a_second: int) -> Iterator[list[int]]:
    """A stream that stores so many messages a second; yields the lags that it saw."""
    stop, lags = threading.Event(), [0]

    def run() -> None:
        consumer = group_consumer(at.bootstrap)
        parts = [TopicPartition(TOPIC, n) for n in range(schema.TOPIC_PARTITIONS)]
        known = {part: consumer.committed(part) or 0 for part in parts}
        last = time.monotonic()
        while not stop.wait(0.2):
            ends = consumer.end_offsets(parts)
            lags.append(sum(ends[part] - known[part] for part in parts))
            now = time.monotonic()
            left, last = int((now - last) * rows_a_second), now
            for part in parts:
                step = min(left, ends[part] - known[part])
                known[part] += step
                left -= step
            commit_offsets(consumer, {part.partition: offset for part, offset in known.items()})
        consumer.close()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield lags
    finally:
        stop.set()
        thread.join()


def test_what_kafka_deleted_unread_is_named_recorded_once_and_sent_again_from_its_file(running: Flow) -> None:
    key = running.put_day(seed=11, trades=3_000)
    (report,) = running.ingest()
    before = set(topic_identities.read_identities(running.bootstrap))
    assert len(before) == report.tally.produced
    found = stream_lag.read_lag(running.bootstrap)
    assert found is not None
    partition = max(found.end, key=lambda number: found.end[number])
    running.delete(partition, before=found.end[partition] - 5)

    start = starting_offsets(running.bootstrap)
    lost = LostRange(partition, 0, found.end[partition] - 5)
    assert start.lost == (lost,)
    assert start.offsets[partition] == lost.end
    letters = StreamLetters(running.bootstrap)
    letters.report_lost(start.lost)
    letters.report_lost(start.lost)  # a driver that was killed before it committed its start
    letters.report_refused([{"partition": 0, "offset": 7, "problem": "json", "raw": b"\xff{", "bytes": 2}])
    dead_letter_collector.collect_letters(running.bootstrap, running.s3, running.record)
    dead_letter_collector.collect_letters(running.bootstrap, running.s3, running.record)
    (loss,) = running.record.losses()
    assert (loss.partition, loss.first, loss.end, loss.state) == (partition, 0, lost.end, LossState.OPEN)
    assert running.record.refused() == {"json": 1}
    (archived,) = running.s3.list_objects_v2(Bucket=BUCKET, Prefix=dead_letter_collector.ARCHIVE)["Contents"]
    body = running.s3.get_object(Bucket=BUCKET, Key=archived["Key"])["Body"].read()
    assert json.loads(body)["offset"] == 7

    assert set(topic_identities.read_identities(running.bootstrap)) < before
    reports = replay_loss(
        running.s3, running.ledger, running.sent, running.record, running.bootstrap, loss.id,
        name=dead_letter_collector.run_of(loss), control=running.control("loss"),
    )  # fmt: skip
    assert [(item.key, item.state) for item in reports] == [(key, FileState.DONE)]
    assert set(topic_identities.read_identities(running.bootstrap)) == before
    (loss,) = running.record.losses()
    assert (loss.state, loss.files) == (LossState.REPLAYED, (key,))
    assert running.record.losses(open_only=True) == []
    assert not dead_letter_collector.loss_pages([loss], loss.recorded_at)[1:]


def test_a_message_that_is_no_trade_ends_no_reading_of_the_topic(running: Flow) -> None:
    before = set(topic_identities.read_identities(running.bootstrap))
    with open_producer(running.bootstrap) as kafka:
        for value in (b"{", b"", b"x" * 900_000):
            kafka.send(TOPIC, key=b"AAPL", value=value)
        kafka.flush()
    assert set(topic_identities.read_identities(running.bootstrap)) == before


def test_an_ingest_waits_while_nothing_is_stored_says_so_and_goes_on_with_the_stream(
    running: Flow, monkeypatch: pytest.MonkeyPatch
) -> None:
    running.store_all()
    monkeypatch.setattr(flow_control, "SAY_S", 0.5)
    running.put_day(seed=12, trades=LAG_MESSAGES + 20_000, day=date(2024, 10, 9))
    results: list[list[FileIngestReport]] = []
    thread = threading.Thread(target=lambda: results.append(running.ingest()))
    thread.start()
    try:
        wait_until(lambda: bool(running.record.waits()), 240, "the ingest waits")
        (wait,) = running.record.waits()
        assert wait.name == "ingest"
        assert "2024-10-09" in wait.key
        with storing(running, rows_a_second=20_000) as lags:
            thread.join(timeout=240)
            assert not thread.is_alive()
        assert max(lags) <= LAG_MESSAGES
    finally:
        running.store_all()
        thread.join(timeout=60)
    assert running.record.waits() == []
    ((report,),) = results
    assert (report.state, report.tally.accepted) == (FileState.DONE, LAG_MESSAGES + 20_000)


def test_the_limit_follows_the_retention_of_the_topic(running: Flow) -> None:
    running.store_all()
    gauge = BacklogGauge(running.bootstrap)
    known = gauge.read()
    assert known is not None
    assert (known.total, known.retention, known.room()) == (0, schema.TOPIC_RETENTION_BYTES, LAG_MESSAGES)
    with open_producer(running.bootstrap) as kafka:
        for number in range(50):
            kafka.send(TOPIC, key=b"AAPL", value=bytes(str(number), "ascii") * 1_000)
        kafka.flush()
    known = gauge.read()
    assert known is not None
    assert known.total == 50
    assert sum(known.size.values()) > 0
    gauge.close()
