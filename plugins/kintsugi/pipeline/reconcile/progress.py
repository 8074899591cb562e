"""How far ingest and stream have come, and what that requires of the trades of a file."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from kintsugi.db.ingest_ledger import IngestLedger
from kintsugi.db.ledger_entry import FileState, LedgerEntry
from kintsugi.pipeline.object_listing import S3Object
from kintsugi.pipeline.schema import TRADE_DAYS
from kintsugi.pipeline.stream_lag import read_lag
from kintsugi.pipeline.synthetic_trade import PREFIX as SYNTHETIC_PREFIX

if TYPE_CHECKING:
    from kintsugi.pipeline.stream_lag import Lag

POLL_S = 0.5
# What is required of a trade. If several files hold it, the strictest one counts.
REQUIRED, OPEN, OLD = 0, 1, 2

FileKey = tuple[str, str]


def requirement_for(entry: LedgerEntry | None, now: datetime) -> int:
    """Return what is required of the trades of a file, by its entry in the ledger.

    REQUIRED: the file was ingested completely, so its trades must be stored. OPEN: it wasn't ingested yet. OLD: it was
    ingested so long ago that Cassandra may have expired its trades. A failed file counts as OLD: some of its trades may
    have been sent.
    """
    if entry is not None and entry.state is FileState.FAILED:
        return OLD
    if entry is None or entry.state is not FileState.DONE or entry.finished_at is None:
        return OPEN
    return OLD if now - entry.finished_at > timedelta(days=TRADE_DAYS - 1) else REQUIRED


def unread_state(entry: LedgerEntry | None) -> str | None:
    """Return why a file wasn't read to its end, by its entry in the ledger; None if it was."""
    if entry is None:
        return "waiting"
    if entry.state is FileState.DONE and not entry.damage:
        return None
    state = f"damaged: {', '.join(entry.damage)}" if entry.damage else str(entry.state)
    return f"{state}, {entry.reason}" if entry.reason else state


class FlowProgress:
    """The ledger's entries and the stream's lag, read again while the reconciliation waits.

    ``lag``: as it was read last; None without a topic, or if Kafka didn't report it.
    """

    def __init__(self, ledger: IngestLedger | None, prefix: str, bootstrap: list[str] | None) -> None:
        self.ledger, self._prefix, self._bootstrap = ledger, prefix, bootstrap
        self.lag: Lag | None = None
        self.entries = self._read_entries()

    def _read_entries(self) -> dict[FileKey, LedgerEntry]:
        entries = self.ledger.entries(self._prefix) if self.ledger is not None else []
        return {
            (entry.key, entry.etag): entry for entry in entries if not entry.key.startswith(SYNTHETIC_PREFIX)
        }

    def requirement(self, file: S3Object) -> int:
        """Return `requirement_for` this file; without a ledger REQUIRED."""
        if self.ledger is None:
            return REQUIRED
        return requirement_for(self.entries.get((file.key, file.etag)), datetime.now(UTC))

    def unread_state(self, file: S3Object) -> str | None:
        """Return `unread_state` of this file; without a ledger None."""
        return None if self.ledger is None else unread_state(self.entries.get((file.key, file.etag)))

    def produced(self, files: Iterable[FileKey]) -> int:
        """Return how many messages of these files Kafka acknowledged."""
        return sum(self.entries[key].tally.produced for key in self.entries.keys() & set(files))

    def await_stored(self, deadline: float, files: Sequence[S3Object] = ()) -> bool:
        """Wait until ``files`` are ingested and the stream has stored what was on the topic then.

        Returns whether it has; False at the ``deadline`` (of the monotonic clock), and at once without a topic.
        """
        if self._bootstrap is None:
            return False
        ends: Mapping[int, int] | None = None
        while True:
            is_ingested = all(self.requirement(file) != OPEN for file in files)
            self.lag = read_lag(self._bootstrap)
            if is_ingested and self.lag is not None:
                ends = ends or self.lag.end
                if all((self.lag.committed.get(number) or 0) >= end for number, end in ends.items()):
                    return True
            if time.monotonic() >= deadline:
                return False
            time.sleep(POLL_S)
            self.entries = self._read_entries()
