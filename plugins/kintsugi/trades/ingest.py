"""From S3 to Kafka: every row of a file becomes a message, or a dead letter with its reason.

Progress goes to the ledger only after Kafka acknowledged a chunk, so an interrupted file goes on at its
last chunk; what is sent twice by that has the same identity, and is one row for every reader.
"""

from __future__ import annotations

import base64
import json
import logging
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import IO, TYPE_CHECKING, Any

from kintsugi.errors import InputError, KintsugiError
from kintsugi.settings import BUCKET, DEAD_LETTER_TOPIC, TOPIC
from kintsugi.trades.files import BadLine, read_lines
from kintsugi.trades.ledger import Claim, Ledger, State, Tally, file_id
from kintsugi.trades.rows import Rejection, Trade, parse

if TYPE_CHECKING:
    from kafka import KafkaProducer
    from mypy_boto3_s3.client import S3Client

log = logging.getLogger(__name__)

PREFIX = "trades/"
NAME = "UnderlyingOptionsTradesCalcs_"
CHUNK_ROWS = 20_000
FLUSH_SECONDS = 120.0
REMEMBERED = 2_000_000


@dataclass(frozen=True, slots=True)
class S3Object:
    """A trade file in S3; ``etag`` as S3 gives it, with its quotes; ``size`` in bytes."""

    key: str
    etag: str
    size: int


@dataclass(frozen=True, slots=True)
class FileAccount:
    """How one file ended: the content of its manifest."""

    key: str
    etag: str
    state: State
    tally: Tally
    reason: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values: key, etag, state, reason and the counts."""
        return {
            "key": self.key,
            "etag": self.etag,
            "state": self.state,
            "reason": self.reason,
            **asdict(self.tally),
        }


def pending(s3: S3Client, ledger: Ledger, bucket: str = BUCKET, prefix: str = PREFIX) -> list[S3Object]:
    """The trade files that the ledger doesn't hold as finished, by key; interrupted ones among them.

    The same key with new content is another file. Objects that aren't named like trade files are ignored.
    """
    finished = ledger.finished()
    found = []
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        for item in page.get("Contents", []):
            key, etag = item["Key"], item["ETag"]
            if key.rpartition("/")[2].startswith(NAME) and (key, etag) not in finished:
                found.append(S3Object(key, etag, item["Size"]))
    return sorted(found, key=lambda item: item.key)


@contextmanager
def producer(bootstrap: list[str]) -> Iterator[KafkaProducer]:
    """An idempotent producer that waits for all in-sync replicas; closed at the end of the block."""
    from kafka import KafkaProducer
    from kafka.codec import has_lz4

    client = KafkaProducer(
        bootstrap_servers=bootstrap,
        acks="all",
        enable_idempotence=True,
        compression_type="lz4" if has_lz4() else "gzip",
        linger_ms=20,
        batch_size=256 * 1024,
        request_timeout_ms=10_000,
        delivery_timeout_ms=90_000,
        max_block_ms=60_000,
        reconnect_backoff_max_ms=1_000,
        metadata_max_age_ms=10_000,
    )
    try:
        yield client
    finally:
        client.close(timeout=10)


def ingest_object(
    s3: S3Client, source: S3Object, *, ledger: Ledger, kafka: KafkaProducer, bucket: str = BUCKET,
    chunk_rows: int = CHUNK_ROWS,
) -> FileAccount | None:  # fmt: skip
    """Bring one file into Kafka; returns its account, or None when another ingester has it or had it.

    An unusable file ends as failed, with the reason in the account, and raises nothing. Raises
    KintsugiError when Kafka doesn't acknowledge, and whatever S3 and Postgres raise: call again, and it
    goes on after the last acknowledged chunk.
    """
    with ledger.claim(source.key, source.etag, source.size) as claim:
        if claim is None:
            return None
        run = _Run(s3, bucket, source, claim, kafka, chunk_rows)
        try:
            run.all_lines()
            account = FileAccount(source.key, source.etag, State.DONE, run.tally)
        except InputError as error:
            log.error("%s", error)
            account = FileAccount(source.key, source.etag, State.FAILED, run.tally, str(error))
        run.publish(account)
        claim.finish(account.tally, account.state, account.reason)
        return account


def ingest_pending(
    s3: S3Client, ledger: Ledger, bootstrap: list[str], *,
    bucket: str = BUCKET, idle: float = 0.0, at_most: float = 60.0,
) -> list[FileAccount]:  # fmt: skip
    """Ingest every pending file, by key; returns the accounts of those that this call finished.

    With ``idle`` it stays that many seconds after the last file, for a steady feed's next one, but begins
    no new round after
    ``at_most`` seconds.
    """
    started = last = time.monotonic()
    accounts: list[FileAccount] = []
    with producer(bootstrap) as kafka:
        while True:
            files = pending(s3, ledger, bucket)
            for item in files:
                account = ingest_object(s3, item, ledger=ledger, kafka=kafka, bucket=bucket)
                if account is not None:
                    accounts.append(account)
                    last = time.monotonic()
            now = time.monotonic()
            if now - last >= idle or now - started >= at_most:
                return accounts
            time.sleep(0.3)


class Recent:
    """Remembers identities in bounded memory: at least the last ``limit`` of them, at most twice as many.

    A file's duplicates lie close together (overlapping parts); one that is farther apart is produced a
    second time, which every reader sees as the same row.
    """

    def __init__(self, limit: int = REMEMBERED) -> None:
        self._limit = limit
        self._new: set[int] = set()
        self._old: set[int] = set()

    def seen(self, identity: str) -> bool:
        """Whether it was asked for before; remembers it."""
        number = int(identity, 16)
        if number in self._new or number in self._old:
            return True
        self._new.add(number)
        if len(self._new) >= self._limit:
            self._old, self._new = self._new, set()
        return False


class _Run:
    """The work on one claimed file."""

    def __init__(
        self, s3: S3Client, bucket: str, source: S3Object, claim: Claim, kafka: KafkaProducer, chunk_rows: int
    ) -> None:
        self._s3, self._bucket, self._source = s3, bucket, source
        self._claim, self._kafka, self._chunk_rows = claim, kafka, chunk_rows
        self._resume_at = claim.entry.tally.lines_done
        self._letters: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed by publish
        self._letter_count = 0
        self._errors: list[BaseException] = []
        self._recent = Recent()
        self.tally = claim.entry.tally

    def all_lines(self) -> None:
        """Send every line after the last recorded chunk, and record progress chunk by chunk."""
        waiting = 0
        lines = read_lines(self._s3, self._bucket, self._source.key, self._source.etag)
        for number, line in lines:
            self._one(number, line, counted=number > self._resume_at)
            if number > self._resume_at:
                self.tally.lines_done = number
                waiting += 1
                if waiting >= self._chunk_rows:
                    self._acknowledged()
                    self._claim.progress(self.tally)
                    waiting = 0
        self._acknowledged()

    def _one(self, number: int, line: str | BadLine, counted: bool) -> None:
        """One line: counted and sent, or (before the resume point) only remembered."""
        trade = line.rejection if isinstance(line, BadLine) else parse(line)
        tally = self.tally
        if isinstance(trade, Trade):
            seen = self._recent.seen(trade.trade_id)
            if counted:
                tally.read += 1
                tally.accepted += 1
                if seen:
                    tally.duplicates += 1
                else:
                    self._send(trade)
                    tally.produced += 1
            return
        letter = _letter(self._source, number, line, trade)
        self._letters.write(letter + b"\n")
        self._letter_count += 1
        if counted:
            tally.read += 1
            tally.reject(trade.reason.value)
            self._kafka.send(DEAD_LETTER_TOPIC, value=letter).add_errback(self._errors.append)

    def _send(self, trade: Trade) -> None:
        import orjson

        future = self._kafka.send(TOPIC, key=trade.symbol.encode(), value=orjson.dumps(trade))
        future.add_errback(self._errors.append)

    def _acknowledged(self) -> None:
        """Wait until Kafka has acknowledged everything that was sent; raises KintsugiError if it hasn't."""
        from kafka.errors import KafkaError

        try:
            self._kafka.flush(timeout=FLUSH_SECONDS)
        except KafkaError as error:
            self._errors.append(error)
        if self._errors:
            raise KintsugiError(
                f"Kafka did not acknowledge rows of {self._source.key}: {self._errors[0]!r}; "
                "the file goes on from its last chunk when it is ingested again"
            )

    def publish(self, account: FileAccount) -> None:
        """Write the dead letters and the manifest to S3; the same run writes the same objects again."""
        name = file_id(self._source.key, self._source.etag)
        with self._letters:
            if self._letter_count:
                self._letters.seek(0)
                self._s3.upload_fileobj(self._letters, self._bucket, f"dead-letter/{name}.jsonl")
        manifest = {**account.to_dict(), "finished_at": datetime.now(UTC).isoformat()}
        body = json.dumps(manifest, indent=1).encode()
        self._s3.put_object(
            Bucket=self._bucket, Key=f"manifests/{name}.json", Body=body, ContentType="application/json"
        )


def _letter(source: S3Object, number: int, line: str | BadLine, why: Rejection) -> bytes:
    """A dead letter: file, ETag, line, reason, its text, and the raw line (base64 when it isn't UTF-8)."""
    raw = (
        {"raw_base64": base64.b64encode(line.raw).decode()}
        if isinstance(line, BadLine)
        else {"raw": line[:8192]}
    )
    letter = {
        "file": source.key,
        "etag": source.etag,
        "line": number,
        "reason": why.reason,
        "text": why.text,
        **raw,
    }
    return json.dumps(letter).encode()


def totals(accounts: Iterable[FileAccount]) -> dict[str, Any]:
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
        result["failed"] += account.state is State.FAILED
        for name in ("read", "accepted", "duplicates", "produced"):
            result[name] += getattr(account.tally, name)
        for reason, count in account.tally.rejected.items():
            rejected[reason] = rejected.get(reason, 0) + count
    return {**result, "rejected": rejected}


def sum_up(accounts: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """`totals` of accounts in their plain form (`FileAccount.to_dict`)."""
    return totals(_from_dict(account) for account in accounts)


def check_manifest(s3: S3Client, account: dict[str, Any], bucket: str = BUCKET) -> None:
    """Compare an account with the manifest that S3 holds of it, and its counts with each other.

    Raises KintsugiError that names the file and the count when they differ.
    """
    key = f"manifests/{file_id(account['key'], account['etag'])}.json"
    manifest = json.loads(s3.get_object(Bucket=bucket, Key=key)["Body"].read())
    for name, value in account.items():
        if manifest.get(name) != value:
            raise KintsugiError(
                f"{account['key']}: the manifest {key} says {name} {manifest.get(name)!r}, "
                f"the ingest says {value!r}; was the file ingested twice at once?"
            )
    rejected = sum(account["rejected"].values())
    sums = account["read"] == account["accepted"] + rejected
    if account["state"] == State.DONE and not (
        sums and account["produced"] == account["accepted"] - account["duplicates"]
    ):
        raise KintsugiError(f"{account['key']}: the counts don't add up: {account}")


def _from_dict(account: dict[str, Any]) -> FileAccount:
    counts = {name: account[name] for name in Tally.__dataclass_fields__}
    return FileAccount(
        account["key"], account["etag"], State(account["state"]), Tally(**counts), account["reason"]
    )
