"""Injected faults, maintenance flags, and the desired state of the fleet."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, LiteralString

from kintsugi.core.errors import GuardRefused
from kintsugi.db.database import Database, fetch_as, fetch_row, retry_if_lost

FLEET = "*"
"""The scope of a maintenance flag that covers every node."""


@dataclass(frozen=True, slots=True)
class RecordedFault:
    """An injected fault. ``t0``: the injector's time just before it, UTC. ``mode``: reset or silent."""

    node: str
    kind: str
    mode: str
    run: str
    t0: datetime


@dataclass(frozen=True, slots=True)
class Maintenance:
    """A maintenance flag: recovery doesn't touch the node (``*``: the fleet). ``until`` None: until cleared."""

    scope: str
    reason: str
    user: str
    since: datetime
    until: datetime | None

    def __str__(self) -> str:
        what = "the whole fleet" if self.scope == FLEET else self.scope
        until = f"until {self.until:%Y-%m-%d %H:%M} UTC" if self.until else "until it is cleared"
        return f"{what} is in maintenance {until}: {self.reason} (set by {self.user})."


@dataclass(frozen=True, slots=True)
class Desired:
    """A desired state, with its version for a compare-and-set."""

    key: str
    value: Any
    version: int


class Flags(Database):
    """Injected faults, maintenance flags and desired states, one row each."""

    @retry_if_lost
    def record_fault(self, node: str, *, kind: str, t0: datetime, run: str, mode: str = "reset") -> None:
        """Record a fault before it is injected; the same fault of the same run is recorded once."""
        with self.transaction() as connection:
            connection.execute(
                "INSERT INTO fault (node, kind, mode, run, t0) VALUES (%s, %s, %s, %s, %s)"
                " ON CONFLICT DO NOTHING",
                (node, kind, mode, run, t0),
            )

    @retry_if_lost
    def last_fault(
        self, node: str, before: datetime, *, after: datetime | None = None
    ) -> RecordedFault | None:
        """Return the last fault of ``node`` at or before ``before`` and, if given, not before ``after``."""
        with self.transaction() as connection:
            row = connection.execute(
                "SELECT node, kind, mode, run, t0 FROM fault WHERE node = %s AND t0 <= %s"
                " AND t0 >= coalesce(%s, '-infinity'::timestamptz) ORDER BY t0 DESC LIMIT 1",
                (node, before, after),
            ).fetchone()
        return None if row is None else RecordedFault(**row)

    @retry_if_lost
    def read_faults(self, limit: int = 100) -> list[RecordedFault]:
        """Return the newest faults, newest first."""
        with self.transaction() as connection:
            return fetch_as(
                connection,
                RecordedFault,
                "SELECT node, kind, mode, run, t0 FROM fault ORDER BY t0 DESC, id DESC LIMIT %s",
                (limit,),
            )

    def set_maintenance(self, scope: str, *, reason: str, user: str, until: datetime | None = None) -> None:
        """Keep recovery away from a node, or from all nodes by ``*``; replaces only this user's own flag."""
        with self.transaction() as connection:
            connection.execute(
                'INSERT INTO maintenance (scope, reason, "user", until) VALUES (%s, %s, %s, %s)'
                ' ON CONFLICT (scope, "user") DO UPDATE SET reason = excluded.reason,'
                " until = excluded.until, since = clock_timestamp()",
                (scope, reason, user, until),
            )

    def clear_maintenance(self, scope: str, *, user: str | None = None) -> None:
        """Clear the flag that ``user`` set on ``scope``, or the flags of all users; does nothing if there is none."""
        with self.transaction() as connection:
            connection.execute(
                'DELETE FROM maintenance WHERE scope = %s AND "user" = coalesce(%s, "user")', (scope, user)
            )

    @retry_if_lost
    def read_maintenance(self, node: str = FLEET) -> list[Maintenance]:
        """Return the current flags that cover ``node``: its own and the fleet's."""
        with self.transaction() as connection:
            return fetch_as(connection, Maintenance, MAINTENANCE_NOW, ([node, FLEET],))

    @retry_if_lost
    def read_desired(self, key: str) -> Desired | None:
        """Return the desired state of ``key``; None if it was never set."""
        with self.transaction() as connection:
            row = connection.execute("SELECT * FROM desired WHERE key = %s", (key,)).fetchone()
        return None if row is None else Desired(**row)

    def set_desired(self, key: str, value: Any, *, expected: int | None = None) -> Desired:
        """Set the desired state of ``key``; ``value`` is JSON. Returns it with its new version.

        ``expected``: the version that the caller has read (0: none yet). Raises GuardRefused if another process has
        written since. None: any version.
        """
        from psycopg.types.json import Jsonb

        with self.transaction() as connection:
            # A missing row can't be locked, so it is created first. Then one of two first writers waits for the other.
            connection.execute(
                "INSERT INTO desired VALUES (%s, 'null', 0) ON CONFLICT (key) DO NOTHING", (key,)
            )
            row = fetch_row(
                connection.execute("SELECT version FROM desired WHERE key = %s FOR UPDATE", (key,))
            )
            if expected is not None and expected != row["version"]:
                raise GuardRefused(
                    f"{key} was changed by another process (version {row['version']}, not {expected}); "
                    "read it again first"
                )
            return fetch_as(
                connection,
                Desired,
                "UPDATE desired SET value = %s, version = version + 1 WHERE key = %s RETURNING *",
                (Jsonb(value), key),
            )[0]


# The flag of a replacement (`dag_ids.REPLACE_DAG`) ends with its lease. So a killed run keeps no recovery away. So does
# that of a node that is added or removed (`dag_ids.SCALE_DAG`), whose run holds the lease of the whole fleet.
IN_FORCE: LiteralString = """
(until IS NULL OR until > clock_timestamp()) AND (
    split_part("user", '/', 1) <> 'replace_node'
    OR EXISTS (SELECT FROM lease WHERE lease.node = scope AND lease.holder = "user"
               AND lease.expires_at > clock_timestamp())
) AND (
    split_part("user", '/', 1) <> 'scale_fleet'
    OR EXISTS (SELECT FROM lease WHERE lease.node = 'deploy_release' AND lease.holder = "user"
               AND lease.expires_at > clock_timestamp())
)
"""
MAINTENANCE_NOW: LiteralString = (
    'SELECT scope, reason, "user", since, until FROM maintenance'
    " WHERE scope = ANY(%s) AND (" + IN_FORCE + ") ORDER BY scope, since"
)
