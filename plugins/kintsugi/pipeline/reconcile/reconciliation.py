"""The reconciliation: every trade in the files of S3, against the topic and against every row in Cassandra.

1. List the files. What the ledger says of each decides what is required of its trades.
2. Wait (if asked to) until all files are ingested and the stream has stored what was on the topic by then.
3. Read the files again, compute the identities again, and note a fingerprint of the columns of each trade.
4. Read, at LOCAL_QUORUM, every partition that has or should have rows. Read the identities on the topic.
5. Compare. ``lost``: in a file, not in Cassandra. ``extra``: in Cassandra, in no file. ``doubled``: one identity
   in two rows. ``altered``: the same identity, but other columns than any file has.
6. Check every mismatch a second time, because the flow may be running. A missing trade may still wait for the stream
   (``in_flight``). An extra trade may come from a newer file, or from the former content of one (``withdrawn``).
7. Meanwhile, compare all derived tables with what follows from the stored trades (`derived_tables_audit`).

Synthetic trades are left out. Identities are kept on disk, divided into buckets (`disk_sets`). So memory grows with the
number of partitions (symbols times quarters of an hour, 130 bytes each), not with the number of trades.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import tee
from typing import TYPE_CHECKING

from kintsugi.core.data_source import DataSource, own_source
from kintsugi.core.settings import BUCKET
from kintsugi.db.ingest_ledger import IngestLedger
from kintsugi.db.ledger_entry import FileState, file_id
from kintsugi.pipeline.ingest.file_ingest import IDENTITIES
from kintsugi.pipeline.object_listing import PREFIX, list_objects, list_trade_files
from kintsugi.pipeline.reconcile import derived_tables_audit, topic_identities
from kintsugi.pipeline.reconcile.derived_tables_audit import DerivedAudit
from kintsugi.pipeline.reconcile.disk_sets import BUCKETS, Spill
from kintsugi.pipeline.reconcile.file_trades import FileTrades
from kintsugi.pipeline.reconcile.progress import OLD, OPEN, POLL_S, FileKey, FlowProgress
from kintsugi.pipeline.reconcile.report import NAMED, ReconciliationReport
from kintsugi.pipeline.stream.stored_trades import (
    ALWAYS,
    list_partitions,
    read_partitions,
    row_fingerprint,
)
from kintsugi.pipeline.synthetic_trade import PREFIX as SYNTHETIC_PREFIX

if TYPE_CHECKING:
    from cassandra.cluster import Session
    from mypy_boto3_s3.client import S3Client

READ_AGAIN = 100_000  # lost trades at most whose partitions are read a second time


def reconcile_files(
    s3: S3Client, session: Session, ledger: IngestLedger | None = None, *, bucket: str = BUCKET, prefix: str = PREFIX,
    bootstrap: list[str] | None = None, until: float | None = None, files: Collection[FileKey] | None = None,
    derived: bool = False, repair: bool = False, sources: Sequence[DataSource] | None = None,
) -> ReconciliationReport:  # fmt: skip
    """Reconcile the trade files below ``prefix``, or only ``files``, given as (key, ETag).

    ``sources``: where the files are; default: ``bucket``. The identities that the ingest wrote are always in
    ``bucket``. ``ledger``: for ``produced`` and ``in_flight``; files whose trades are all stored are noted in it.
    ``bootstrap``: also read the topic. ``until``: seconds to wait for trades that are on their way. With ``files``
    nothing is ``extra`` or ``withdrawn``, and the topic isn't read as a whole. ``derived``: also compare the derived
    tables; that needs whole days, so not with ``files``. ``repair``: write what is wrong in them. Raises what S3,
    Postgres, Kafka and Cassandra raise; there is no report then.
    """
    started = time.monotonic()
    deadline = started + (until or 0)
    with ExitStack() as stack:
        reconciliation = Reconciliation(stack, s3, session, ledger, bucket, prefix, bootstrap, files, sources)
        reconciliation.await_stored(deadline)
        reconciliation.read_files()
        reconciliation.read_cassandra(DerivedAudit(session, repair=repair) if derived else None)
        reconciliation.read_topic()
        reconciliation.compare()
        reconciliation.explain_missing(deadline)
        reconciliation.explain_extra()
        reconciliation.explain_derived(deadline)
        reconciliation.update_ledger()
    reconciliation.report.seconds = round(time.monotonic() - started, 3)
    return reconciliation.report


class Reconciliation:
    """One reconciliation; its methods are called in the order of `reconcile_files`."""

    def __init__(
        self, stack: ExitStack, s3: S3Client, session: Session, ledger: IngestLedger | None, bucket: str, prefix: str,
        bootstrap: list[str] | None, only: Collection[FileKey] | None, sources: Sequence[DataSource] | None = None,
    ) -> None:  # fmt: skip
        self.report = ReconciliationReport()
        self._s3, self._session, self._ledger, self._bucket = s3, session, ledger, bucket
        self._bootstrap, self._partial, self._stack = bootstrap, only is not None, stack
        self._sources = tuple(sources or (own_source(s3, bucket, prefix),))
        # The ledger's entries of one prefix are those of its files; with several buckets all entries are needed.
        self._progress = FlowProgress(ledger, "" if sources else prefix, bootstrap)
        listed = [
            file for file in list_trade_files(self._sources) if not file.key.startswith(SYNTHETIC_PREFIX)
        ]
        self._listed = {(file.key, file.etag) for file in listed}
        files = [file for file in listed if only is None or (file.key, file.etag) in only]
        self._expected = FileTrades(files, self._sources, self._spill("qIIIB"), partial=self._partial)
        self._is_stored = False  # the stream has stored everything that is required
        self._stored = self._spill("q")  # fingerprint
        self._on_topic = self._spill()
        self._missing = self._spill("IIB")  # symbol, day and slot, requirement
        self._changed = self._spill("B")  # requirement; stored with other columns than the files have
        self._extra = self._spill()
        self._audit: DerivedAudit | None = None
        self._stored_of: dict[int, int] = {}  # stored trades, by index of their file
        self._missing_of: dict[int, int] = {}

    def _spill(self, fields: str = "") -> Spill:
        spill = Spill(fields)
        self._stack.callback(spill.close)
        return spill

    # Reading

    def await_stored(self, deadline: float) -> None:
        """Wait until the files are ingested and the stream has stored what was on the topic then, or the deadline."""
        self._is_stored = self._progress.await_stored(deadline, self._expected.files)

    def read_files(self) -> None:
        """Read every trade of every file."""
        files = self._expected.keys if self._partial else self._progress.entries
        self.report.produced = self._progress.produced(files)
        self._expected.read(self._progress, self.report)

    def read_cassandra(self, audit: DerivedAudit | None = None) -> None:
        """Read every stored row; pass the rows of whole days to ``audit``."""
        self._audit = audit
        ranges, places = tee(self._expected.ranges(self._expected.partitions))
        partitions = read_partitions(self._session, ranges, derived_tables_audit.COLUMNS if audit else ())
        for place, rows in zip(places, partitions, strict=True):
            for row in rows:
                self._stored.add(bytes(row.trade_id), row_fingerprint(row))
            if audit is not None and place[:2] in self._expected.old_days:
                audit.skip(place[:2])
            elif audit is not None:
                audit.see(place, rows)
        if self._partial:
            return
        others = [
            (symbol, day, slot, *ALWAYS)
            for symbol, day, slot in list_partitions(self._session)
            if not self._expected.has_partition(symbol, day, slot)
        ]
        for place, rows in zip(others, read_partitions(self._session, others), strict=True):
            if audit is not None:
                audit.skip(place[:2])  # in no file: Cassandra may have expired a part of the day
            for row in rows:
                self._stored.add(bytes(row.trade_id), row_fingerprint(row))

    def read_topic(self) -> None:
        """Read every identity on the topic."""
        if self._bootstrap is not None and not self._partial:
            for identity in topic_identities.read_identities(self._bootstrap):
                self._on_topic.add(identity)
            self.report.in_kafka = 0
            lag = self._progress.lag
            if lag is not None and not any(lag.beginning.values()):
                self.report.lost_before_kafka = 0

    # The comparison

    def compare(self) -> None:
        """Fill in the report bucket by bucket, and set aside what is missing, changed and extra."""
        for number in range(BUCKETS):
            fingerprints, alternatives = self._fingerprints(number)
            stored, changed = self._compare_rows(number, fingerprints, alternatives)
            self._count_files(number, stored, changed)
            if self.report.in_kafka is not None:
                self._compare_topic(number, fingerprints.keys() - stored)

    def _fingerprints(self, number: int) -> tuple[dict[bytes, int], set[tuple[bytes, int]]]:
        """Return the fingerprint of each trade in a bucket, and the other fingerprints that files have of a trade.

        The vendor may deliver a day again with corrected quotes, or a month that contains it. Either may be stored.
        """
        fingerprints: dict[bytes, int] = {}
        alternatives: set[tuple[bytes, int]] = set()
        rows = 0
        for identity, fingerprint, *_ in self._expected.trades.bucket(number):
            rows += 1
            if fingerprints.setdefault(identity, fingerprint) != fingerprint:
                alternatives.add((identity, fingerprint))
        self.report.duplicates += rows - len(fingerprints)
        return fingerprints, alternatives

    def _compare_rows(
        self, number: int, fingerprints: Mapping[bytes, int], alternatives: Collection[tuple[bytes, int]]
    ) -> tuple[set[bytes], set[bytes]]:
        """Compare stored rows with the files; return the identities that are stored, and those with other columns."""
        stored: set[bytes] = set()
        changed: set[bytes] = set()
        for identity, fingerprint in self._stored.bucket(number):
            expected = fingerprints.get(identity)
            if expected is None and self._partial:
                continue
            if identity in stored:
                self.report.doubled += 1
                continue
            stored.add(identity)
            if expected is None:
                self._extra.add(identity)
            elif expected != fingerprint and (identity, fingerprint) not in alternatives:
                changed.add(identity)
        self.report.stored += len(stored)
        return stored, changed

    def _count_files(self, number: int, stored: Collection[bytes], changed: Collection[bytes]) -> None:
        """Count the distinct trades of each file, stored and not; set aside what is missing or changed."""
        strictest: dict[bytes, int] = {}
        counted: set[tuple[bytes, int]] = set()
        repeated = self._repeated(number)
        for identity, _, symbol, day_slot, file, requirement in self._expected.trades.bucket(number):
            if identity in repeated:
                if (identity, file) in counted:
                    continue
                counted.add((identity, file))
            if identity in stored and identity not in changed:
                self._stored_of[file] = self._stored_of.get(file, 0) + 1
                continue
            self._missing_of[file] = self._missing_of.get(file, 0) + 1
            if identity in changed:
                self._changed.add(identity, requirement)
                continue
            if identity not in repeated or requirement < strictest.get(identity, OLD + 1):
                # A trade is added again with a stricter requirement; the reader takes the last record.
                self._missing.add(identity, symbol, day_slot, requirement)
                strictest[identity] = requirement

    def _repeated(self, number: int) -> set[bytes]:
        """Return the identities of a bucket that occur in several rows."""
        seen: set[bytes] = set()
        repeated: set[bytes] = set()
        for identity, *_ in self._expected.trades.bucket(number):
            (repeated if identity in seen else seen).add(identity)
        return repeated

    def _compare_topic(self, number: int, missing: set[bytes]) -> None:
        on_topic = {identity for (identity,) in self._on_topic.bucket(number)}
        self.report.in_kafka = (self.report.in_kafka or 0) + len(on_topic)
        if self.report.lost_before_kafka is not None:
            self.report.lost_before_kafka += len(missing - on_topic)

    # The second check

    def explain_missing(self, deadline: float) -> None:
        """Divide what is missing or changed into on its way, expired, and lost or altered."""
        if not self._missing.count and not self._changed.count:
            return
        report = self.report
        unread = self._read_unstored()
        lost: dict[bytes, int] = {}  # partition code by identity
        for number in range(BUCKETS):
            in_flight = {identity for (identity,) in unread.bucket(number)}
            self._explain_changed(number, in_flight)
            missing = {
                identity: (symbol << 32 | day_slot, requirement)
                for identity, symbol, day_slot, requirement in self._missing.bucket(number)
            }
            for identity, (code, requirement) in missing.items():
                if requirement == OLD:
                    report.expired += 1
                elif requirement == OPEN or identity in in_flight:
                    report.in_flight += 1
                else:
                    report.lost_count += 1
                    if len(lost) < READ_AGAIN:
                        lost[identity] = code
        if not self._is_stored:
            self._read_lost_again(lost, deadline)
        report.lost = sorted(identity.hex() for identity in lost)[:NAMED]
        if report.lost_before_kafka is not None:
            report.lost_before_kafka = min(report.lost_before_kafka, report.lost_count)

    def _explain_changed(self, number: int, in_flight: Collection[bytes]) -> None:
        """A corrected file changes a row only after it was ingested and the stream has stored its message."""
        changed: dict[bytes, int] = {}
        for identity, requirement in self._changed.bucket(number):
            changed[identity] = min(requirement, changed.get(identity, OLD))
        for identity, requirement in changed.items():
            if requirement == OPEN or identity in in_flight:
                self.report.in_flight += 1
            else:
                self.report.altered_count += 1
                _add_name(self.report.altered, identity)

    def _read_unstored(self) -> Spill:
        """Read the identities on the topic that the stream hadn't stored when the rows were read."""
        unstored = self._spill()
        lag = self._progress.lag
        if self._bootstrap is not None and lag is not None:
            start = {
                number: max(lag.committed.get(number) or 0, first) for number, first in lag.beginning.items()
            }
            for identity in topic_identities.read_identities(self._bootstrap, start):
                unstored.add(identity)
        return unstored

    def _read_lost_again(self, lost: dict[bytes, int], deadline: float) -> None:
        """Read the partitions of lost trades, and remove those that are there now, until none is left or the deadline.

        ``lost``: partition code by identity.
        """
        while lost and time.monotonic() < deadline:
            time.sleep(POLL_S)
            for rows in read_partitions(self._session, self._expected.ranges(set(lost.values()))):
                for row in rows:
                    if lost.pop(bytes(row.trade_id), None) is not None:
                        self.report.lost_count -= 1
                        self.report.stored += 1

    def explain_extra(self) -> None:
        """Divide what is extra into trades of a newer file, trades of a former content, and the rest."""
        if self._partial or not self._extra.count:
            return
        arrived, former = self._spill(), self._spill()
        present = {(file.key, file.etag) for file in list_trade_files(self._sources)}
        # A file may have been ingested in part before it became unreadable.
        self._add_identities(arrived, (present - self._listed) | self._expected.unreadable)
        self._add_identities(former, self._progress.entries.keys() - present)
        report = self.report
        for number in range(BUCKETS):
            new = {identity for (identity,) in arrived.bucket(number)}
            old = {identity for (identity,) in former.bucket(number)}
            for (identity,) in self._extra.bucket(number):
                if identity in new:
                    report.stored -= 1
                elif identity in old:
                    report.withdrawn_count += 1
                    _add_name(report.withdrawn, identity)
                else:
                    report.extra_count += 1
                    _add_name(report.extra, identity)

    def explain_derived(self, deadline: float) -> None:
        """Divide the derived rows that differ into those still being written and wrong ones."""
        if self._audit is None:
            return
        report = self.report
        # Without a topic either nobody writes, or it can't be known.
        report.derived_in_flight = self._audit.settle(
            lambda: self._bootstrap is None or self._progress.await_stored(deadline), deadline
        )
        report.derived = dict(self._audit.compared)
        report.wrong_derived = dict(self._audit.wrong)
        report.wrong_derived_named = {table: names[:NAMED] for table, names in self._audit.named.items()}
        report.repaired = self._audit.repaired

    def _add_identities(self, spill: Spill, files: Iterable[FileKey]) -> None:
        for key, etag in files:
            for identity in self._sent_identities(key, etag):
                spill.add(identity)

    def _sent_identities(self, key: str, etag: str) -> Iterator[bytes]:
        """Read the identities that the ingest of a file wrote to S3 before it sent anything."""
        folder = f"{IDENTITIES}{file_id(key, etag)}/"
        for item in list_objects(self._s3, self._bucket, folder):
            body = self._s3.get_object(Bucket=self._bucket, Key=item["Key"])["Body"].read()
            yield from (body[start : start + 16] for start in range(0, len(body), 16))

    def update_ledger(self) -> None:
        """Note in the ledger the files whose trades are all stored."""
        if self._ledger is None:
            return
        for number, file in enumerate(self._expected.files):
            entry = self._progress.entries.get((file.key, file.etag))
            if entry is None or entry.state is not FileState.DONE or self._missing_of.get(number):
                continue
            if (file.key, file.etag) in self._expected.unreadable:
                continue
            stored = self._stored_of.get(number, 0)
            if entry.stored != stored:
                self._ledger.reconciled(file.key, file.etag, stored)


def _add_name(names: list[str], identity: bytes) -> None:
    if len(names) < NAMED:
        names.append(identity.hex())
