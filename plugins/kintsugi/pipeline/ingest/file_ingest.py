"""Ingest one file from S3 into Kafka: every row becomes a message, or a dead letter with its reason.

A file is sent chunk by chunk:

1. The identities of a chunk are written to S3 before its first message is sent. So every trade that may be in Cassandra
   is on record, even if the file is replaced later.
2. The messages of the chunk are sent.
3. After Kafka acknowledged them, the progress is written to the ledger.

So an interrupted file continues after its last recorded chunk. A message that is sent twice has the same identity, and
every reader sees one row.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from kintsugi.core.data_source import own_source
from kintsugi.core.errors import KintsugiError
from kintsugi.core.settings import BUCKET, DEAD_LETTER_TOPIC, TOPIC
from kintsugi.db.ingest_ledger import Claim, IngestLedger
from kintsugi.db.ledger_entry import FileState, Tally, file_id
from kintsugi.pipeline.failures import format_reason, is_gone, is_transient, stops_all_files
from kintsugi.pipeline.ingest.dead_letters import DeadLetters, dead_letter
from kintsugi.pipeline.ingest.file_manifest import FileIngestReport
from kintsugi.pipeline.ingest.file_reader import BadLine, raw_bytes, read_lines
from kintsugi.pipeline.kafka_producer import OffsetRanges, Producer
from kintsugi.pipeline.object_listing import S3Object
from kintsugi.pipeline.row_parser import Rejection, TradeMessage, parse_message
from kintsugi.pipeline.synthetic_trade import PREFIX as SYNTHETIC_PREFIX

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

    from kintsugi.pipeline.ingest.flow_control import FlowControl

log = logging.getLogger(__name__)

CHUNK_ROWS = 20_000
PART_MESSAGES = 5_000  # that are sent after each question for room
REMEMBERED_IDENTITIES = 200_000
LETTER_BYTES = 8 << 20  # of dead letters; they end a chunk, too
IDENTITIES = "identities/"

Pace = Callable[[int], None]


def is_synthetic(key: str) -> bool:
    """Whether the file holds a synthetic trade."""
    return key.startswith(SYNTHETIC_PREFIX)


@dataclass(slots=True)
class Chunk:
    """Consecutive lines of a file: their messages, dead letters and counts.

    ``first``: the number of the first line; ``tally.lines_done`` is that of the last. ``letters``: dead letters, JSON.
    """

    first: int
    tally: Tally = field(default_factory=Tally)
    messages: list[TradeMessage] = field(default_factory=list)
    letters: list[bytes] = field(default_factory=list)


def split_chunks(
    source: S3Object, lines: Iterable[tuple[int, str | BadLine]], rows: int, border: int = 0
) -> Iterator[Chunk]:
    """Split numbered lines into chunks of at most ``rows`` lines; one always ends at the line ``border``.

    A row with the identity of an earlier one is counted as a duplicate and makes no message. A chunk also ends when it
    has many dead letters, so that memory is bounded.
    """
    recent = RecentIdentities()
    chunk: Chunk | None = None
    letter_bytes = 0
    for number, line in lines:
        if chunk is None:
            chunk, letter_bytes = Chunk(number), 0
        tally = chunk.tally
        tally.read += 1
        tally.lines_done = number
        message = line.rejection if isinstance(line, BadLine) else parse_message(line)
        if isinstance(message, Rejection):
            tally.reject(message.reason.value)
            raw = line.raw if isinstance(line, BadLine) else raw_bytes(line)
            chunk.letters.append(dead_letter(source.key, source.etag, number, raw, message))
            letter_bytes += len(chunk.letters[-1])
        else:
            tally.accepted += 1
            if recent.add(message.identity):
                tally.produced += 1
                chunk.messages.append(message)
            else:
                tally.duplicates += 1
        if tally.read >= rows or number == border or letter_bytes >= LETTER_BYTES:
            yield chunk
            chunk = None
    if chunk is not None:
        yield chunk


class RecentIdentities:
    """The last ``limit`` identities at least, and twice as many at most, so that memory is bounded.

    The duplicates of a file are close together (overlapping parts). A duplicate that is farther apart is sent a second
    time, which every reader sees as the same row.
    """

    def __init__(self, limit: int = REMEMBERED_IDENTITIES) -> None:
        self._limit = limit
        self._new: set[bytes] = set()
        self._old: set[bytes] = set()

    def add(self, identity: bytes) -> bool:
        """Remember an identity; returns whether it is new."""
        if identity in self._new or identity in self._old:
            return False
        self._new.add(identity)
        if len(self._new) >= self._limit:
            self._old, self._new = self._new, set()
        return True


def ingest_object(
    s3: S3Client, source: S3Object, *, ledger: IngestLedger, kafka: Producer, bucket: str = BUCKET,
    chunk_rows: int = CHUNK_ROWS, replay: str = "", pace: Pace | None = None, control: FlowControl | None = None,
    after_chunk: Callable[[], None] | None = None,
) -> FileIngestReport | None:  # fmt: skip
    """Ingest one file; returns its report, or None when another process ingests it or it doesn't wait.

    ``s3``, ``bucket``: where identities, dead letters and the manifest are written. The file itself is read from its
    own source. ``replay``: the name of a replay, which also takes files that were ingested. ``pace``: called with the
    time (milliseconds since 1970 UTC) of each trade before it is sent. ``control``: the back-pressure; without it
    nothing waits. ``after_chunk``: called after each chunk, and repeatedly while the back-pressure makes one wait.

    A file that can't be used ends as failed, with the reason in the report; that raises nothing. Raises NotAcknowledged
    when Kafka doesn't acknowledge, and what S3 and Postgres raise. Then the file is postponed, and the next call
    continues after the last acknowledged chunk.
    """
    claim_file = ledger.claim(
        source.key, source.etag, source.size, replay, bucket=source.bucket, modified=source.modified
    )
    with claim_file as claim:
        if claim is None:
            return None
        ingest = _FileIngest(
            s3, bucket, source, claim, kafka, replay=replay, control=control, after_chunk=after_chunk
        )
        try:
            report = ingest.run(chunk_rows, pace)
            ingest.publish(report)
        except Exception as error:
            if not stops_all_files(error):  # such an error isn't the file's: it needs no pause of its own
                claim.postpone(format_reason(error))
            raise
        claim.finish(report.tally, report.state, report.reason)
        return report


class _FileIngest:
    """The ingest of one claimed file."""

    def __init__(
        self, s3: S3Client, bucket: str, source: S3Object, claim: Claim, kafka: Producer, *,
        replay: str, control: FlowControl | None, after_chunk: Callable[[], None] | None,
    ) -> None:  # fmt: skip
        self._s3, self._bucket, self._source = s3, bucket, source
        self._data = source.source or own_source(s3, bucket)
        self._claim, self._kafka, self._after_chunk = claim, kafka, after_chunk
        self._replay, self._control, self._offsets = replay, control, OffsetRanges()
        self._letters = DeadLetters()
        self._tally = claim.entry.tally
        self._note: str | None = None

    def run(self, rows: int, pace: Pace | None) -> FileIngestReport:
        """Send the file in chunks of ``rows`` lines; returns its report. Raises errors that the file didn't cause."""
        state, reason = FileState.DONE, None
        try:
            self._send_lines(rows, pace)
            reason = self._note
        except Exception as error:
            vanished = not stops_all_files(error) and is_gone(
                self._data.client, self._data.bucket, self._source
            )
            if is_transient(error) and not vanished:
                raise
            state, reason = FileState.VANISHED if vanished else FileState.FAILED, format_reason(error)
            unexpected = None if isinstance(error, KintsugiError) else error
            log.error("%s ends as %s: %s", self._source.key, state, reason, exc_info=unexpected)
        return FileIngestReport(self._source.key, self._source.etag, state, self._tally, reason, self._replay)

    def _send_lines(self, rows: int, pace: Pace | None) -> None:
        """Send every line after the last recorded chunk, and record the progress chunk by chunk."""
        lines_done = self._tally.lines_done
        unacknowledged: Chunk | None = None
        key, etag = self._source.key, self._source.etag
        lines = read_lines(self._data.client, self._data.bucket, key, etag, note=self._add_note)
        for chunk in split_chunks(self._source, lines, rows, lines_done):
            chunk.letters = [letter for letter in chunk.letters if self._letters.add(letter)]
            if chunk.tally.lines_done > lines_done:  # else an earlier attempt sent it
                # Kafka acknowledges a chunk while the next one is read.
                self._await_acknowledged(unacknowledged)
                self._send_chunk(chunk, pace)
                unacknowledged = chunk
                if self._after_chunk is not None:
                    self._after_chunk()
        self._await_acknowledged(unacknowledged)
        if text := self._letters.note():
            self._add_note(text)

    def _add_note(self, text: str) -> None:
        self._note = f"{self._note}; {text}" if self._note else text
        log.warning("%s: %s", self._source.key, text)

    def _send_chunk(self, chunk: Chunk, pace: Pace | None) -> None:
        if chunk.messages:
            name = f"{IDENTITIES}{file_id(self._source.key, self._source.etag)}/{chunk.first:012d}"
            body = b"".join(message.identity for message in chunk.messages)
            self._s3.put_object(Bucket=self._bucket, Key=name, Body=body)
        for letter in chunk.letters:
            self._kafka.send(DEAD_LETTER_TOPIC, value=letter)
        for start in range(0, len(chunk.messages), PART_MESSAGES):
            part = chunk.messages[start : start + PART_MESSAGES]
            # Synthetic trades don't wait: otherwise a repair that waits for one would wait for the whole backlog.
            if self._control is not None and not is_synthetic(self._source.key):
                self._control.admit(self._source.key, len(part), self._after_chunk, self._kafka.flush)
            for message in part:
                if pace is not None:
                    pace(message.ts)
                self._kafka.send(
                    TOPIC, key=message.symbol.encode(), value=message.value, offsets=self._offsets
                )

    def _await_acknowledged(self, chunk: Chunk | None) -> None:
        if chunk is not None:
            self._kafka.flush()
            offsets = self._offsets.take()
            if self._control is not None:
                self._control.note_sent(self._source, self._replay, offsets)
            self._tally.add(chunk.tally)
            self._claim.progress(self._tally)

    def publish(self, report: FileIngestReport) -> None:
        """Write the dead letters and the manifest to S3; when repeated, it writes the same objects again."""
        self._letters.upload(self._s3, self._bucket, file_id(self._source.key, self._source.etag))
        manifest = {**report.to_dict(), "finished_at": datetime.now(UTC).isoformat()}
        self._s3.put_object(
            Bucket=self._bucket, Key=report.manifest, Body=json.dumps(manifest, indent=1).encode(),
            ContentType="application/json",
        )  # fmt: skip
