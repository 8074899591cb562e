"""The account: every trade in the files of S3 against every row in Cassandra, by identity and by content.

1. Read the files again, recompute identities; remember a fingerprint of the columns of each trade.
2. Read every partition that has or should have rows, at LOCAL_QUORUM; compare.
3. ``lost``: in a file, not in Cassandra. ``extra``: in Cassandra, in no file. ``doubled``: one identity
   in two rows. ``altered``: the same identity with other columns.

Canaries are left out. All identities are held in memory: about 150 bytes a trade.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from kintsugi.errors import InputError
from kintsugi.fleet import Role
from kintsugi.settings import BUCKET, KAFKA_PORT, KEYSPACE, TOPIC, Settings
from kintsugi.trades.canary import PREFIX as CANARY_PREFIX
from kintsugi.trades.files import BadLine, read_lines
from kintsugi.trades.identity import CANARY_SYMBOL
from kintsugi.trades.ingest import NAME, PREFIX
from kintsugi.trades.ledger import Ledger, State
from kintsugi.trades.rows import Rejection, Trade, parse

if TYPE_CHECKING:
    from cassandra.cluster import Session
    from mypy_boto3_s3.client import S3Client

NAMED = 100  # identities that an account lists by name at most
READERS = 16
COMPARED = (
    "symbol", "ts", "trade_id", "sequence", "root", "expiration", "strike", "option_type", "exchange",
    "size", "price",
    "condition", "canceled_condition", "bid", "ask", "iv", "delta", "underlying_bid", "underlying_ask",
    "exchanges",
)  # fmt: skip

Partition = tuple[str, str, int]


@dataclass(slots=True)
class Account:
    """What became of the trades.

    Counts are rows of files, but ``in_kafka`` and ``stored`` are distinct identities.
    ``read`` = ``accepted`` + rejected; ``duplicates``: accepted rows whose identity another row has.
    ``produced``: messages that the ledger says were acknowledged. ``in_kafka``: None when it wasn't asked
    for. ``lost``, ``extra`` and ``altered`` name up to 100 identities; their counts are exact.
    """

    files: int = 0
    read: int = 0
    accepted: int = 0
    rejected: dict[str, int] = field(default_factory=dict)
    duplicates: int = 0
    produced: int = 0
    in_kafka: int | None = None
    stored: int = 0
    lost_count: int = 0
    extra_count: int = 0
    altered_count: int = 0
    doubled: int = 0
    lost: list[str] = field(default_factory=list)
    extra: list[str] = field(default_factory=list)
    altered: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def complete(self) -> bool:
        """Every accepted trade is stored once, as it was delivered, and nothing else is."""
        return not (self.lost_count or self.extra_count or self.altered_count or self.doubled)

    @property
    def balanced(self) -> bool:
        """The same as ``complete``, in the words of a bookkeeper."""
        return self.complete

    def to_json(self) -> dict[str, Any]:
        """Plain values, fit for ``json.dumps``.

        ``rejected``, ``lost``, ``extra``, ``altered`` are numbers here; beside them
        ``rejected_by_reason`` and the named identities as ``lost_trades``, ``extra_trades``,
        ``altered_trades``; and ``complete``.
        """
        plain = asdict(self)
        for name in ("lost", "extra", "altered"):
            plain[f"{name}_trades"] = plain[name]
            plain[name] = plain.pop(f"{name}_count")
        plain["rejected_by_reason"] = self.rejected
        plain["rejected"] = sum(self.rejected.values())
        return {**plain, "complete": self.complete}

    def __str__(self) -> str:
        return (
            f"{self.files} files: read {self.read}, accepted {self.accepted}, "
            f"rejected {sum(self.rejected.values())}, duplicates {self.duplicates}, "
            f"produced {self.produced}, stored {self.stored}; "
            f"lost {self.lost_count}, extra {self.extra_count}, altered {self.altered_count}, "
            f"doubled {self.doubled}"
        )


def reconcile(settings: Settings, *, until: float | None = None, kafka: bool = True) -> Account:
    """The account of this installation: all its trade files, its topic (if ``kafka``), its tables.

    ``until``: seconds to wait for trades that are still under way. Raises KintsugiError when Cassandra or
    Postgres can't be reached, and whatever S3 and Kafka raise.
    """
    from kintsugi.connections import s3_client, store_dsn
    from kintsugi.trades.cassandra import connected

    fleet = settings.fleet
    with connected([node.address for node in fleet.of(Role.CASSANDRA)]) as session:
        return take_account(
            s3_client(settings), session, Ledger(store_dsn(settings)), until=until,
            bootstrap=fleet.endpoints(Role.KAFKA, KAFKA_PORT) if kafka else None,
        )  # fmt: skip


def reconcile_when_quiet(settings: Settings, deadline_s: float = 120.0) -> Account:
    """Wait until every file is ingested and the stream has no lag; then `reconcile`.

    Waits at most ``deadline_s`` seconds. When the deadline passes, the account is taken all the same: it
    says what is missing.
    """
    from kintsugi.trades.flow import snapshot

    deadline = time.monotonic() + deadline_s
    while time.monotonic() < deadline:
        now = snapshot(settings)
        if now.lag == 0 and not now.pending:
            break
        time.sleep(1)
    return reconcile(settings, until=max(5.0, deadline - time.monotonic()))


def take_account(
    s3: S3Client, session: Session, ledger: Ledger | None = None, *, bucket: str = BUCKET,
    prefix: str = PREFIX,
    bootstrap: list[str] | None = None, until: float | None = None, only_done: bool = False,
) -> Account:  # fmt: skip
    """The account of all trade files below ``prefix``.

    ``ledger``: for ``produced``. ``bootstrap``: read the topic as well, for ``in_kafka`` (as far as its
    retention goes).
    ``until``: seconds to wait for trades that are still under way; whatever is missing then is lost.
    ``only_done``: count only files that the ledger holds as done (while a feed runs). Raises what S3,
    Postgres and Cassandra raise: an account that couldn't be taken is no account.
    """
    started = time.monotonic()
    account = Account()
    expected = _expected(s3, bucket, prefix, account, _done(ledger) if only_done else None)
    if ledger is not None:
        entries = [e for e in ledger.entries(prefix) if not e.key.startswith(CANARY_PREFIX)]
        account.produced = sum(entry.tally.produced for entry in entries)
    missing, partitions = _compare(session, expected, account, only_done)
    deadline = started + (until or 0)
    while missing and time.monotonic() < deadline:
        time.sleep(0.5)
        missing = _still_missing(session, expected, missing, partitions, account)
    account.lost_count = len(missing)
    account.lost = sorted(identity.hex() for identity in missing)[:NAMED]
    if bootstrap:
        account.in_kafka = len(identities_in_kafka(bootstrap))
    account.seconds = round(time.monotonic() - started, 3)
    return account


def _done(ledger: Ledger | None) -> set[tuple[str, str]]:
    return {(e.key, e.etag) for e in ledger.entries(PREFIX) if e.state is State.DONE} if ledger else set()


@dataclass(slots=True)
class _Expected:
    """By identity: the fingerprint of its columns, and the partition it belongs into."""

    fingerprint: dict[bytes, int] = field(default_factory=dict)
    partition: dict[bytes, Partition] = field(default_factory=dict)


def _expected(
    s3: S3Client, bucket: str, prefix: str, account: Account, done: set[tuple[str, str]] | None
) -> _Expected:
    expected = _Expected()
    partitions: dict[Partition, Partition] = {}  # one tuple a partition, not one a trade
    for key, etag in _objects(s3, bucket, prefix):
        if done is not None and (key, etag) not in done:
            continue
        account.files += 1
        try:
            for trade in _trades(s3, bucket, key, etag, account):
                identity = bytes.fromhex(trade.trade_id)
                if identity in expected.fingerprint:
                    account.duplicates += 1
                    continue
                expected.fingerprint[identity] = fingerprint(trade)
                where = (trade.symbol, trade.trade_date, trade.slot)
                expected.partition[identity] = partitions.setdefault(where, where)
        except InputError as error:
            account.unreadable.append(str(error))
    return expected


def _objects(s3: S3Client, bucket: str, prefix: str) -> Iterator[tuple[str, str]]:
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        for item in page.get("Contents", []):
            key = item["Key"]
            if key.rpartition("/")[2].startswith(NAME) and not key.startswith(CANARY_PREFIX):
                yield key, item["ETag"]


def _trades(s3: S3Client, bucket: str, key: str, etag: str, account: Account) -> Iterator[Trade]:
    for _, line in read_lines(s3, bucket, key, etag):
        account.read += 1
        trade = line.rejection if isinstance(line, BadLine) else parse(line)
        if isinstance(trade, Rejection):
            reason = trade.reason.value
            account.rejected[reason] = account.rejected.get(reason, 0) + 1
        else:
            account.accepted += 1
            yield trade


def fingerprint(trade: Trade) -> int:
    """A hash of every delivered column; in this process that of the stored row is the same."""
    return hash(
        (
            trade.symbol, trade.ts, trade.sequence, trade.root, trade.expiration, trade.strike,
            trade.option_type,
            trade.exchange, trade.size, trade.price, trade.condition, trade.canceled_condition,
            trade.bid, trade.ask,
            trade.iv, trade.delta, trade.underlying_bid, trade.underlying_ask, trade.exchanges,
        )
    )  # fmt: skip


def _row_fingerprint(row: Any) -> int:
    # The driver's datetime has no zone and is UTC; timestamps beyond milliseconds don't exist in Cassandra.
    ts = (row.ts.toordinal() - 719_163) * 86_400_000
    ts += ((row.ts.hour * 60 + row.ts.minute) * 60 + row.ts.second) * 1000 + row.ts.microsecond // 1000
    return hash(
        (
            row.symbol, ts, row.sequence, row.root, str(row.expiration), row.strike, row.option_type,
            row.exchange,
            row.size, row.price, row.condition, row.canceled_condition, row.bid, row.ask, row.iv, row.delta,
            row.underlying_bid, row.underlying_ask, row.exchanges,
        )
    )  # fmt: skip


def _compare(
    session: Session, expected: _Expected, account: Account, only_done: bool
) -> tuple[set[bytes], set[Partition]]:
    """Read every partition, fill in the account, and return what is missing."""
    wanted = set(expected.partition.values())
    partitions = wanted if only_done else wanted | _partitions(session)
    missing = set(expected.fingerprint)
    seen: set[bytes] = set()
    extra: list[str] = []
    altered: list[str] = []
    for rows in read_partitions(session, partitions):
        for row in rows:
            identity = bytes(row.trade_id)
            if identity in seen:
                account.doubled += 1
                continue
            seen.add(identity)
            known = expected.fingerprint.get(identity)
            if known is None:
                extra.append(identity.hex())
            elif known != _row_fingerprint(row):
                altered.append(identity.hex())
    missing -= seen
    account.stored = len(seen)
    if not only_done:  # a running feed stores trades of files that aren't counted
        account.extra_count, account.extra = len(extra), sorted(extra)[:NAMED]
    account.altered_count, account.altered = len(altered), sorted(altered)[:NAMED]
    return missing, partitions


def _still_missing(
    session: Session, expected: _Expected, missing: set[bytes], partitions: set[Partition], account: Account
) -> set[bytes]:
    """Read only the partitions that lack a trade again."""
    again = {expected.partition[identity] for identity in missing}
    found = set()
    for rows in read_partitions(session, again):
        for row in rows:
            identity = bytes(row.trade_id)
            if identity in missing:
                found.add(identity)
                if expected.fingerprint[identity] != _row_fingerprint(row):
                    account.altered_count += 1
                    account.altered.append(identity.hex())
    account.stored += len(found)
    return missing - found


def _partitions(session: Session) -> set[Partition]:
    """Every partition that has rows, but the canaries'."""
    rows = session.execute(f"SELECT DISTINCT symbol, trade_date, slot FROM {KEYSPACE}.trade", timeout=60)
    return {(row.symbol, str(row.trade_date), row.slot) for row in rows if row.symbol != CANARY_SYMBOL}


def read_partitions(session: Session, partitions: Iterable[Partition]) -> Iterator[Iterable[Any]]:
    """The rows of each partition at LOCAL_QUORUM, several read at a time; a failed read is tried again."""
    from collections import deque

    statement = session.prepare(
        f"SELECT {', '.join(COMPARED)} FROM {KEYSPACE}.trade WHERE symbol = ? AND trade_date = ? AND slot = ?"
    )
    # Not marked idempotent, so that the driver doesn't speculate: the late answer of a second attempt would be taken
    # for the next page, and a page counted twice (seen as 5,000 trades "doubled" that stood in Cassandra once).
    # `_rows` repeats a failed read itself.
    statement.is_idempotent = False
    waiting: deque[tuple[Partition, Any]] = deque()
    for partition in sorted(partitions):
        if len(waiting) >= READERS:
            yield _rows(session, statement, *waiting.popleft())
        waiting.append((partition, session.execute_async(statement, partition)))
    while waiting:
        yield _rows(session, statement, *waiting.popleft())


def _rows(
    session: Session, statement: Any, partition: Partition, future: Any, attempts: int = 5
) -> list[Any]:
    from cassandra import DriverException
    from cassandra.cluster import NoHostAvailable

    for attempt in range(attempts):
        try:
            return list(future.result())
        except (DriverException, NoHostAvailable):
            if attempt == attempts - 1:
                raise
            time.sleep(0.5 * 2**attempt)
            future = session.execute_async(statement, partition)
    raise AssertionError("unreachable")


def identities_in_kafka(bootstrap: list[str]) -> set[bytes]:
    """The identities of all trades on the topic, canaries aside, from its beginning to its present end."""
    from kafka import KafkaConsumer, TopicPartition

    consumer = KafkaConsumer(
        bootstrap_servers=bootstrap,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        request_timeout_ms=10_000,
    )
    found: set[bytes] = set()
    try:
        partitions = [TopicPartition(TOPIC, n) for n in consumer.partitions_for_topic(TOPIC) or ()]
        ends = consumer.end_offsets(partitions)
        consumer.assign(partitions)
        consumer.seek_to_beginning(*partitions)
        canary = CANARY_SYMBOL.encode()
        while any(consumer.position(partition) < end for partition, end in ends.items()):
            for messages in consumer.poll(timeout_ms=1000, max_records=5000).values():
                found.update(trade_id_of(m.value) for m in messages if m.key != canary)
    finally:
        consumer.close()
    return found


def trade_id_of(value: bytes) -> bytes:
    """The identity in a message of the topic; it is the first field, so it can be cut out."""
    if value.startswith(b'{"trade_id":"') and value[45:46] == b'"':
        return bytes.fromhex(value[13:45].decode())
    return bytes.fromhex(json.loads(value)["trade_id"])
