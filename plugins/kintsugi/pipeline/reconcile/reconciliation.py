"""One account on its way: what the files hold, what is stored, what is on the topic, and what follows from it."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from itertools import tee
from typing import TYPE_CHECKING

from kintsugi.core.data_source import DataSource, own_source
from kintsugi.db.ingest_ledger import IngestLedger
from kintsugi.db.ledger_entry import FileState, LedgerEntry, file_id
from kintsugi.pipeline.failures import is_of_s3, is_transient, reason_of
from kintsugi.pipeline.ingest.file_ingest import IDENTITIES
from kintsugi.pipeline.ingest.file_reader import BadLine, read_lines
from kintsugi.pipeline.object_listing import S3Object, objects, trade_files
from kintsugi.pipeline.reconcile import derived_tables_audit, topic_identities
from kintsugi.pipeline.reconcile.derived_tables_audit import SLOTS, DerivedAudit
from kintsugi.pipeline.reconcile.disk_sets import BUCKETS, Spill
from kintsugi.pipeline.reconcile.report import NAMED, ReconciliationReport
from kintsugi.pipeline.row_parser import NEW_YORK, SLOT_MINUTES, Rejection, Trade, parse
from kintsugi.pipeline.schema import TRADE_DAYS
from kintsugi.pipeline.stream.stored_trades import (
    ALWAYS,
    Read,
    fingerprint,
    partitions,
    read_partitions,
    row_fingerprint,
)
from kintsugi.pipeline.stream_lag import lag
from kintsugi.pipeline.synthetic_trade import PREFIX as CANARY_PREFIX

if TYPE_CHECKING:
    from cassandra.cluster import Session
    from mypy_boto3_s3.client import S3Client

    from kintsugi.pipeline.stream_lag import Lag

POLL_S = 0.5
ASKED_AGAIN = 100_000  # trades at most
SLOT_MS = SLOT_MINUTES * 60_000
# What may be asked of a trade: the strictest of its files decides.
REQUIRED, OPEN, OLD = 0, 1, 2

FileKey = tuple[str, str]


def expectation_for(entry: LedgerEntry | None, now: datetime) -> int:
    """What may be asked of the trades of a file, by its entry in the ledger.

    REQUIRED: wholly ingested, so they must be stored. OPEN: not yet ingested. OLD: ingested so long ago that
    Cassandra may have let them go; so are the trades of a failed file, for some may have been sent.
    """
    if entry is not None and entry.state is FileState.FAILED:
        return OLD
    if entry is None or entry.state is not FileState.DONE or entry.finished_at is None:
        return OPEN
    return OLD if now - entry.finished_at > timedelta(days=TRADE_DAYS - 1) else REQUIRED


def unread_state(entry: LedgerEntry | None) -> str | None:
    """Why a file isn't read to its end, by its entry in the ledger; None where it is."""
    if entry is None:
        return "waiting"
    if entry.state is FileState.DONE and not entry.damage:
        return None
    state = f"damaged: {', '.join(entry.damage)}" if entry.damage else str(entry.state)
    return f"{state}, {entry.reason}" if entry.reason else state


@dataclass(slots=True)
class _Symbols:
    """A number for each symbol."""

    numbers: dict[str, int] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)

    def number(self, symbol: str) -> int:
        found = self.numbers.setdefault(symbol, len(self.names))
        if found == len(self.names):
            self.names.append(symbol)
        return found


class Reconciliation:
    """One account on its way, in the order of `reconcile_files`."""

    def __init__(
        self, stack: ExitStack, s3: S3Client, session: Session, ledger: IngestLedger | None, bucket: str, prefix: str,
        bootstrap: list[str] | None, only: Collection[FileKey] | None, sources: Sequence[DataSource] | None = None,
    ) -> None:  # fmt: skip
        self.s3, self.session, self.ledger, self.bucket = s3, session, ledger, bucket
        self.sources = tuple(sources or (own_source(s3, bucket, prefix),))
        # The ledger's rows of one prefix are those of its files; with several buckets all of them are asked for.
        self.prefix = "" if sources else prefix
        self.bootstrap, self.partial = bootstrap, only is not None
        self.account = ReconciliationReport()
        self.entries = self._entries()
        found = [item for item in trade_files(self.sources) if not item.key.startswith(CANARY_PREFIX)]
        self.listed = {(item.key, item.etag) for item in found}
        self.files = [item for item in found if only is None or (item.key, item.etag) in only]
        self.unreadable: set[FileKey] = set()
        self.lag: Lag | None = None
        self.passed = False  # the stream has stored all that may be asked of it
        self._stack = stack
        self.expected = self._spill("qIIIB")  # fingerprint, symbol, day and slot, file, demand
        self.stored = self._spill("q")  # fingerprint
        self.on_topic = self._spill()
        self.missing = self._spill("IIB")  # symbol, day and slot, demand
        self.changed = self._spill("B")  # demand; stored otherwise than the files say
        self.extra = self._spill()
        self.symbols = _Symbols()
        self.slots: dict[int, int] = {}  # symbol, day and slot → first and last millisecond, packed
        self.old_days: set[tuple[str, str]] = set()  # of which Cassandra may have let trades go
        self.audit: DerivedAudit | None = None
        self.stored_of: dict[int, int] = {}
        self.missing_of: dict[int, int] = {}

    def _spill(self, fields: str = "") -> Spill:
        spill = Spill(fields)
        self._stack.callback(spill.close)
        return spill

    def _entries(self) -> dict[FileKey, LedgerEntry]:
        entries = self.ledger.entries(self.prefix) if self.ledger is not None else []
        return {(e.key, e.etag): e for e in entries if not e.key.startswith(CANARY_PREFIX)}

    # What the ledger and the stream say

    def wait(self, deadline: float) -> None:
        """Until the files are ingested and the stream has passed what was on the topic, or the deadline."""
        self.passed = self._await_passed(deadline, ingested=True)

    def _await_passed(self, deadline: float, *, ingested: bool = False) -> bool:
        """Whether the stream passed what was on the topic at the first look (after all files were ``ingested``)."""
        if self.bootstrap is None:
            return False
        ends: Mapping[int, int] | None = None
        while True:
            waiting = ingested and any(self._demand(item) == OPEN for item in self.files)
            self.lag = lag(self.bootstrap)
            if not waiting and self.lag is not None:
                ends = ends or self.lag.end
                if all((self.lag.committed.get(number) or 0) >= end for number, end in ends.items()):
                    return True
            if time.monotonic() >= deadline:
                return False
            time.sleep(POLL_S)
            self.entries = self._entries()

    def _demand(self, item: S3Object) -> int:
        if self.ledger is None:
            return REQUIRED
        return expectation_for(self.entries.get((item.key, item.etag)), datetime.now(UTC))

    # What there should be, and what there is

    def read_files(self) -> None:
        """Note every trade of every file."""
        of_interest = self.entries if not self.partial else {(item.key, item.etag) for item in self.files}
        self.account.produced = sum(
            self.entries[key].tally.produced for key in self.entries.keys() & of_interest
        )
        for number, item in enumerate(self.files):
            asked = self._demand(item)
            self.account.files += 1
            try:
                for trade in self._trades(item):
                    symbol = self.symbols.number(trade.symbol)
                    when = date.fromisoformat(trade.trade_date).toordinal() * SLOTS + trade.slot
                    identity = bytes.fromhex(trade.trade_id)
                    self.expected.add(identity, fingerprint(trade), symbol, when, number, asked)
                    self._note_slot(symbol << 32 | when, trade.ts % SLOT_MS)
                    if asked == OLD:
                        self.old_days.add((trade.symbol, trade.trade_date))
            except Exception as error:
                if is_transient(error) and not is_of_s3(error):
                    raise
                self.account.unreadable.append(f"{item.key}: {reason_of(error)}")
                self.unreadable.add((item.key, item.etag))
            self._note_unread(item)

    def _note_unread(self, item: S3Object) -> None:
        """A file that the ingest hasn't read to its end: then nothing is known of all trades."""
        said = unread_state(self.entries.get((item.key, item.etag)))
        if self.ledger is None or said is None:
            return
        self.account.unread_count += 1
        if len(self.account.unread) < NAMED:
            self.account.unread.append(f"{item.key}: {said}")

    def _trades(self, item: S3Object) -> Iterator[Trade]:
        account = self.account
        data = item.source or self.sources[0]
        for _, line in read_lines(data.client, data.bucket, item.key, item.etag):
            account.read += 1
            trade = line.rejection if isinstance(line, BadLine) else parse(line)
            if isinstance(trade, Rejection):
                reason = trade.reason.value
                account.rejected[reason] = account.rejected.get(reason, 0) + 1
            else:
                account.accepted += 1
                yield trade

    def _note_slot(self, where: int, at: int) -> None:
        known = self.slots.get(where)
        if known is None:
            self.slots[where] = at << 20 | at
        elif at < known >> 20 or at > known & 0xFFFFF:
            self.slots[where] = min(at, known >> 20) << 20 | max(at, known & 0xFFFFF)

    def _reads(self, slots: Iterable[int]) -> Iterator[Read]:
        """Partitions of the files; of a part of the files only from their first to their last trade."""
        for where in sorted(slots):
            day, slot = divmod(where & 0xFFFFFFFF, SLOTS)
            symbol, text = self.symbols.names[where >> 32], date.fromordinal(day).isoformat()
            if not self.partial:
                yield symbol, text, slot, *ALWAYS
                continue
            start = _slot_start(text, slot)
            packed = self.slots[where]
            yield symbol, text, slot, start + (packed >> 20), start + (packed & 0xFFFFF)

    def read_cassandra(self, audit: DerivedAudit | None = None) -> None:
        """Note every stored row, and show ``audit`` those of whole days."""
        self.audit = audit
        reads, again = tee(self._reads(self.slots))
        found = read_partitions(self.session, reads, derived_tables_audit.COLUMNS if audit else ())
        for place, rows in zip(again, found, strict=True):
            for row in rows:
                self.stored.add(bytes(row.trade_id), row_fingerprint(row))
            if audit is not None and place[:2] in self.old_days:
                audit.skip(place[:2])
            elif audit is not None:
                audit.see(place, rows)
        if self.partial:
            return
        others = [
            (symbol, day, slot, *ALWAYS)
            for symbol, day, slot in partitions(self.session)
            if self._slot_of(symbol, day, slot) not in self.slots
        ]
        for place, rows in zip(others, read_partitions(self.session, others), strict=True):
            if audit is not None:
                audit.skip(place[:2])  # of no file: nobody knows whether all of it is still there
            for row in rows:
                self.stored.add(bytes(row.trade_id), row_fingerprint(row))

    def _slot_of(self, symbol: str, day: str, slot: int) -> int:
        number = self.symbols.numbers.get(symbol)
        return -1 if number is None else number << 32 | date.fromisoformat(day).toordinal() * SLOTS + slot

    def read_topic(self) -> None:
        """Note every identity on the topic."""
        if self.bootstrap is not None and not self.partial:
            for identity in topic_identities.identities(self.bootstrap):
                self.on_topic.add(identity)
            self.account.in_kafka = 0
            if self.lag is not None and not any(self.lag.beginning.values()):
                self.account.lost_before_kafka = 0

    # The comparison

    def compare(self) -> None:
        """Bucket by bucket, fill in the account, and set aside what is missing and what is too much."""
        for number in range(BUCKETS):
            marks, others = self._marks(number)
            seen, changed = self._compare_rows(number, marks, others)
            self._count_files(number, seen, changed)
            if self.account.in_kafka is not None:
                self._compare_topic(number, marks.keys() - seen)

    def _marks(self, number: int) -> tuple[dict[bytes, int], set[tuple[bytes, int]]]:
        """The fingerprint of each trade in a bucket, and the others of those that files tell differently.

        A vendor delivers a day again with corrected quotes, or a month that contains it: either may be stored.
        """
        marks: dict[bytes, int] = {}
        others: set[tuple[bytes, int]] = set()
        rows = 0
        for identity, mark, *_ in self.expected.bucket(number):
            rows += 1
            if marks.setdefault(identity, mark) != mark:
                others.add((identity, mark))
        self.account.duplicates += rows - len(marks)
        return marks, others

    def _compare_rows(
        self, number: int, marks: Mapping[bytes, int], others: Collection[tuple[bytes, int]]
    ) -> tuple[set[bytes], set[bytes]]:
        """Stored rows against the files; returns the identities that are stored, and those with other columns."""
        account = self.account
        seen: set[bytes] = set()
        changed: set[bytes] = set()
        for identity, mark in self.stored.bucket(number):
            known = marks.get(identity)
            if known is None and self.partial:
                continue
            if identity in seen:
                account.doubled += 1
                continue
            seen.add(identity)
            if known is None:
                self.extra.add(identity)
            elif known != mark and (identity, mark) not in others:
                changed.add(identity)
        account.stored += len(seen)
        return seen, changed

    def _count_files(self, number: int, seen: Collection[bytes], changed: Collection[bytes]) -> None:
        """Count the distinct trades of each file, stored and not; set aside what is missing or changed."""
        asked_of: dict[bytes, int] = {}
        counted: set[tuple[bytes, int]] = set()
        repeated = self._repeated(number)
        for identity, _, symbol, when, file, asked in self.expected.bucket(number):
            if identity in repeated:
                if (identity, file) in counted:
                    continue
                counted.add((identity, file))
            if identity in seen and identity not in changed:
                self.stored_of[file] = self.stored_of.get(file, 0) + 1
                continue
            self.missing_of[file] = self.missing_of.get(file, 0) + 1
            if identity in changed:
                self.changed.add(identity, asked)
                continue
            if identity not in repeated or asked < asked_of.get(identity, OLD + 1):
                # Again with a stricter demand: the reader takes the last one.
                self.missing.add(identity, symbol, when, asked)
                asked_of[identity] = asked

    def _repeated(self, number: int) -> set[bytes]:
        """Identities of the bucket that occur in several rows."""
        seen: set[bytes] = set()
        repeated: set[bytes] = set()
        for identity, *_ in self.expected.bucket(number):
            (repeated if identity in seen else seen).add(identity)
        return repeated

    def _compare_topic(self, number: int, missing: set[bytes]) -> None:
        on_topic = {identity for (identity,) in self.on_topic.bucket(number)}
        self.account.in_kafka = (self.account.in_kafka or 0) + len(on_topic)
        if self.account.lost_before_kafka is not None:
            self.account.lost_before_kafka += len(missing - on_topic)

    # The second look

    def explain_missing(self, deadline: float) -> None:
        """Of what is missing or changed: what is on its way, or too old; the rest is lost or altered."""
        if not self.missing.count and not self.changed.count:
            return
        ahead = self._ahead()
        lost: dict[bytes, int] = {}  # partition by identity
        for number in range(BUCKETS):
            on_the_way = {identity for (identity,) in ahead.bucket(number)}
            self._explain_changed(number, on_the_way)
            missing = {identity: (where, asked) for identity, where, asked in self._missing(number)}
            for identity, (where, asked) in missing.items():
                if asked == OLD:
                    self.account.expired += 1
                elif asked == OPEN or identity in on_the_way:
                    self.account.in_flight += 1
                else:
                    self.account.lost_count += 1
                    if len(lost) < ASKED_AGAIN:
                        lost[identity] = where
        if not self.passed:
            self._ask_again(lost, deadline)
        self.account.lost = sorted(identity.hex() for identity in lost)[:NAMED]
        if self.account.lost_before_kafka is not None:
            self.account.lost_before_kafka = min(self.account.lost_before_kafka, self.account.lost_count)

    def _explain_changed(self, number: int, on_the_way: Collection[bytes]) -> None:
        """A corrected file changes a row only when it is ingested and the stream has come to it."""
        changed: dict[bytes, int] = {}
        for identity, asked in self.changed.bucket(number):
            changed[identity] = min(asked, changed.get(identity, OLD))
        for identity, asked in changed.items():
            if asked == OPEN or identity in on_the_way:
                self.account.in_flight += 1
            else:
                self.account.altered_count += 1
                _name(self.account.altered, identity)

    def _ahead(self) -> Spill:
        """What lies on the topic before the stream, from where it was when the rows weren't read yet."""
        ahead = self._spill()
        if self.bootstrap is not None and self.lag is not None:
            start = {n: max(self.lag.committed.get(n) or 0, first) for n, first in self.lag.beginning.items()}
            for identity in topic_identities.identities(self.bootstrap, start):
                ahead.add(identity)
        return ahead

    def _missing(self, number: int) -> Iterator[tuple[bytes, int, int]]:
        for identity, symbol, when, asked in self.missing.bucket(number):
            yield identity, symbol << 32 | when, asked

    def _ask_again(self, lost: dict[bytes, int], deadline: float) -> None:
        """Read the partitions of what seems lost, and forget what has come, until nothing is or the deadline."""
        while lost and time.monotonic() < deadline:
            time.sleep(POLL_S)
            for rows in read_partitions(self.session, self._reads(set(lost.values()))):
                for row in rows:
                    if lost.pop(bytes(row.trade_id), None) is not None:
                        self.account.lost_count -= 1
                        self.account.stored += 1

    def explain_extra(self) -> None:
        """Of what is too much: what a newer file holds, what a former content held; the rest is extra."""
        if self.partial or not self.extra.count:
            return
        arrived, former = self._spill(), self._spill()
        present = {(item.key, item.etag) for item in trade_files(self.sources)}
        # What the ingest sent of a file before it turned out to be unreadable is no mystery.
        self._note(arrived, (present - self.listed) | self.unreadable)
        self._note(former, self.entries.keys() - present)
        account = self.account
        for number in range(BUCKETS):
            new = {identity for (identity,) in arrived.bucket(number)}
            old = {identity for (identity,) in former.bucket(number)}
            for (identity,) in self.extra.bucket(number):
                if identity in new:
                    account.stored -= 1
                elif identity in old:
                    account.withdrawn_count += 1
                    _name(account.withdrawn, identity)
                else:
                    account.extra_count += 1
                    _name(account.extra, identity)

    def explain_derived(self, deadline: float) -> None:
        """Of the rows that don't follow from their trades: what is being written; the rest is wrong."""
        if self.audit is None:
            return
        account = self.account
        # Without a topic nobody writes, or nobody can tell.
        account.derived_in_flight = self.audit.settle(
            lambda: self.bootstrap is None or self._await_passed(deadline), deadline
        )
        account.derived = dict(self.audit.compared)
        account.wrong_derived = dict(self.audit.wrong)
        account.wrong_derived_named = {table: names[:NAMED] for table, names in self.audit.named.items()}
        account.repaired = self.audit.repaired

    def _note(self, spill: Spill, files: Iterable[FileKey]) -> None:
        for key, etag in files:
            for identity in self._identities(key, etag):
                spill.add(identity)

    def _identities(self, key: str, etag: str) -> Iterator[bytes]:
        """What the ingest of a file wrote down before it sent anything."""
        folder = f"{IDENTITIES}{file_id(key, etag)}/"
        for item in objects(self.s3, self.bucket, folder):
            body = self.s3.get_object(Bucket=self.bucket, Key=item["Key"])["Body"].read()
            yield from (body[start : start + 16] for start in range(0, len(body), 16))

    def tell_ledger(self) -> None:
        """Note the files whose trades are all stored."""
        if self.ledger is None:
            return
        for number, item in enumerate(self.files):
            entry = self.entries.get((item.key, item.etag))
            if entry is None or entry.state is not FileState.DONE or self.missing_of.get(number):
                continue
            if (item.key, item.etag) in self.unreadable:
                continue
            stored = self.stored_of.get(number, 0)
            if entry.stored != stored:
                self.ledger.reconciled(item.key, item.etag, stored)


def _name(names: list[str], identity: bytes) -> None:
    if len(names) < NAMED:
        names.append(identity.hex())


def _slot_start(day: str, slot: int) -> int:
    """Milliseconds since 1970 UTC at which a slot of New York's day begins."""
    minutes = slot * SLOT_MINUTES
    local = datetime.fromisoformat(f"{day}T{minutes // 60:02d}:{minutes % 60:02d}").replace(tzinfo=NEW_YORK)
    return int(local.timestamp()) * 1000
