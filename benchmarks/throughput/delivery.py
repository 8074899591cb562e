"""Ways to bring a trade file into the pipeline: into S3 like a customer, or directly into Kafka, on record.

The second is for measurements that need their own pace. The file is in S3 and in the ledger like any other, and
claimed in the ledger while it is sent. So no ingest takes it, and if the bench is killed, the ingest DAG continues it.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from benchmarks.throughput.feed import Part
from kintsugi.core.certificates import Principal
from kintsugi.core.client_tls import kafka_options
from kintsugi.core.errors import KintsugiError, StepFailed
from kintsugi.core.settings import BUCKET, TOPIC
from kintsugi.db.ingest_ledger import IngestLedger
from kintsugi.db.ledger_entry import FileState, Tally

if TYPE_CHECKING:
    from kafka import KafkaProducer

FLUSH_S = 60.0
PACE_STEP_S = 0.02

Message = tuple[bytes, bytes]


@contextmanager
def open_kafka_python(bootstrap: list[str]) -> Iterator[KafkaProducer]:
    """An idempotent producer of kafka-python that waits for all in-sync replicas, closed at the end of the block."""
    from kafka import KafkaProducer

    client = KafkaProducer(
        bootstrap_servers=bootstrap,
        **kafka_options(Principal.RECOVERY),
        acks="all",
        enable_idempotence=True,
        compression_type="lz4",
        linger_ms=20,
        batch_size=256 * 1024,
        request_timeout_ms=10_000,
        delivery_timeout_ms=60_000,
    )
    try:
        yield client
    finally:
        client.close(timeout=10)


def put_part(s3: Any, part: Part) -> float:
    """Put the file into S3; returns the time (seconds since 1970) just before."""
    at = time.time()
    s3.put_object(Bucket=BUCKET, Key=part.key, Body=part.body)
    return at


def etag_of(body: bytes) -> str:
    """The ETag that S3 gives an object put in one piece: its MD5, in quotes."""
    return f'"{hashlib.md5(body, usedforsecurity=False).hexdigest()}"'


def deliver_file(
    s3: Any, ledger: IngestLedger, kafka: KafkaProducer, part: Part, messages: list[Message], *,
    rate: float | None = None,
) -> float:  # fmt: skip
    """Send a file's messages, ``rate`` a second or as fast as Kafka takes them; returns the seconds it took.

    Raises StepFailed when an ingester has the file already, KintsugiError when Kafka doesn't acknowledge.
    """
    etag = etag_of(part.body)
    with ledger.claim(part.key, etag, len(part.body)) as claim:
        if claim is None:
            raise StepFailed(
                f"{part.key} is ingested already; run the bench again, with another --seed if one was given"
            )
        given = s3.put_object(Bucket=BUCKET, Key=part.key, Body=part.body)["ETag"]
        if given != etag:
            raise StepFailed(f"S3 gave {part.key} the ETag {given}, not {etag}; it would be ingested twice")
        began = time.monotonic()
        send_messages(kafka, TOPIC, pace_messages(messages, rate))
        seconds = time.monotonic() - began
        tally = Tally(lines_done=part.rows + 1, read=part.rows, accepted=part.rows, produced=len(messages))
        claim.finish(tally, FileState.DONE)
    return seconds


def send_messages(kafka: KafkaProducer, topic: str, messages: Iterable[Message]) -> int:
    """Send (key, value) pairs and wait until all are acknowledged; returns how many.

    Raises KintsugiError with Kafka's first complaint.
    """
    errors: list[BaseException] = []
    count = 0
    for key, value in messages:
        kafka.send(topic, key=key, value=value).add_errback(errors.append)
        count += 1
    kafka.flush(timeout=FLUSH_S)
    if errors:
        raise KintsugiError(f"Kafka did not acknowledge: {errors[0]!r}; look at the health of the brokers")
    return count


def pace_messages(messages: list[Message], rate: float | None) -> Iterator[Message]:
    """The messages, held back so that no more than ``rate`` a second have passed at any moment."""
    began = time.monotonic()
    for number, message in enumerate(messages):
        if rate is not None:
            while number > rate * (time.monotonic() - began + PACE_STEP_S):
                time.sleep(PACE_STEP_S)
        yield message
