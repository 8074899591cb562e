"""From S3 to Kafka: every row of a file becomes a message, or a dead letter with its reason.

A file goes in chunk by chunk. A chunk's identities are written to S3 before its first message is sent, so
that whatever may be in Cassandra is on record even when the file is replaced later; its progress goes to
the ledger after Kafka acknowledged it. So an interrupted file goes on at its last chunk; what is sent twice
by that has the same identity, and is one row for every reader.

No file holds up another:

1. Whatever its content raises, foreseen or not, ends the file as failed with that reason; the next file comes.
2. When S3 fails for a file, or the machine does, the file is postponed (`Claim.postpone`); the next file comes.
3. When Kafka or Postgres fails, no file could be ingested: the error is raised, and the task is tried again.
4. Synthetic trades go first, and between two chunks of a long file.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from kintsugi.core.data_source import DataSource, own_source
from kintsugi.core.errors import KintsugiError
from kintsugi.core.settings import BUCKET, DEAD_LETTER_TOPIC, TOPIC
from kintsugi.db.ingest_ledger import Claim, IngestLedger
from kintsugi.db.ledger_entry import FileState, Tally, file_id
from kintsugi.pipeline.failures import has_vanished, is_transient, reason_of, stops_all
from kintsugi.pipeline.ingest.dead_letters import DeadLetters, dead_letter
from kintsugi.pipeline.ingest.file_reader import BadLine, raw_bytes, read_lines
from kintsugi.pipeline.kafka_producer import Places, Producer, producer
from kintsugi.pipeline.object_listing import PendingFileScanner, S3Object, listed, unfinished
from kintsugi.pipeline.row_parser import Rejection, TradeMessage, message
from kintsugi.pipeline.synthetic_trade import PREFIX as SYNTHETIC_PREFIX

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

    from kintsugi.pipeline.ingest.flow_control import FlowControl

log = logging.getLogger(__name__)

CHUNK_ROWS = 20_000
POLL_S = 0.5
PART_MESSAGES = 5_000  # that are sent before there is asked for room again
REMEMBERED = 200_000
LETTER_BYTES = 8 << 20  # of dead letters end a chunk as well
IDENTITIES = "identities/"
MANIFESTS = "manifests/"
SYNTHETIC_EVERY_S = 1.0


@dataclass(frozen=True, slots=True)
class FileIngestReport:
    """How one file ended: the content of its manifest.

    ``reason``: why it failed, or what of a file that is done was left out. ``replay``: of which replay; empty
    for the ingest.
    """

    key: str
    etag: str
    state: FileState
    tally: Tally
    reason: str | None = None
    replay: str = ""

    @property
    def manifest(self) -> str:
        """The key of its manifest in S3."""
        folder = f"{MANIFESTS}replay/{self.replay}/" if self.replay else MANIFESTS
        return f"{folder}{file_id(self.key, self.etag)}.json"

    def to_dict(self) -> dict[str, Any]:
        """Plain values: key, etag, state, reason, replay and the counts."""
        return {
            "key": self.key,
            "etag": self.etag,
            "state": self.state,
            "reason": self.reason,
            "replay": self.replay,
            **asdict(self.tally),
        }


@dataclass(slots=True)
class Chunk:
    """Consecutive lines of a file: what they become, and their count.

    ``first``: the number of the first line; ``tally.lines_done`` is that of the last. ``letters``: dead
    letters, JSON.
    """

    first: int
    tally: Tally = field(default_factory=Tally)
    messages: list[TradeMessage] = field(default_factory=list)
    letters: list[bytes] = field(default_factory=list)


def chunks(
    source: S3Object, lines: Iterable[tuple[int, str | BadLine]], rows: int, border: int = 0
) -> Iterator[Chunk]:
    """Numbered lines → chunks of at most ``rows`` lines; one ends at the line ``border`` in any case.

    A row that has the identity of one before it is counted as a duplicate and makes no message. A chunk also ends
    when its dead letters are many, so that memory is bounded.
    """
    recent = Recent()
    chunk: Chunk | None = None
    letter_bytes = 0
    for number, line in lines:
        if chunk is None:
            chunk, letter_bytes = Chunk(number), 0
        tally = chunk.tally
        tally.read += 1
        tally.lines_done = number
        found = line.rejection if isinstance(line, BadLine) else message(line)
        if isinstance(found, Rejection):
            tally.reject(found.reason.value)
            raw = line.raw if isinstance(line, BadLine) else raw_bytes(line)
            chunk.letters.append(dead_letter(source.key, source.etag, number, raw, found))
            letter_bytes += len(chunk.letters[-1])
        else:
            tally.accepted += 1
            if recent.seen(found.identity):
                tally.duplicates += 1
            else:
                tally.produced += 1
                chunk.messages.append(found)
        if tally.read >= rows or number == border or letter_bytes >= LETTER_BYTES:
            yield chunk
            chunk = None
    if chunk is not None:
        yield chunk


Pace = Callable[[int], None]


def ingest_object(
    s3: S3Client, source: S3Object, *, ledger: IngestLedger, kafka: Producer, bucket: str = BUCKET,
    chunk_rows: int = CHUNK_ROWS, replay: str = "", pace: Pace | None = None, control: FlowControl | None = None,
    between: Callable[[], None] | None = None,
) -> FileIngestReport | None:  # fmt: skip
    """Bring one file into Kafka; returns its account, or None when another ingester has it or it doesn't wait.

    ``s3``, ``bucket``: where identities, dead letters and the manifest are written; the file itself is read from its
    own source. ``replay``: the name of a replay, which takes the file whether or not it was ingested. ``pace``: called
    with the time (milliseconds since 1970 UTC) of each trade before it is sent. ``control``: the back-pressure; without
    it nothing is held back. ``between``: called after each chunk, and while the back-pressure holds one back.
    An unusable file ends as failed, with the reason in the account, and raises nothing. Raises NotAcknowledged when
    Kafka doesn't acknowledge, and whatever S3 and Postgres raise: the file is postponed, and goes on after the last
    acknowledged chunk when this is called again.
    """
    claimed = ledger.claim(
        source.key, source.etag, source.size, replay, bucket=source.bucket, modified=source.modified
    )
    with claimed as claim:
        if claim is None:
            return None
        run = _Run(s3, bucket, source, claim, kafka, replay=replay, control=control, between=between)
        try:
            account = run.account(chunk_rows, pace)
            run.publish(account)
        except Exception as error:
            if not stops_all(error):  # then every file waits for the same, and none for itself
                claim.postpone(reason_of(error))
            raise
        claim.finish(account.tally, account.state, account.reason)
        return account


def ingest_pending(
    s3: S3Client, ledger: IngestLedger, bootstrap: list[str], *,
    bucket: str = BUCKET, sources: Sequence[DataSource] | None = None, idle: float = 0.0, at_most: float = 60.0,
    control: FlowControl | None = None,
) -> list[FileIngestReport]:  # fmt: skip
    """Ingest every pending file, synthetic trades first, then by key; returns the accounts of those that it finished.

    ``sources``: where files are read from; default: ``bucket``. With ``idle`` it stays that many seconds after the last
    file, for a steady feed's next one, but begins no new round after ``at_most`` seconds. ``control``: the
    back-pressure. Raises what stops all files: what Kafka and Postgres raise, and S3 when it can't be listed.
    """
    started = last = time.monotonic()
    accounts: list[FileIngestReport] = []
    lookout = PendingFileScanner(sources or (own_source(s3, bucket),), ledger)
    with producer(bootstrap) as kafka:
        synthetic = _SyntheticTrades(s3, ledger, kafka, bucket)
        while True:
            for item in sorted(lookout.pending(), key=lambda item: not is_synthetic(item.key)):
                account = _ingest_or_postpone(s3, item, ledger, kafka, bucket, synthetic, control)
                if account is not None:
                    accounts.append(account)
                    last = time.monotonic()
            now = time.monotonic()
            if now - last >= idle or now - started >= at_most:
                return [*accounts, *synthetic.accounts]
            time.sleep(POLL_S)


def is_synthetic(key: str) -> bool:
    """Whether the file holds a synthetic trade."""
    return key.startswith(SYNTHETIC_PREFIX)


def _ingest_or_postpone(
    s3: S3Client,
    item: S3Object,
    ledger: IngestLedger,
    kafka: Producer,
    bucket: str,
    between: Callable[[], None] | None = None,
    control: FlowControl | None = None,
) -> FileIngestReport | None:
    """One file of several; None when it was postponed. Raises only what stops all of them."""
    try:
        return ingest_object(
            s3, item, ledger=ledger, kafka=kafka, bucket=bucket, between=between, control=control
        )
    except Exception as error:
        if stops_all(error) or not is_transient(error):
            raise
        log.warning("%s is postponed: %s", item.key, reason_of(error))
        return None


class _SyntheticTrades:
    """Takes in the synthetic trades that came while a long file is ingested; called between its chunks.

    Their keys begin with day and time, so only what comes after the last one is listed.
    """

    def __init__(self, s3: S3Client, ledger: IngestLedger, kafka: Producer, bucket: str) -> None:
        self._s3, self._ledger, self._kafka, self._bucket = s3, ledger, kafka, bucket
        self._after: str | None = None
        self._due = 0.0
        self.accounts: list[FileIngestReport] = []

    def __call__(self) -> None:
        """Look, at most once a second; an S3 that can't be listed is left to the next look."""
        if time.monotonic() < self._due:
            return
        self._due = time.monotonic() + SYNTHETIC_EVERY_S
        try:
            found = listed(self._s3, self._bucket, SYNTHETIC_PREFIX, self._after or "")
            waiting = unfinished(found, self._ledger)
        except Exception as error:
            if stops_all(error) or not is_transient(error):
                raise
            return
        for item in waiting:
            account = _ingest_or_postpone(self._s3, item, self._ledger, self._kafka, self._bucket)
            if account is not None:
                self.accounts.append(account)
        if found:
            self._after = found[-1].key


class Recent:
    """Remembers identities in bounded memory: at least the last ``limit`` of them, at most twice as many.

    A file's duplicates lie close together (overlapping parts); one that is farther apart is produced a
    second time, which every reader sees as the same row.
    """

    def __init__(self, limit: int = REMEMBERED) -> None:
        self._limit = limit
        self._new: set[bytes] = set()
        self._old: set[bytes] = set()

    def seen(self, identity: bytes) -> bool:
        """Whether it was asked for before; remembers it."""
        if identity in self._new or identity in self._old:
            return True
        self._new.add(identity)
        if len(self._new) >= self._limit:
            self._old, self._new = self._new, set()
        return False


class _Run:
    """The work on one claimed file."""

    def __init__(
        self, s3: S3Client, bucket: str, source: S3Object, claim: Claim, kafka: Producer, *,
        replay: str, control: FlowControl | None, between: Callable[[], None] | None,
    ) -> None:  # fmt: skip
        self._s3, self._bucket, self._source = s3, bucket, source
        self._data = source.source or own_source(s3, bucket)
        self._claim, self._kafka, self._between = claim, kafka, between
        self._replay, self._control, self._places = replay, control, Places()
        self._letters = DeadLetters()
        self.tally = claim.entry.tally
        self.note: str | None = None

    def account(self, rows: int, pace: Pace | None) -> FileIngestReport:
        """Ingest the file; returns how it ended. Raises what isn't the file's fault."""
        state, reason = FileState.DONE, None
        try:
            self.all_lines(rows, pace)
            reason = self.note
        except Exception as error:
            vanished = not stops_all(error) and self._has_vanished()
            if is_transient(error) and not vanished:
                raise
            state, reason = FileState.VANISHED if vanished else FileState.FAILED, reason_of(error)
            log.error("%s ends as %s: %s", self._source.key, state, reason, exc_info=_if_unforeseen(error))
        return FileIngestReport(self._source.key, self._source.etag, state, self.tally, reason, self._replay)

    def _has_vanished(self) -> bool:
        return has_vanished(self._data.client, self._data.bucket, self._source)

    def all_lines(self, rows: int, pace: Pace | None) -> None:
        """Send every line after the last recorded chunk, and record progress chunk by chunk."""
        done = self.tally.lines_done
        sent: Chunk | None = None
        key, etag = self._source.key, self._source.etag
        lines = read_lines(self._data.client, self._data.bucket, key, etag, note=self._noted)
        for chunk in chunks(self._source, lines, rows, done):
            chunk.letters = [letter for letter in chunk.letters if self._letters.add(letter)]
            if chunk.tally.lines_done > done:  # else it was sent by an earlier attempt
                self._acknowledged(sent)  # while Kafka took it, this chunk was read
                self._send(chunk, pace)
                sent = chunk
                if self._between is not None:
                    self._between()
        self._acknowledged(sent)
        if text := self._letters.note():
            self._noted(text)

    def _noted(self, text: str) -> None:
        self.note = f"{self.note}; {text}" if self.note else text
        log.warning("%s: %s", self._source.key, text)

    def _send(self, chunk: Chunk, pace: Pace | None) -> None:
        if chunk.messages:
            name = f"{IDENTITIES}{file_id(self._source.key, self._source.etag)}/{chunk.first:012d}"
            body = b"".join(item.identity for item in chunk.messages)
            self._s3.put_object(Bucket=self._bucket, Key=name, Body=body)
        for letter in chunk.letters:
            self._kafka.send(DEAD_LETTER_TOPIC, value=letter)
        for start in range(0, len(chunk.messages), PART_MESSAGES):
            part = chunk.messages[start : start + PART_MESSAGES]
            # A synthetic trade is never held back: a repair that waits for one would wait for the whole backlog.
            if self._control is not None and not is_synthetic(self._source.key):
                self._control.admit(self._source.key, len(part), self._between)
            for item in part:
                if pace is not None:
                    pace(item.ts)
                self._kafka.send(TOPIC, key=item.symbol.encode(), value=item.value, places=self._places)

    def _acknowledged(self, chunk: Chunk | None) -> None:
        if chunk is not None:
            self._kafka.flush()
            places = self._places.take()
            if self._control is not None:
                self._control.note_sent(self._source, self._replay, places)
            self.tally.add(chunk.tally)
            self._claim.progress(self.tally)

    def publish(self, account: FileIngestReport) -> None:
        """Write the dead letters and the manifest to S3; the same run writes the same objects again."""
        name = file_id(self._source.key, self._source.etag)
        self._letters.upload(self._s3, self._bucket, name)
        manifest = {**account.to_dict(), "finished_at": datetime.now(UTC).isoformat()}
        body = json.dumps(manifest, indent=1).encode()
        self._s3.put_object(
            Bucket=self._bucket, Key=account.manifest, Body=body, ContentType="application/json"
        )


def _if_unforeseen(error: Exception) -> Exception | None:
    return None if isinstance(error, KintsugiError) else error


def totals(accounts: Iterable[FileIngestReport]) -> dict[str, Any]:
    """The sums over several files: files, failed, and the counts of a Tally."""
    result: dict[str, Any] = {
        "files": 0,
        "failed": 0,
        "read": 0,
        "accepted": 0,
        "duplicates": 0,
        "produced": 0,
    }
    rejected: dict[str, int] = {}
    for account in accounts:
        result["files"] += 1
        result["failed"] += account.state is FileState.FAILED
        for name in ("read", "accepted", "duplicates", "produced"):
            result[name] += getattr(account.tally, name)
        for reason, count in account.tally.rejected.items():
            rejected[reason] = rejected.get(reason, 0) + count
    return {**result, "rejected": rejected}


def sum_up(accounts: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """`totals` of accounts in their plain form (`FileIngestReport.to_dict`)."""
    return totals(_from_dict(account) for account in accounts)


def check_manifest(s3: S3Client, account: dict[str, Any], bucket: str = BUCKET) -> None:
    """Compare an account with the manifest that S3 holds of it, and its counts with each other.

    Raises KintsugiError that names the file and the count when they differ.
    """
    key = _from_dict(account).manifest
    manifest = json.loads(s3.get_object(Bucket=bucket, Key=key)["Body"].read())
    for name, value in account.items():
        if manifest.get(name) != value:
            raise KintsugiError(
                f"{account['key']}: the manifest {key} says {name} {manifest.get(name)!r}, "
                f"the ingest says {value!r}; was the file ingested twice at once?"
            )
    rejected = sum(account["rejected"].values())
    sums = account["read"] == account["accepted"] + rejected
    if account["state"] == FileState.DONE and not (
        sums and account["produced"] == account["accepted"] - account["duplicates"]
    ):
        raise KintsugiError(f"{account['key']}: the counts don't add up: {account}")


def _from_dict(account: dict[str, Any]) -> FileIngestReport:
    counts = {name: account[name] for name in Tally.__dataclass_fields__}
    return FileIngestReport(
        account["key"],
        account["etag"],
        FileState(account["state"]),
        Tally(**counts),
        account["reason"],
        account.get("replay", ""),
    )
