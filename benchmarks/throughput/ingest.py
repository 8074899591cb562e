"""From a file in S3 to Kafka: the product's ingest, kafka-python alone, and a flush per row.

All three send the same bytes to a topic of the bench, with the settings of the real one, so that the stream is idle
meanwhile. They take turns, so that a passing load hits all of them.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from benchmarks.throughput.context import Bench, Result
from benchmarks.throughput.delivery import Message, etag_of, open_kafka_python, send_messages
from benchmarks.throughput.feed import Part, encode_messages, generate_parts, join_parts
from benchmarks.throughput.figures import compute_ratio, compute_spread
from kintsugi.controlplane.s3proxy import ObjectStore
from kintsugi.core.certificates import Principal
from kintsugi.core.client_tls import kafka_options
from kintsugi.core.connections import store_dsn
from kintsugi.core.s3_keys import S3Purpose
from kintsugi.core.settings import BUCKET, TOPIC
from kintsugi.db.ingest_ledger import IngestLedger
from kintsugi.db.ledger_entry import file_id
from kintsugi.pipeline.ingest.file_ingest import ingest_object
from kintsugi.pipeline.kafka_producer import open_producer
from kintsugi.pipeline.object_listing import S3Object
from kintsugi.pipeline.schema import TOPIC_PARTITIONS

if TYPE_CHECKING:
    from kafka import KafkaProducer

PREFIX = "bench/"
SCRATCH_TOPIC = "bench.ingest"
SCRATCH_SCHEMA = "bench_ingest"
ROWS = 60_000
TURNS = 3
NAIVE_S = 4.0


def measure_ingest(bench: Bench) -> Result:
    """``ingest_rows_per_s``, ``ingest_kafka_python_rows_per_s`` and ``ingest_naive_rows_per_s``: medians."""
    ours, raw, naive = [], [], []
    with scratch_topic(bench.bootstrap) as topic, open_kafka_python(bench.bootstrap) as kafka:
        feed = generate_parts("ingest", bench.seed, rows=10_000, seconds=30)
        for turn in range(TURNS):
            part = join_parts(f"{PREFIX}{bench.seed}-{turn}.csv", feed, ROWS // 10_000)
            ready = encode_messages(part)
            raw.append(_measure_kafka_python(kafka, topic, ready))
            ours.append(_measure_product(bench, topic, part))
            naive.append(_measure_naive(kafka, topic, ready))
            bench.print_line(
                f"turn {turn + 1}: ingest {ours[-1]:,.0f}, kafka-python {raw[-1]:,.0f}, "
                f"a flush per row {naive[-1]:,.0f} rows/s"
            )
    return {
        "ingest_rows_per_s": round(compute_spread(ours).median),
        "ingest_kafka_python_rows_per_s": round(compute_spread(raw).median),
        "ingest_naive_rows_per_s": round(compute_spread(naive).median),
        "ratio": compute_ratio(compute_spread(ours).median, compute_spread(raw).median),
        "bytes_per_row": round(sum(len(value) for _, value in ready) / len(ready)),
        "spread": {
            "ingest": compute_spread(ours).to_json(),
            "kafka_python": compute_spread(raw).to_json(),
            "naive": compute_spread(naive).to_json(),
        },
    }


def _measure_kafka_python(kafka: KafkaProducer, topic: str, ready: list[Message]) -> float:
    began = time.monotonic()
    return send_messages(kafka, topic, ready) / (time.monotonic() - began)


def _measure_product(bench: Bench, topic: str, part: Part) -> float:
    """The product's own ingest of a file in S3, its ledger and its manifest included."""
    delivery, s3 = bench.context.s3(S3Purpose.DELIVERY), bench.context.s3(S3Purpose.INGEST)
    etag = delivery.put_object(Bucket=BUCKET, Key=part.key, Body=part.body)["ETag"]
    source = S3Object(part.key, etag, len(part.body))
    try:
        with scratch_ledger(store_dsn(bench.context.settings)) as ledger:
            began = time.monotonic()
            with open_producer(bench.bootstrap, Principal.RECOVERY) as kafka:
                redirected: Any = Redirected(kafka, topic)
                report: Any = ingest_object(s3, source, ledger=ledger, kafka=redirected)
            seconds = time.monotonic() - began
    finally:
        name = file_id(part.key, etag_of(part.body))
        delivery.delete_object(Bucket=BUCKET, Key=part.key)
        # No key of S3 deletes what an ingest wrote.
        for written in ("manifests", "identities", "dead-letter"):
            for path in (ObjectStore.of(bench.context.settings).bucket / written).glob(f"{name}*"):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    return float(report.tally.produced / seconds)


@contextmanager
def scratch_ledger(dsn: str) -> Iterator[IngestLedger]:
    """Yield a ledger in a schema of its own, dropped at the end: reconciliation must not look for these files."""
    import psycopg
    from psycopg.conninfo import make_conninfo

    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA IF NOT EXISTS {SCRATCH_SCHEMA}")
        try:
            ledger = IngestLedger(make_conninfo(dsn, options=f"-c search_path={SCRATCH_SCHEMA}"))
            ledger.migrate()
            yield ledger
        finally:
            connection.execute(f"DROP SCHEMA {SCRATCH_SCHEMA} CASCADE")


def _measure_naive(kafka: KafkaProducer, topic: str, ready: list[Message]) -> float:
    began, count = time.monotonic(), 0
    for message in ready:
        count += send_messages(kafka, topic, [message])
        if time.monotonic() - began > NAIVE_S:
            break
    return count / (time.monotonic() - began)


class Redirected:
    """A producer whose messages for the topic of trades go to another one."""

    def __init__(self, kafka: Any, topic: str) -> None:
        self._kafka, self._topic = kafka, topic

    def send(self, topic: str, *message: Any, **named: Any) -> Any:
        return self._kafka.send(self._topic if topic == TOPIC else topic, *message, **named)

    def flush(self, *arguments: Any, **named: Any) -> None:
        self._kafka.flush(*arguments, **named)


@contextmanager
def scratch_topic(bootstrap: list[str], replication: int = 3) -> Iterator[str]:
    """Yield a topic like that of the trades, deleted at the end; one that a killed bench left is used again."""
    from kafka import KafkaAdminClient
    from kafka.admin import NewTopic

    settings = {"min.insync.replicas": str(min(2, replication)), "retention.ms": "600000"}
    admin = KafkaAdminClient(
        bootstrap_servers=bootstrap, request_timeout_ms=10_000, **kafka_options(Principal.RECOVERY)
    )
    try:
        if SCRATCH_TOPIC not in admin.list_topics():
            admin.create_topics(
                [NewTopic(SCRATCH_TOPIC, TOPIC_PARTITIONS, replication, topic_configs=settings)]
            )
        yield SCRATCH_TOPIC
    finally:
        admin.delete_topics([SCRATCH_TOPIC])
        admin.close()
