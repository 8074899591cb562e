"""The ingested files: one row for each file and content (key and ETag), in Postgres outside the fleet.

A replay of a file has a row of its own, beside the row of the ingest, and is resumed on its own.

An ingester claims a file by an advisory lock of its connection and writes progress on the same connection. If the
connection is lost, the claim is lost too, and nothing more can be written. So only one of two ingesters of one file
works.

The states of a file, and what leads from one to the next::

    (listed) -> running -> done       every line was read; each is a message or a dead letter
                        -> failed     the file itself can't be used; `reason` says why
                        -> vanished   the object was replaced or deleted while it was read
                        -> running    S3, Kafka or the machine failed: `postpone`, again from `retry_at` on
    done, failed, vanished -> running by a new delivery (`is_waiting`) or by a person (`redrive`)
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any, LiteralString

from kintsugi.core.errors import KintsugiError
from kintsugi.core.rejections import damage_in
from kintsugi.db.advisory_locks import INGEST_LEDGER_TABLES
from kintsugi.db.patience import LOOK, PROCESS, Patience, connect

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
# Run by the first process after a release that changed the list. Append only; each statement must be repeatable.
CHANGES: tuple[LiteralString, ...] = (
    "ALTER TABLE ledger_file ADD COLUMN IF NOT EXISTS replay text NOT NULL DEFAULT ''",
    "ALTER TABLE ledger_file ADD COLUMN IF NOT EXISTS stored bigint",
    "ALTER TABLE ledger_file ADD COLUMN IF NOT EXISTS reconciled_at timestamptz",
    "ALTER TABLE ledger_file DROP CONSTRAINT IF EXISTS ledger_file_pkey",
    # The bucket: empty for the installation's own. The same key in two buckets is two files.
    "ALTER TABLE ledger_file ADD COLUMN IF NOT EXISTS bucket text NOT NULL DEFAULT ''",
    "CREATE UNIQUE INDEX IF NOT EXISTS ledger_file_delivery ON ledger_file (bucket, key, etag, replay)",
    "DROP INDEX IF EXISTS ledger_file_once",
    # When S3 says that this content was put there: a later time is another delivery of the same bytes.
    "ALTER TABLE ledger_file ADD COLUMN IF NOT EXISTS modified timestamptz",
    "ALTER TABLE ledger_file ADD COLUMN IF NOT EXISTS attempts integer NOT NULL DEFAULT 0",
    "ALTER TABLE ledger_file ADD COLUMN IF NOT EXISTS failing_since timestamptz",
    "ALTER TABLE ledger_file ADD COLUMN IF NOT EXISTS retry_at timestamptz",
    "ALTER TABLE ledger_file ADD COLUMN IF NOT EXISTS updated_at timestamptz NOT NULL DEFAULT now()",
    # When a page about this file was put into the outbox.
    "ALTER TABLE ledger_file ADD COLUMN IF NOT EXISTS paged_at timestamptz",
    "ALTER TABLE ledger_file DROP CONSTRAINT IF EXISTS ledger_file_state_check",
    "ALTER TABLE ledger_file ADD CONSTRAINT ledger_file_state_check "
    "CHECK (state IN ('running', 'done', 'failed', 'vanished'))",
    # One row each: the newest intake report, and the sessions of the exchange around today.
    "CREATE TABLE IF NOT EXISTS intake_report (one boolean PRIMARY KEY DEFAULT true CHECK (one), "
    "at timestamptz NOT NULL, report jsonb NOT NULL)",
    "CREATE TABLE IF NOT EXISTS exchange_session (day date PRIMARY KEY, close timestamptz NOT NULL)",
)
CHANGES_DIGEST = hashlib.sha256("\n".join(CHANGES).encode()).hexdigest()
COLUMNS = (
    "key, etag, state, lines_done, read, accepted, rejected, duplicates, produced, reason, started_at, "
    "finished_at, stored, reconciled_at, size, bucket, modified, attempts, failing_since, retry_at, updated_at, "
    "paged_at"
)
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
    known = row.modified or row.finished_at
    return row.faulty and modified is not None and known is not None and modified > known


def backoff(attempts: int) -> timedelta:
    """Return the pause after the nth failure in a row: 5 s, doubled each time, at most 5 minutes."""
    doublings: int = min(attempts, 20) - 1
    return min(RETRY_AT_MOST, RETRY_FIRST * (1 << doublings))


def file_id(key: str, etag: str) -> str:
    """Return the name of a file and its content in ``manifests/`` and ``dead-letter/``: 32 hex digits."""
    return hashlib.sha256(f"{key}\0{etag}".encode()).hexdigest()[:32]


class Claim:
    """The exclusive right to ingest one file, as long as its connection lives."""

    def __init__(self, connection: psycopg.Connection[Any], entry: LedgerEntry, replay: str) -> None:
        self._connection = connection
        self._where = (entry.bucket, entry.key, entry.etag, replay)
        self.entry = entry

    def progress(self, tally: Tally) -> None:
        """Record that everything up to ``tally.lines_done`` is in Kafka; raises if the claim is lost."""
        self._write(tally, FileState.RUNNING, None)

    def finish(self, tally: Tally, state: FileState, reason: str | None = None) -> None:
        """Record the end: done, or failed or vanished with the reason as a sentence."""
        self._write(tally, state, reason)

    def postpone(self, reason: str) -> None:
        """Record that S3, Kafka or the machine failed: the file is due again after a pause."""
        attempts = self.entry.attempts + 1
        self._connection.execute(
            "UPDATE ledger_file SET attempts = %s, reason = %s, retry_at = now() + %s, updated_at = now(), "
            "failing_since = COALESCE(failing_since, now()) "
            "WHERE bucket = %s AND key = %s AND etag = %s AND replay = %s",
            (attempts, reason, backoff(attempts), *self._where),
        )

    def _write(self, tally: Tally, state: FileState, reason: str | None) -> None:
        from psycopg.types.json import Jsonb

        self._connection.execute(
            "UPDATE ledger_file SET state = %s, lines_done = %s, read = %s, accepted = %s, rejected = %s, "
            "duplicates = %s, produced = %s, reason = %s, attempts = 0, failing_since = NULL, retry_at = NULL, "
            "updated_at = now(), finished_at = CASE WHEN %s THEN now() END "
            "WHERE bucket = %s AND key = %s AND etag = %s AND replay = %s",
            (
                state, tally.lines_done, tally.read, tally.accepted, Jsonb(tally.rejected), tally.duplicates,
                tally.produced, reason, state is not FileState.RUNNING, *self._where,
            ),
        )  # fmt: skip


# Resets a row for a file that is ingested again from its first line.
ANEW: LiteralString = (
    "state = 'running', lines_done = 0, read = 0, accepted = 0, rejected = '{}', duplicates = 0, produced = 0, "
    "reason = NULL, stored = NULL, reconciled_at = NULL, started_at = clock_timestamp(), finished_at = NULL, "
    "attempts = 0, failing_since = NULL, retry_at = NULL, paged_at = NULL, updated_at = now()"
)


class IngestLedger:
    """The ledger in the database at ``dsn``; the table is created at the first call.

    ``patience``: how long it waits for the database. None: as long as the process does, and at least for a late answer.
    """

    def __init__(self, dsn: str, *, patience: Patience | None = None) -> None:
        self._dsn = dsn
        self._patience = patience
        self._migrated = False

    def migrate(self) -> None:
        """Create the table if it is missing; several processes may call it at once."""
        with self._connect() as connection:
            self._migrate(connection)

    def _migrate(self, connection: psycopg.Connection[Any]) -> None:
        with connection.transaction():
            connection.execute("SELECT pg_advisory_xact_lock(%s)", (INGEST_LEDGER_TABLES,))
            connection.execute(TABLE)
            # Only when needed: these statements lock the table and wait for its readers.
            described = connection.execute("SELECT obj_description('ledger_file'::regclass)").fetchone()
            if described != (CHANGES_DIGEST,):
                for change in CHANGES:
                    connection.execute(change)
                connection.execute(f"COMMENT ON TABLE ledger_file IS '{CHANGES_DIGEST}'")
        self._migrated = True

    @contextmanager
    def claim(
        self,
        key: str,
        etag: str,
        size: int,
        replay: str = "",
        *,
        bucket: str = "",
        modified: datetime | None = None,
    ) -> Iterator[Claim | None]:
        """Claim a file; yields None if another ingester has it, or if it does not wait (`is_waiting`).

        ``replay``: the name of a replay, which has a row of its own for the file. ``modified``: S3's time of the
        content.
        """
        name = (
            f"ledger_file|{key}|{etag}" + (f"|{bucket}" if bucket else "") + (f"|{replay}" if replay else "")
        )
        with self._connect() as connection:
            held = connection.execute(
                "SELECT pg_try_advisory_lock(hashtextextended(%s, 0))", (name,)
            ).fetchone()
            if not held or not held[0]:
                yield None
                return
            connection.execute(
                "INSERT INTO ledger_file (bucket, key, etag, sha, size, state, replay, modified, started_at) "
                "VALUES (%s, %s, %s, %s, %s, 'running', %s, %s, clock_timestamp()) ON CONFLICT DO NOTHING",
                (bucket, key, etag, file_id(key, etag), size, replay, modified),
            )
            rows = self._of_key(connection, bucket, key, replay)
            entry = next(row for row in rows if row.etag == etag)
            if entry.state is not FileState.RUNNING:
                if replay or not is_waiting(etag, modified, rows, datetime.now(UTC)):
                    yield None
                    return
                connection.execute(
                    f"UPDATE ledger_file SET {ANEW}, modified = COALESCE(%s, modified) "
                    "WHERE bucket = %s AND key = %s AND etag = %s AND replay = ''",
                    (modified, bucket, key, etag),
                )
                entry = next(row for row in self._of_key(connection, bucket, key, replay) if row.etag == etag)
            yield Claim(connection, entry, replay)

    @staticmethod
    def _of_key(connection: psycopg.Connection[Any], bucket: str, key: str, replay: str) -> list[LedgerEntry]:
        found = connection.execute(
            f"SELECT {COLUMNS} FROM ledger_file WHERE bucket = %s AND key = %s AND replay = %s ORDER BY started_at",
            (bucket, key, replay),
        ).fetchall()
        return [_entry(row) for row in found]

    def entries(self, prefix: str = "") -> list[LedgerEntry]:
        """Return all rows whose key begins with ``prefix``, by key and time of start, without replays."""
        return self._entries("starts_with(key, %s) AND replay = ''", prefix)

    def replayed(self, replay: str) -> list[LedgerEntry]:
        """Return the rows of one replay, by key."""
        return self._entries("replay = %s", replay)

    def unreconciled(self) -> list[LedgerEntry]:
        """Return the files that are fully ingested but not yet reconciled, by key."""
        return self._entries("state = %s AND reconciled_at IS NULL AND replay = ''", FileState.DONE)

    def reconciled(self, key: str, etag: str, stored: int) -> None:
        """Record that the file is fully reconciled: ``stored`` distinct trades of it are in Cassandra."""
        with self._connect() as connection:
            connection.execute(
                "UPDATE ledger_file SET stored = %s, reconciled_at = now() "
                "WHERE key = %s AND etag = %s AND replay = ''",
                (stored, key, etag),
            )

    def _entries(self, condition: LiteralString, *values: object) -> list[LedgerEntry]:
        with self._connect() as connection:
            rows = connection.execute(
                f"SELECT {COLUMNS} FROM ledger_file WHERE {condition} ORDER BY key, started_at", values
            ).fetchall()
        return [_entry(row) for row in rows]

    def by_key(self, keys: Collection[str] | None = None) -> dict[tuple[str, str], list[LedgerEntry]]:
        """Return the rows of ``keys`` (None: of all) by (bucket, key), in the order of their start, without replays."""
        rows = (
            self.entries() if keys is None else self._entries("key = ANY(%s) AND replay = ''", sorted(keys))
        )
        found: dict[tuple[str, str], list[LedgerEntry]] = {}
        for entry in rows:
            found.setdefault((entry.bucket, entry.key), []).append(entry)
        return found

    def _connect(self) -> psycopg.Connection[Any]:
        import psycopg

        patience = self._patience or max(PROCESS.patience, LOOK, key=lambda one: one.late_s)
        try:
            connection = connect(
                self._dsn, patience, autocommit=True, keepalives_idle=5, keepalives_interval=2,
                keepalives_count=3, application_name="kintsugi-ledger",
            )  # fmt: skip
        except psycopg.OperationalError as error:
            reason = " ".join(str(error).split())
            raise KintsugiError(
                f"the database of the ingest ledger does not answer: {reason}; is Postgres running? See `make status`"
            ) from error
        if not self._migrated:  # so the first caller, a sensor or a reconciliation, finds a table
            self._migrate(connection)
        return connection


def _entry(row: Any) -> LedgerEntry:
    key, etag, state, lines, read, accepted, rejected, duplicates, produced, reason, *rest = row
    tally = Tally(lines, read, accepted, dict(rejected), duplicates, produced)
    return LedgerEntry(key, etag, FileState(state), tally, reason, *rest)
