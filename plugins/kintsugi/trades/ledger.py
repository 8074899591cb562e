"""What has been ingested: one row a file and content (key and ETag), in Postgres outside the fleet.

A replay of the file is a row of its own, beside that of the ingest, and is resumed as one.

An ingester claims a file by an advisory lock of its connection and writes progress on that same
connection: whoever lost the connection lost the claim, and can't write any more. So of two ingesters of
one file, one works.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, LiteralString

from kintsugi.errors import KintsugiError

if TYPE_CHECKING:
    import psycopg

TABLE = """
CREATE TABLE IF NOT EXISTS ledger_file (
    key text NOT NULL,
    etag text NOT NULL,
    sha text NOT NULL,
    size bigint NOT NULL,
    state text NOT NULL CHECK (state IN ('running', 'done', 'failed')),
    lines_done bigint NOT NULL DEFAULT 0,
    read bigint NOT NULL DEFAULT 0,
    accepted bigint NOT NULL DEFAULT 0,
    rejected jsonb NOT NULL DEFAULT '{}',
    duplicates bigint NOT NULL DEFAULT 0,
    produced bigint NOT NULL DEFAULT 0,
    reason text,
    started_at timestamptz NOT NULL DEFAULT now(),
    finished_at timestamptz
)
"""
# Run by whoever comes first after a release that brought them; each is harmless when it has been done.
CHANGES = (
    "ALTER TABLE ledger_file ADD COLUMN IF NOT EXISTS replay text NOT NULL DEFAULT ''",
    "ALTER TABLE ledger_file ADD COLUMN IF NOT EXISTS stored bigint",
    "ALTER TABLE ledger_file ADD COLUMN IF NOT EXISTS reconciled_at timestamptz",
    "ALTER TABLE ledger_file DROP CONSTRAINT IF EXISTS ledger_file_pkey",
    "CREATE UNIQUE INDEX IF NOT EXISTS ledger_file_once ON ledger_file (key, etag, replay)",
)
MIGRATION_LOCK = 0x6B696E74  # "kint": two processes that create the table at once would collide
COLUMNS = (
    "key, etag, state, lines_done, read, accepted, rejected, duplicates, produced, reason, started_at, "
    "finished_at, stored, reconciled_at, size"
)


class State(StrEnum):
    """Of a file: being ingested (or interrupted), all in, or unusable."""

    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


@dataclass(slots=True)
class Tally:
    """Counts of one file. read = accepted + rejected; produced = accepted - duplicates, once it is done.

    ``lines_done``: the number of the last line that is counted here. ``duplicates``: accepted rows whose
    identity occurred before in the same file.
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
        """Count the lines of ``later``, which follow, here too."""
        self.lines_done = later.lines_done
        self.read += later.read
        self.accepted += later.accepted
        self.duplicates += later.duplicates
        self.produced += later.produced
        for reason, count in later.rejected.items():
            self.rejected[reason] = self.rejected.get(reason, 0) + count


@dataclass(frozen=True, slots=True)
class Entry:
    """One row of the ledger.

    ``stored``: how many of the file's trades (distinct identities) the last account found in Cassandra, at
    ``reconciled_at``; None as long as the file isn't wholly accounted for. ``size`` in bytes.
    """

    key: str
    etag: str
    state: State
    tally: Tally
    reason: str | None
    started_at: datetime
    finished_at: datetime | None
    stored: int | None
    reconciled_at: datetime | None
    size: int


def file_id(key: str, etag: str) -> str:
    """The name of a file and its content in ``manifests/`` and ``dead-letter/``: 32 hex digits."""
    return hashlib.sha256(f"{key}\0{etag}".encode()).hexdigest()[:32]


class Claim:
    """The exclusive right to ingest one file, for as long as its connection lives."""

    def __init__(self, connection: psycopg.Connection[Any], entry: Entry, replay: str) -> None:
        self._connection = connection
        self._where = (entry.key, entry.etag, replay)
        self.entry = entry

    def progress(self, tally: Tally) -> None:
        """Record that everything up to ``tally.lines_done`` is in Kafka; raises when the claim is lost."""
        self._write(tally, State.RUNNING, None)

    def finish(self, tally: Tally, state: State, reason: str | None = None) -> None:
        """Record the end: done, or failed with a sentence why."""
        self._write(tally, state, reason)

    def _write(self, tally: Tally, state: State, reason: str | None) -> None:
        from psycopg.types.json import Jsonb

        self._connection.execute(
            "UPDATE ledger_file SET state = %s, lines_done = %s, read = %s, accepted = %s, rejected = %s, "
            "duplicates = %s, produced = %s, reason = %s, "
            "finished_at = CASE WHEN %s THEN now() END WHERE key = %s AND etag = %s AND replay = %s",
            (
                state, tally.lines_done, tally.read, tally.accepted, Jsonb(tally.rejected), tally.duplicates,
                tally.produced, reason, state is not State.RUNNING, *self._where,
            ),
        )  # fmt: skip


class Ledger:
    """The ledger in the database at ``dsn``; the table is made at the first call."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._migrated = False

    def migrate(self) -> None:
        """Create the table if it is missing; safe at any time, by several at once."""
        with self._connect() as connection:
            self._migrate(connection)

    def _migrate(self, connection: psycopg.Connection[Any]) -> None:
        with connection.transaction():
            connection.execute("SELECT pg_advisory_xact_lock(%s)", (MIGRATION_LOCK,))
            connection.execute(TABLE)
            # Not for nothing: these statements lock the table, and wait for whoever reads it.
            if connection.execute("SELECT to_regclass('ledger_file_once')").fetchone() == (None,):
                for change in CHANGES:
                    connection.execute(change)
        self._migrated = True

    @contextmanager
    def claim(self, key: str, etag: str, size: int, replay: str = "") -> Iterator[Claim | None]:
        """The right to ingest a file; None when another ingester has it, or it is finished already.

        ``replay``: the name of a replay, which has a row of its own for the file.
        """
        with self._connect() as connection:
            held = connection.execute(
                "SELECT pg_try_advisory_lock(hashtextextended(%s, 0))",
                (f"ledger_file|{key}|{etag}" + (f"|{replay}" if replay else ""),),
            ).fetchone()
            if not held or not held[0]:
                yield None
                return
            connection.execute(
                "INSERT INTO ledger_file (key, etag, sha, size, state, replay) "
                "VALUES (%s, %s, %s, %s, 'running', %s) ON CONFLICT DO NOTHING",
                (key, etag, file_id(key, etag), size, replay),
            )
            row = connection.execute(
                f"SELECT {COLUMNS} FROM ledger_file WHERE key = %s AND etag = %s AND replay = %s",
                (key, etag, replay),
            ).fetchone()
            entry = _entry(row)
            yield None if entry.state is not State.RUNNING else Claim(connection, entry, replay)

    def entries(self, prefix: str = "") -> list[Entry]:
        """All rows whose key begins with ``prefix``, by key and time of start; replays aside."""
        return self._entries("starts_with(key, %s) AND replay = ''", prefix)

    def replayed(self, replay: str) -> list[Entry]:
        """The rows of one replay, by key."""
        return self._entries("replay = %s", replay)

    def unreconciled(self) -> list[Entry]:
        """Files that are wholly ingested, but not yet accounted for, by key."""
        return self._entries("state = %s AND reconciled_at IS NULL AND replay = ''", State.DONE)

    def reconciled(self, key: str, etag: str, stored: int) -> None:
        """Record that the file is wholly accounted for: ``stored`` distinct trades of it are in Cassandra."""
        with self._connect() as connection:
            connection.execute(
                "UPDATE ledger_file SET stored = %s, reconciled_at = now() "
                "WHERE key = %s AND etag = %s AND replay = ''",
                (stored, key, etag),
            )

    def _entries(self, condition: LiteralString, *values: object) -> list[Entry]:
        with self._connect() as connection:
            rows = connection.execute(
                f"SELECT {COLUMNS} FROM ledger_file WHERE {condition} ORDER BY key, started_at", values
            ).fetchall()
        return [_entry(row) for row in rows]

    def finished(self) -> set[tuple[str, str]]:
        """(key, ETag) of every file that needs no more work: done or failed."""
        with self._connect() as connection:
            rows = connection.execute(
                "SELECT key, etag FROM ledger_file WHERE state <> 'running' AND replay = ''"
            ).fetchall()
        return {(row[0], row[1]) for row in rows}

    def _connect(self) -> psycopg.Connection[Any]:
        import psycopg

        from kintsugi.store.patience import LOOK, PROCESS, connect

        patience = max(PROCESS.patience, LOOK, key=lambda one: one.late_s)
        try:
            connection = connect(
                self._dsn, patience, autocommit=True, keepalives_idle=5, keepalives_interval=2,
                keepalives_count=3, application_name="kintsugi-ledger",
            )  # fmt: skip
        except psycopg.OperationalError as error:
            reason = " ".join(str(error).split())
            raise KintsugiError(f"the ledger's database doesn't answer: {reason}; is Postgres up?") from error
        if not self._migrated:  # whoever comes first, a sensor or an account, finds a table
            self._migrate(connection)
        return connection


def _entry(row: Any) -> Entry:
    key, etag, state, lines, read, accepted, rejected, duplicates, produced, reason, *rest = row
    tally = Tally(lines, read, accepted, dict(rejected), duplicates, produced)
    return Entry(key, etag, State(state), tally, reason, *rest)
