"""A month of trades through Kafka whose retention is much smaller: nothing deleted unread, and memory bounded.

A month is 29 million rows, and Kafka keeps 512 MiB of a partition. Here both are scaled by the same factor:
``KINTSUGI_MONTH_ROWS`` rows (3 million) of one file. The stream is a consumer of the test that stores fewer rows a
second than the ingest can send. S3, Postgres and Kafka are real; the ingest is a process of its own.

    KINTSUGI_MONTH_ROWS=3000000 .venv/bin/pytest tests/system/test_month.py
"""

from __future__ import annotations

import gzip
import os
import random
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import orjson
import psutil
import pytest
from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition
from kafka.admin import NewTopic
from kafka.errors import OffsetOutOfRangeError

from kintsugi.core.settings import BUCKET, CONSUMER_GROUP, DEAD_LETTER_TOPIC, TOPIC
from kintsugi.db.ingest_ledger import IngestLedger
from kintsugi.db.ledger_entry import FileState
from kintsugi.db.sent_offsets import SentOffsets
from kintsugi.db.stream_record import StreamRecord
from kintsugi.pipeline import schema
from kintsugi.pipeline.ingest.backlog import LAG_MESSAGES, BacklogGauge
from kintsugi.pipeline.ingest.file_ingest import ingest_object
from kintsugi.pipeline.ingest.flow_control import FlowControl
from kintsugi.pipeline.ingest.ingest_run import ingest_pending
from kintsugi.pipeline.kafka_producer import open_producer
from kintsugi.pipeline.object_listing import list_waiting_files
from tests.integration import servers
from tests.integration.pipeline import s3_client
from tests.integration.servers import Server

NET = "127.31.99"
ROWS = int(os.environ.get("KINTSUGI_MONTH_ROWS", "3000000"))
MONTH_ROWS = 29_000_000
RETENTION = max(2 << 20, schema.TOPIC_RETENTION_BYTES * ROWS // MONTH_ROWS)
SEGMENT = max(1 << 20, RETENTION // 8)
STORED_A_SECOND = int(os.environ.get("KINTSUGI_MONTH_STORED_A_SECOND", "15000"))
MEMORY_MIB = 400
DEADLINE_S = 7_200.0
KEY = "trades/2018-01/UnderlyingOptionsTradesCalcs_2018-01.csv.gz"


@dataclass
class Servers:
    folder: Path
    bootstrap: str
    url: str
    dsn: str


@pytest.fixture
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    folder = tmp_path_factory.mktemp("month")
    started: list[Server] = []
    try:
        quick = ("log.retention.check.interval.ms=1000", "log.segment.delete.delay.ms=1000")
        started.append(kafka := servers.kafka(folder / "kafka", f"{NET}.1", settings=quick))
        started.append(s3 := servers.s3(folder / "s3", f"{NET}.2"))
        started.append(postgres := servers.postgres(folder / "postgres", f"{NET}.2"))
        admin = KafkaAdminClient(bootstrap_servers=[kafka.endpoint])
        kept = {"retention.bytes": str(RETENTION), "segment.bytes": str(SEGMENT)}
        admin.create_topics([NewTopic(TOPIC, schema.TOPIC_PARTITIONS, 1, topic_configs=kept)])
        admin.create_topics([NewTopic(DEAD_LETTER_TOPIC, 1, 1)])
        admin.close()
        yield Servers(folder, kafka.endpoint, s3.extra["url"], postgres.extra["dsn"])
    finally:
        servers.stop_all(started)
        shutil.rmtree(folder, ignore_errors=True)


def write_month(path: Path) -> None:
    """ROWS distinct trades of 300 symbols, a few of which trade most; varied, or they would be compressed away."""
    chance = random.Random(23)
    symbols = [f"AA{number}" for number in range(300)]
    weights = [1 / (number + 1) for number in range(300)]
    with gzip.open(path, "wt", compresslevel=1) as out:
        for start in range(0, ROWS, 10_000):
            chosen = chance.choices(symbols, weights, k=min(10_000, ROWS - start))
            out.writelines(row(chance, symbol, start + number) for number, symbol in enumerate(chosen))


def row(chance: random.Random, symbol: str, sequence: int) -> str:
    pick = chance.randrange
    at = f"{pick(10, 16)}:{pick(60):02d}:{pick(60):02d}.{pick(1000):03d}"
    price, iv, delta = chance.uniform(0.1, 20), chance.uniform(0.05, 2), chance.random()
    cells = [
        symbol, f"2018-01-08 {at}", sequence, symbol, f"2018-01-{pick(10, 31)}", f"{pick(10, 400)}.000", "C",
        pick(1, 60), pick(1, 500), f"{price:.4f}", 18, 0, f"{price - 0.05:.4f}", f"{price + 0.05:.4f}", f"{iv:.4f}",
        f"{delta:.4f}", f"{price * 10:.4f}", f"{price * 10 + 0.02:.4f}", 0,
    ]  # fmt: skip
    return ",".join(map(str, cells)) + "\n"


@dataclass
class Stream:
    """A consumer that stores messages at a bounded rate, and commits what it has stored."""

    bootstrap: str
    seen: bytearray = field(default_factory=lambda: bytearray(ROWS))
    deleted: bool = False
    lags: list[int] = field(default_factory=lambda: [0])
    stop: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        consumer = KafkaConsumer(
            bootstrap_servers=[self.bootstrap], group_id=CONSUMER_GROUP, enable_auto_commit=False,
            auto_offset_reset="none", max_poll_records=2_000,
        )  # fmt: skip
        parts = [TopicPartition(TOPIC, n) for n in range(schema.TOPIC_PARTITIONS)]
        consumer.assign(parts)
        for part in parts:
            consumer.seek(part, 0)
        began, stored = time.monotonic(), 0
        try:
            while not self.stop.is_set():
                for batch in consumer.poll(timeout_ms=500).values():
                    for message in batch:
                        self.seen[orjson.loads(message.value)["sequence"]] = 1
                    stored += len(batch)
                consumer.commit()
                ends = consumer.end_offsets(parts)
                self.lags.append(sum(ends[part] - consumer.position(part) for part in parts))
                time.sleep(max(0.0, began + stored / STORED_A_SECOND - time.monotonic()))
        except OffsetOutOfRangeError:
            self.deleted = True
        finally:
            consumer.close()


def watch(process: psutil.Process, peak: list[float], stop: threading.Event) -> None:
    while not stop.wait(1.0):
        try:
            peak.append(process.memory_info().rss / 2**20)
        except psutil.NoSuchProcess:
            return


def test_a_month_passes_a_topic_that_keeps_a_part_of_it(running: Servers) -> None:
    file = running.folder / "month.csv.gz"
    write_month(file)
    s3 = s3_client(running.url)
    s3.create_bucket(Bucket=BUCKET)
    s3.upload_file(str(file), BUCKET, KEY)
    ledger = IngestLedger(running.dsn)
    stream, peak, ended = Stream(running.bootstrap), [0.0], threading.Event()
    began = time.monotonic()
    ingest = subprocess.Popen(
        [
            "setpriv",
            "--pdeathsig",
            "KILL",
            sys.executable,
            __file__,
            running.url,
            running.dsn,
            running.bootstrap,
        ],
        env=dict(os.environ),
    )
    threads = [
        threading.Thread(target=stream.run),
        threading.Thread(target=watch, args=(psutil.Process(ingest.pid), peak, ended)),
    ]
    for thread in threads:
        thread.start()
    try:
        assert ingest.wait(DEADLINE_S) == 0
        deadline = time.monotonic() + DEADLINE_S
        while stream.lags[-1] and not stream.deleted and time.monotonic() < deadline:
            time.sleep(0.5)
    finally:
        ingest.kill()
        stream.stop.set()
        ended.set()
        for thread in threads:
            thread.join()
    log_begins = _beginnings(running.bootstrap)
    print(
        f"{ROWS:,} rows in {time.monotonic() - began:.0f} s; retention {RETENTION / 2**20:.1f} MiB a partition; "
        f"log begins at {log_begins}; largest lag {max(stream.lags):,}; ingest's memory {max(peak):.0f} MiB at most"
    )
    (entry,) = ledger.entries()
    assert (entry.state, entry.tally.produced) == (FileState.DONE, ROWS)
    assert not stream.deleted
    assert stream.seen.count(1) == ROWS
    assert any(log_begins), "retention deleted nothing, so the month was too small for this test"
    assert max(stream.lags) <= LAG_MESSAGES
    assert max(peak) < MEMORY_MIB


def test_without_back_pressure_kafka_deletes_a_part_of_it_unread(running: Servers) -> None:
    """The control: the same month, sent while nothing is stored."""
    file = running.folder / "month.csv.gz"
    write_month(file)
    s3 = s3_client(running.url)
    s3.create_bucket(Bucket=BUCKET)
    s3.upload_file(str(file), BUCKET, KEY)
    ledger = IngestLedger(running.dsn)
    with open_producer([running.bootstrap]) as kafka:
        for source in list_waiting_files(s3, ledger):
            ingest_object(s3, source, ledger=ledger, kafka=kafka)
    servers.wait_until(lambda: any(_beginnings(running.bootstrap)), 60, "retention deletes")


def _beginnings(bootstrap: str) -> list[int]:
    consumer = KafkaConsumer(bootstrap_servers=[bootstrap])
    parts = [TopicPartition(TOPIC, n) for n in range(schema.TOPIC_PARTITIONS)]
    found = [consumer.beginning_offsets(parts)[part] for part in parts]
    consumer.close()
    return found


def _ingest(url: str, dsn: str, bootstrap: str) -> None:
    """What the first test runs as a process of its own."""
    control = FlowControl("ingest", BacklogGauge([bootstrap]), StreamRecord(dsn), SentOffsets(dsn))
    ingest_pending(s3_client(url), IngestLedger(dsn), [bootstrap], control=control)


if __name__ == "__main__":
    import logging

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    logging.getLogger("kafka").setLevel(logging.WARNING)
    _ingest(*sys.argv[1:4])
