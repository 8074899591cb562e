"""The way into Postgres: short connections, and the tables."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from kintsugi.errors import KintsugiError
from kintsugi.store.schema import MIGRATIONS

if TYPE_CHECKING:
    from psycopg import Connection

    Rows = Connection[dict[str, Any]]

# A recoverer that hangs on the database repairs nothing; these bounds are far above any normal statement.
_OPTIONS = (
    "-c TimeZone=UTC -c lock_timeout=5s -c statement_timeout=15s -c idle_in_transaction_session_timeout=15s"
)

_MIGRATION_LOCK = 0x4B494E54  # "KINT"
ATTEMPT_LOCK = 0x4B494E55
KILL_LOCK = 0x4B494E60  # see `grep -rn 0x4B494E` for the numbers that are taken


class StoreUnavailable(KintsugiError):
    """Postgres can't be reached or doesn't answer; nothing was written."""


class Database:
    """Connections to one database.

    Each transaction has a connection of its own: nothing stale is kept when Postgres is restarted, and a fork
    shares nothing.
    """

    def __init__(self, dsn: str, *, connect_timeout_s: int = 3) -> None:
        self._dsn = dsn
        self._connect_timeout_s = connect_timeout_s

    @contextmanager
    def transaction(self) -> Iterator[Rows]:
        """One transaction, rows as dicts; committed at the end, rolled back by any exception.

        Raises StoreUnavailable when Postgres can't be reached, or ends the connection.
        """
        import psycopg
        from psycopg.rows import dict_row

        try:
            with psycopg.connect(
                self._dsn,
                connect_timeout=self._connect_timeout_s,
                application_name="kintsugi",
                options=_OPTIONS,
                row_factory=dict_row,
            ) as connection:
                yield connection
        except psycopg.OperationalError as error:
            # libpq's message names host and port, never the password.
            said = " ".join(str(error).split())
            raise StoreUnavailable(
                f"the store can't be used: {said}. "
                "Is Postgres of the control plane running? See `make status`"
            ) from error

    def migrate(self) -> None:
        """Make or update the tables; does nothing where they are up to date, and is safe to race."""
        with self.transaction() as connection:
            connection.execute("SELECT pg_advisory_xact_lock(%s)", (_MIGRATION_LOCK,))
            connection.execute(
                "CREATE TABLE IF NOT EXISTS kintsugi_schema ("
                "version integer PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT clock_timestamp())"
            )
            applied = {row["version"] for row in connection.execute("SELECT version FROM kintsugi_schema")}
            for version, statements in enumerate(MIGRATIONS, start=1):
                if version not in applied:
                    connection.execute(statements)
                    connection.execute("INSERT INTO kintsugi_schema (version) VALUES (%s)", (version,))


def one(row: dict[str, Any] | None) -> dict[str, Any]:
    """The row of a statement that always returns one."""
    assert row is not None
    return row
