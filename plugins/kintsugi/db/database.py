"""Access to Postgres: short connections, and the migrations."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Concatenate, LiteralString, ParamSpec, TypeVar

from kintsugi.core.errors import KintsugiError
from kintsugi.db.migrations import apply_migrations
from kintsugi.db.patience import PROCESS, Patience, open_connection

if TYPE_CHECKING:
    from psycopg import Connection, Cursor
    from psycopg.abc import Params

    Rows = Connection[dict[str, Any]]

# A recovery that hangs on the database recovers nothing; these limits are far above any normal statement.
_OPTIONS = (
    "-c TimeZone=UTC -c lock_timeout=5s -c statement_timeout=15s -c idle_in_transaction_session_timeout=15s"
)


class StoreUnavailable(KintsugiError):
    """Postgres can't be reached or doesn't answer; nothing was written.

    ``connection_lost``: it was reached, but the connection was lost, so the call may be repeated.
    """

    def __init__(self, message: str, *, connection_lost: bool = False) -> None:
        super().__init__(message)
        self.connection_lost = connection_lost


class Database:
    """Connections to one database.

    Each transaction has a connection of its own, so a restart of Postgres leaves no stale connection and a fork shares
    none. ``patience``: how long to wait for a connection; None: the process's default.
    """

    def __init__(self, dsn: str, *, patience: Patience | None = None) -> None:
        self._dsn = dsn
        self._patience = patience

    @property
    def patience(self) -> Patience:
        """How long to wait for this database."""
        return PROCESS.patience if self._patience is None else self._patience

    @contextmanager
    def transaction(self) -> Iterator[Rows]:
        """One transaction, rows as dicts; committed at the end, rolled back by any exception.

        Connecting is retried within ``patience``. Raises StoreUnavailable if Postgres can't be reached or the
        connection is lost.
        """
        import psycopg
        from psycopg.rows import dict_row

        connection: Rows | None = None
        try:
            with open_connection(
                self._dsn, self.patience, application_name="kintsugi", options=_OPTIONS, row_factory=dict_row
            ) as connection:
                yield connection
        except psycopg.OperationalError as error:
            # libpq's message shows host and port, never the password.
            reason = " ".join(str(error).split())
            raise StoreUnavailable(
                f"Postgres of the control plane can't be used: {reason}. See the row postgres in `make status`",
                connection_lost=connection is not None and connection.broken,
            ) from error
        except (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn) as error:
            raise StoreUnavailable(
                f"the tables in Postgres are older than this code: {error.diag.message_primary}. "
                "Run `make up`, which updates them"
            ) from error

    def migrate(self) -> None:
        """Create or update all tables; does nothing if they are current. Several processes may call it at once."""
        with self.transaction() as connection:
            apply_migrations(connection)


Arguments = ParamSpec("Arguments")
Answer = TypeVar("Answer")
AnyDatabase = TypeVar("AnyDatabase", bound=Database)
Row = TypeVar("Row")
LOST_TRIES = 3


def retry_if_lost(
    method: Callable[Concatenate[AnyDatabase, Arguments], Answer],
) -> Callable[Concatenate[AnyDatabase, Arguments], Answer]:
    """Repeat the call if the connection was lost during it: for methods that read, or that may be repeated."""

    @functools.wraps(method)
    def retried(self: AnyDatabase, /, *args: Arguments.args, **kwargs: Arguments.kwargs) -> Answer:
        for _ in range(LOST_TRIES - 1):
            try:
                return method(self, *args, **kwargs)
            except StoreUnavailable as error:
                if not error.connection_lost or self.patience.away_s <= 0:
                    raise
        return method(self, *args, **kwargs)

    return retried


def fetch_row(cursor: Cursor[dict[str, Any]]) -> dict[str, Any]:
    """Return the row of a statement that always returns one."""
    row = cursor.fetchone()
    assert row is not None
    return row


def fetch_as(
    connection: Connection[Any], kind: type[Row], query: LiteralString, values: Params | None = None
) -> list[Row]:
    """Return the rows of a query as instances of the class ``kind``, whose fields are named like the columns."""
    from psycopg.rows import class_row

    return connection.cursor(row_factory=class_row(kind)).execute(query, values).fetchall()
