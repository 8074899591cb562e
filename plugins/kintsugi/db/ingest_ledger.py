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

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, LiteralString

from kintsugi.core.errors import KintsugiError
from kintsugi.db.ledger_entry import FileState, LedgerEntry, Tally, backoff, file_id, is_waiting
from kintsugi.db.migrations import apply_migrations
from kintsugi.db.patience import LOOK, PROCESS, Patience, open_connection

if TYPE_CHECKING:
    import psycopg

COLUMNS = (
    "key, etag, state, lines_done, read, accepted, rejected, duplicates, produced, reason, started_at, "
    "finished_at, stored, reconciled_at, size, bucket, modified, attempts, failing_since, retry_at, updated_at, "
    "paged_at"
)


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
    """The ledger in the database at ``dsn``.

    ``patience``: how long it waits for the database. None: as long as the process does, and at least for a late answer.
    """

    def __init__(self, dsn: str, *, patience: Patience | None = None) -> None:
        self._dsn = dsn
        self._patience = patience

    def migrate(self) -> None:
        """Create or update all tables of the database that the ledger is in (`migrations`)."""
        with self._connect() as connection:
            apply_migrations(connection)

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
        rows = connection.execute(
            f"SELECT {COLUMNS} FROM ledger_file WHERE bucket = %s AND key = %s AND replay = %s ORDER BY started_at",
            (bucket, key, replay),
        ).fetchall()
        return [_to_entry(row) for row in rows]

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
        return [_to_entry(row) for row in rows]

    def by_key(self, keys: Collection[str] | None = None) -> dict[tuple[str, str], list[LedgerEntry]]:
        """Return the entries of ``keys`` (None: of all) by (bucket, key), in order of their start, without replays."""
        entries = (
            self.entries() if keys is None else self._entries("key = ANY(%s) AND replay = ''", sorted(keys))
        )
        by_key: dict[tuple[str, str], list[LedgerEntry]] = {}
        for entry in entries:
            by_key.setdefault((entry.bucket, entry.key), []).append(entry)
        return by_key

    def _connect(self) -> psycopg.Connection[Any]:
        import psycopg

        patience = self._patience or max(PROCESS.patience, LOOK, key=lambda one: one.late_s)
        try:
            return open_connection(
                self._dsn, patience, autocommit=True, keepalives_idle=5, keepalives_interval=2,
                keepalives_count=3, application_name="kintsugi-ledger",
            )  # fmt: skip
        except psycopg.OperationalError as error:
            reason = " ".join(str(error).split())
            raise KintsugiError(
                f"Postgres (the ingest ledger) does not answer: {reason}. See the row postgres in `make status`"
            ) from error


def _to_entry(row: Any) -> LedgerEntry:
    key, etag, state, lines, read, accepted, rejected, duplicates, produced, reason, *rest = row
    tally = Tally(lines, read, accepted, dict(rejected), duplicates, produced)
    return LedgerEntry(key, etag, FileState(state), tally, reason, *rest)
