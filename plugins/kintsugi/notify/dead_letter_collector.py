"""Collect the streaming driver's reports from the dead letter topic into the store and S3.

The driver's letters (`pipeline.stream.driver_reports`) are read from where the last pass ended. Messages that are not
trades are counted, and stored in S3 as they were reported. Messages that Kafka deleted before they were read are
recorded and page a person; a run of ``replay_trades`` sends them again.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from kintsugi.core.certificates import Principal
from kintsugi.core.client_tls import kafka_options
from kintsugi.core.settings import BUCKET, DEAD_LETTER_TOPIC
from kintsugi.db.stream_record import Loss, LossState, StreamRecord
from kintsugi.notify.paging_rules import Page
from kintsugi.pipeline.consumer_offsets import topic_partitions
from kintsugi.pipeline.stream.driver_reports import KEY, LOST, REFUSED

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

ARCHIVE = "dead-letter/stream/"
AT_ONCE = 5_000  # letters in one pass
OVERDUE = timedelta(hours=2)

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Letters:
    """The driver's letters of one pass. ``lost``: (partition, first, end); ``refused``: JSON lines as reported.

    By partition of the letters: ``first`` is the first offset that was read, ``following`` the next one to read.
    """

    lost: list[tuple[int, int, int]] = field(default_factory=list)
    refused: list[bytes] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)
    first: dict[int, int] = field(default_factory=dict)
    following: dict[int, int] = field(default_factory=dict)

    def add(self, partition: int, offset: int, key: bytes | None, value: bytes | None) -> None:
        """Add a message of the dead letter topic; messages that the driver did not write are skipped."""
        self.first.setdefault(partition, offset)
        self.following[partition] = offset + 1
        if key != KEY or value is None:
            return
        try:
            letter = json.loads(value)
            if letter["kind"] == LOST:
                self.lost.append((int(letter["partition"]), int(letter["first"]), int(letter["end"])))
            elif letter["kind"] == REFUSED:
                self.reasons[str(letter["reason"])] += 1
                self.refused.append(value)
        except (ValueError, KeyError, TypeError) as error:
            log.warning("letter %d-%d of the stream can't be parsed: %r", partition, offset, error)

    @property
    def archive(self) -> str:
        """The S3 key of the refused messages; the same when a pass is repeated."""
        place = "_".join(f"{partition}-{offset:012d}" for partition, offset in sorted(self.first.items()))
        return f"{ARCHIVE}{place}.jsonl"


def collect_letters(
    bootstrap: list[str], s3: S3Client, record: StreamRecord, bucket: str = BUCKET
) -> Letters:
    """Read and record the driver's letters of one pass, at most AT_ONCE messages of the topic; returns them.

    Raises KafkaError and the errors of S3 and the store; then the next pass reads the same letters.
    """
    position = record.position()
    letters = Letters()
    for partition, offset, key, value in read_messages(bootstrap, position):
        letters.add(partition, offset, key, value)
    if letters.refused:
        body = b"\n".join(letters.refused) + b"\n"
        s3.put_object(Bucket=bucket, Key=letters.archive, Body=body)
    if letters.following:
        record.take(letters.lost, letters.reasons, letters.following)
    return letters


def read_messages(
    bootstrap: list[str], position: Mapping[int, int]
) -> Iterator[tuple[int, int, bytes | None, bytes | None]]:
    """Partition, offset, key and value of at most AT_ONCE messages of the dead letter topic, from ``position`` on."""
    from kafka import KafkaConsumer

    consumer = KafkaConsumer(
        bootstrap_servers=bootstrap, enable_auto_commit=False, auto_offset_reset="earliest",
        request_timeout_ms=10_000, **kafka_options(Principal.RECOVERY),
    )  # fmt: skip
    try:
        parts = topic_partitions(consumer, DEAD_LETTER_TOPIC)
        ends, begins = consumer.end_offsets(parts), consumer.beginning_offsets(parts)
        consumer.assign(parts)
        for part in parts:
            at = position.get(part.partition, 0)
            within = begins[part] <= at <= ends[part]  # else the topic was recreated, or letters were deleted
            consumer.seek(part, at if within else begins[part])
        taken = 0
        while taken < AT_ONCE and any(consumer.position(part) < end for part, end in ends.items()):
            for batch in consumer.poll(timeout_ms=1000, max_records=AT_ONCE - taken).values():
                taken += len(batch)
                yield from ((m.partition, m.offset, m.key, m.value) for m in batch)
    finally:
        consumer.close()


def loss_pages(losses: Iterable[Loss], now: datetime) -> list[Page]:
    """The pages for recent losses: one each, and a second one when a loss needs a decision."""
    pages = []
    for loss in losses:
        if now - loss.recorded_at > timedelta(days=1):
            continue
        pages.append(_lost_page(loss))
        if loss.state is LossState.GIVEN_UP or (not loss.settled and now - loss.recorded_at > OVERDUE):
            pages.append(_undecided_page(loss))
    return pages


def _lost_page(loss: Loss) -> Page:
    return Page(
        f"page/lost/{loss.id}",
        f"Kafka deleted {loss.messages:,} messages before they were stored",
        f"Partition {loss.partition} of the topic, offsets {loss.first} to {loss.end - 1}. The stream was too far"
        f" behind, and Kafka's retention deleted them. The run {run_of(loss)} of replay_trades sends the affected files"
        " again automatically. `make status` shows its result; `make reconcile` shows whether all trades are stored.",
    )


def _undecided_page(loss: Loss) -> Page:
    return Page(
        f"page/lost-open/{loss.id}",
        f"{loss.messages:,} deleted messages were not replayed",
        f"{loss}. Look at the run {run_of(loss)} of replay_trades in Airflow. `make reconcile` lists the missing"
        " trades. Trigger replay_trades with the keys of their files to store them.",
    )


def run_of(loss: Loss) -> str:
    """The id of the run of ``replay_trades`` for a loss; also the name of its replay."""
    return f"loss-{loss.id}"


def replay_order(loss: Loss) -> tuple[str, dict[str, Any]]:
    """Key and body of the outbox message that starts the replay of a loss."""
    return f"replay/{run_of(loss)}", {"run": run_of(loss), "conf": {"loss": loss.id}}
