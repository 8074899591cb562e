"""Access to Postgres: short connections, and the migrations."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from kintsugi.core.errors import KintsugiError
from kintsugi.db.migrations import apply_migrations
from kintsugi.db.patience import PROCESS, Patience, connect

if TYPE_CHECKING:
    from psycopg import Connection

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
            with connect(
                self._dsn, self.patience, application_name="kintsugi", options=_OPTIONS, row_factory=dict_row
            ) as connection:
                yield connection
        except psycopg.OperationalError as error:
            # libpq's message shows host and port, never the password.
            said = " ".join(str(error).split())
            raise StoreUnavailable(
                f"the database can't be used: {said}. "
                "Is Postgres of the control plane running? See `make status`",
                connection_lost=connection is not None and connection.broken,
            ) from error
        except (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn) as error:
            raise StoreUnavailable(
                f"the tables of the database are older than this code: {error.diag.message_primary}. "
                "Run `make up`, which updates them"
            ) from error

    def migrate(self) -> None:
        """Create or update all tables; does nothing if they are current. Several processes may call it at once."""
        with self.transaction() as connection:
            apply_migrations(connection)


Arguments = ParamSpec("Arguments")
Answer = TypeVar("Answer")
Asked = TypeVar("Asked", bound=Database)
LOST_TRIES = 3


def asked_again(
    method: Callable[Concatenate[Asked, Arguments], Answer],
) -> Callable[Concatenate[Asked, Arguments], Answer]:
    """Repeat the call if the connection was lost during it: for methods that read, or that may be repeated."""

    @functools.wraps(method)
    def asked(self: Asked, /, *args: Arguments.args, **kwargs: Arguments.kwargs) -> Answer:
        for _ in range(LOST_TRIES - 1):
            try:
                return method(self, *args, **kwargs)
            except StoreUnavailable as error:
                if not error.connection_lost or self.patience.away_s <= 0:
                    raise
        return method(self, *args, **kwargs)

    return asked


def one(row: dict[str, Any] | None) -> dict[str, Any]:
    """Return the row of a statement that always returns one."""
    assert row is not None
    return row
