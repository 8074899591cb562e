"""What the intake stores besides the ledger: its newest report, the exchange's sessions, re-drives and pages."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from datetime import date, datetime
from typing import Any

from kintsugi.core.errors import InputError
from kintsugi.db.ingest_ledger import ANEW, IngestLedger
from kintsugi.db.ledger_entry import FileState, LedgerEntry


class IntakeStore(IngestLedger):
    """The ledger with the data of the intake watch. Methods raise KintsugiError if Postgres doesn't answer."""

    def redrive(self, keys: Collection[str] = ()) -> list[str]:
        """Let the ingest read files again from their first line; returns their keys, sorted.

        ``keys``: the newest content of each. Empty: of every key, the newest content if it failed. A file that is being
        ingested is skipped. Raises InputError if the ledger has no such key.
        """
        with self._connect() as connection, connection.transaction():
            newest = connection.execute(
                "SELECT DISTINCT ON (bucket, key) bucket, key, etag, state FROM ledger_file "
                "WHERE replay = '' AND state <> 'vanished' AND (%s OR key = ANY(%s)) "
                "ORDER BY bucket, key, started_at DESC",
                (not keys, list(keys)),
            ).fetchall()
            missing = sorted(set(keys) - {key for _, key, *_ in newest})
            if missing:
                raise InputError(
                    f"the ledger has no file {missing[0]!r}; `kintsugi status` lists failed files by key"
                )
            again = [
                row for row in newest if row[3] == FileState.FAILED or (keys and row[3] == FileState.DONE)
            ]
            for bucket, key, etag, _ in again:
                connection.execute(
                    f"UPDATE ledger_file SET {ANEW} WHERE bucket = %s AND key = %s AND etag = %s AND replay = ''",
                    (bucket, key, etag),
                )
        return sorted({key for _, key, *_ in again})

    def mark_paged(self, entries: Iterable[LedgerEntry]) -> None:
        """Record that a page about each of these files was written."""
        with self._connect() as connection, connection.transaction():
            for entry in entries:
                connection.execute(
                    "UPDATE ledger_file SET paged_at = now() "
                    "WHERE bucket = %s AND key = %s AND etag = %s AND replay = ''",
                    (entry.bucket, entry.key, entry.etag),
                )

    def write_report(self, at: datetime, report: Mapping[str, Any]) -> None:
        """Store the newest intake report (JSON); it replaces the last one."""
        from psycopg.types.json import Jsonb

        with self._connect() as connection:
            connection.execute(
                "INSERT INTO intake_report (at, report) VALUES (%s, %s) "
                "ON CONFLICT (one) DO UPDATE SET at = excluded.at, report = excluded.report",
                (at, Jsonb(dict(report))),
            )

    def report(self) -> tuple[datetime, dict[str, Any]] | None:
        """Return the newest intake report and its time (UTC); None before the first one."""
        with self._connect() as connection:
            row = connection.execute("SELECT at, report FROM intake_report").fetchone()
        return None if row is None else (row[0], row[1])

    def write_sessions(self, sessions: Mapping[date, datetime]) -> None:
        """Store the sessions of the exchange (day: its close); they replace the stored ones."""
        with self._connect() as connection, connection.transaction():
            connection.execute("DELETE FROM exchange_session")
            for day, close in sessions.items():
                connection.execute("INSERT INTO exchange_session (day, close) VALUES (%s, %s)", (day, close))

    def sessions(self) -> dict[date, datetime]:
        """Return the sessions of the exchange around today: the close by day."""
        with self._connect() as connection:
            return dict(connection.execute("SELECT day, close FROM exchange_session ORDER BY day").fetchall())
