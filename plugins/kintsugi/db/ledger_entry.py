"""A row of the ledger of ingested files, and the rules that need no database (`ingest_ledger`).

The streaming driver imports this module, so it imports no driver of Postgres.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

from kintsugi.core.rejections import damage_in

RETRY_FIRST = timedelta(seconds=5)
RETRY_AT_MOST = timedelta(minutes=5)


class FileState(StrEnum):
    """The state of a file: being ingested (or interrupted), complete, unusable, or replaced while it was read."""

    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    VANISHED = "vanished"


@dataclass(slots=True)
class Tally:
    """Counts of one file. read = accepted + rejected; produced = accepted - duplicates, when it is done.

    ``lines_done``: the number of the last line that is counted. ``duplicates``: accepted rows whose identity occurred
    earlier in the same file.
    """

    lines_done: int = 0
    read: int = 0
    accepted: int = 0
    rejected: dict[str, int] = field(default_factory=dict)
    duplicates: int = 0
    produced: int = 0

    def reject(self, reason: str) -> None:
        self.rejected[reason] = self.rejected.get(reason, 0) + 1

    def add(self, later: Tally) -> None:
        """Add the counts of ``later``, whose lines follow."""
        self.lines_done = later.lines_done
        self.read += later.read
        self.accepted += later.accepted
        self.duplicates += later.duplicates
        self.produced += later.produced
        for reason, count in later.rejected.items():
            self.rejected[reason] = self.rejected.get(reason, 0) + count


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """One row of the ledger.

    ``stored``: how many of the file's trades (distinct identities) the last reconciliation found in Cassandra, at
    ``reconciled_at``; None until the file is fully reconciled. ``size``: in bytes. ``bucket``: empty for the
    installation's own. ``modified``: S3's time of this content. ``attempts``: how often S3, Kafka or the machine
    failed in a row, since ``failing_since``. The next attempt is due at ``retry_at``, and ``reason`` says what failed.
    ``updated_at``: when the row last changed. ``paged_at``: when a page about the file was written.
    """

    key: str
    etag: str
    state: FileState
    tally: Tally
    reason: str | None
    started_at: datetime
    finished_at: datetime | None
    stored: int | None
    reconciled_at: datetime | None
    size: int
    bucket: str = ""
    modified: datetime | None = None
    attempts: int = 0
    failing_since: datetime | None = None
    retry_at: datetime | None = None
    updated_at: datetime | None = None
    paged_at: datetime | None = None

    @property
    def rejected(self) -> int:
        """The number of rows that became dead letters."""
        return sum(self.tally.rejected.values())

    @property
    def damage(self) -> list[str]:
        """The reasons why the file could not be read to its end, sorted; empty if it was."""
        return damage_in(self.tally.rejected)

    @property
    def faulty(self) -> bool:
        """Whether something of the file is missing: it failed, rows were rejected, or it had no rows."""
        return self.state is FileState.FAILED or bool(self.tally.rejected) or self.tally.read == 0


def is_waiting(etag: str, modified: datetime | None, rows: Sequence[LedgerEntry], now: datetime) -> bool:
    """Whether the ingest has to take the object that S3 lists under a key. Pure.

    ``rows``: those of the same bucket and key, without replays, in the order of their start. The object waits if

    1. this content was never ingested, or vanished while it was read;
    2. its ingest was interrupted, and the pause is over;
    3. another content was ingested after it: v1, v2, v1 is a third delivery;
    4. the same bytes were delivered again, and their last ingest missed something (`LedgerEntry.faulty`). If nothing
       was missed, the same bytes bring nothing new.
    """
    row = next((row for row in rows if row.etag == etag), None)
    if row is None:
        return True
    if row.state in (FileState.RUNNING, FileState.VANISHED):
        return row.retry_at is None or row.retry_at <= now
    if [one for one in rows if one.state is not FileState.VANISHED][-1] is not row:
        return True
    ingested_at = row.modified or row.finished_at
    return row.faulty and modified is not None and ingested_at is not None and modified > ingested_at


def backoff(attempts: int) -> timedelta:
    """Return the pause after the nth failure in a row: 5 s, doubled each time, at most 5 minutes."""
    doublings: int = min(attempts, 20) - 1
    return min(RETRY_AT_MOST, RETRY_FIRST * (1 << doublings))


def file_id(key: str, etag: str) -> str:
    """Return the name of a file and its content in ``manifests/`` and ``dead-letter/``: 32 hex digits."""
    return hashlib.sha256(f"{key}\0{etag}".encode()).hexdigest()[:32]
