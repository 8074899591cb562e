"""Faults that were injected, maintenance, and what the fleet is meant to be doing."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from kintsugi.core.errors import GuardRefused
from kintsugi.db.database import Database, asked_again, one

FLEET = "*"
"""The scope of a maintenance flag that covers every node."""


@dataclass(frozen=True, slots=True)
class RecordedFault:
    """A fault made on purpose. ``t0``: the injector's time just before it, UTC. ``mode``: reset or silent."""

    node: str
    kind: str
    mode: str
    run: str
    t0: datetime


@dataclass(frozen=True, slots=True)
class Maintenance:
    """A person's word that a node (``*``: the fleet) isn't to be touched. ``until`` None: until cleared."""

    scope: str
    reason: str
    user: str
    since: datetime
    until: datetime | None

    def __str__(self) -> str:
        what = "the whole fleet" if self.scope == FLEET else self.scope
        until = f"until {self.until:%Y-%m-%d %H:%M} UTC" if self.until else "until it is cleared"
        return f"{what} is in maintenance {until}: {self.reason} ({self.user})."


@dataclass(frozen=True, slots=True)
class Desired:
    """What something is meant to be, with the version that a compare-and-set has to name."""

    key: str
    value: Any
    version: int


class Flags(Database):
    """Small facts with one row each."""

    @asked_again
    def record_fault(self, node: str, *, kind: str, t0: datetime, run: str, mode: str = "reset") -> None:
        """Write down a fault before it is made; the same fault of the same run is written once."""
        with self.transaction() as connection:
            connection.execute(
                "INSERT INTO fault (node, kind, mode, run, t0) VALUES (%s, %s, %s, %s, %s)"
                " ON CONFLICT DO NOTHING",
                (node, kind, mode, run, t0),
            )

    @asked_again
    def last_fault(
        self, node: str, before: datetime, *, after: datetime | None = None
    ) -> RecordedFault | None:
        """The last fault made on ``node`` at or before ``before``; where given, not before ``after``."""
        with self.transaction() as connection:
            row = connection.execute(
                "SELECT node, kind, mode, run, t0 FROM fault WHERE node = %s AND t0 <= %s"
                " AND t0 >= coalesce(%s, '-infinity'::timestamptz) ORDER BY t0 DESC LIMIT 1",
                (node, before, after),
            ).fetchone()
        return None if row is None else RecordedFault(**row)

    @asked_again
    def faults(self, limit: int = 100) -> list[RecordedFault]:
        """The newest faults, newest first."""
        with self.transaction() as connection:
            rows = connection.execute(
                "SELECT node, kind, mode, run, t0 FROM fault ORDER BY t0 DESC, id DESC LIMIT %s", (limit,)
            ).fetchall()
        return [RecordedFault(**row) for row in rows]

    def set_maintenance(self, scope: str, *, reason: str, user: str, until: datetime | None = None) -> None:
        """Keep recovery away from a node, or from all by ``*``; replaces this user's flag, and nobody else's."""
        with self.transaction() as connection:
            connection.execute(
                'INSERT INTO maintenance (scope, reason, "user", until) VALUES (%s, %s, %s, %s)'
                ' ON CONFLICT (scope, "user") DO UPDATE SET reason = excluded.reason,'
                " until = excluded.until, since = clock_timestamp()",
                (scope, reason, user, until),
            )

    def clear_maintenance(self, scope: str, *, user: str | None = None) -> None:
        """Take back the flag that ``user`` set on ``scope``, or all of them; does nothing when there is none."""
        with self.transaction() as connection:
            connection.execute(
                'DELETE FROM maintenance WHERE scope = %s AND "user" = coalesce(%s, "user")', (scope, user)
            )

    @asked_again
    def maintenance(self, node: str = FLEET) -> list[Maintenance]:
        """The flags in force now that cover ``node``: its own and the fleet's."""
        with self.transaction() as connection:
            rows = connection.execute(MAINTENANCE_NOW, ([node, FLEET],)).fetchall()
        return [Maintenance(**row) for row in rows]

    @asked_again
    def desired(self, key: str) -> Desired | None:
        """What ``key`` is meant to be; None when nobody ever said."""
        with self.transaction() as connection:
            row = connection.execute("SELECT * FROM desired WHERE key = %s", (key,)).fetchone()
        return None if row is None else Desired(**row)

    def set_desired(self, key: str, value: Any, *, expected: int | None = None) -> Desired:
        """Say what ``key`` is meant to be; ``value`` is JSON. Returns it with its new version.

        ``expected``: the version that the caller has read (0: none yet); raises GuardRefused when another has
        written since. None: whatever is there.
        """
        from psycopg.types.json import Jsonb

        with self.transaction() as connection:
            # Of two first writers only one sees the row missing, so the missing row is locked by a row.
            connection.execute(
                "INSERT INTO desired VALUES (%s, 'null', 0) ON CONFLICT (key) DO NOTHING", (key,)
            )
            found = one(
                connection.execute("SELECT version FROM desired WHERE key = %s FOR UPDATE", (key,)).fetchone()
            )["version"]
            if expected is not None and expected != found:
                raise GuardRefused(
                    f"{key} was changed by another (version {found}, not {expected}); read it again first"
                )
            row = connection.execute(
                "UPDATE desired SET value = %s, version = version + 1 WHERE key = %s RETURNING *",
                (Jsonb(value), key),
            ).fetchone()
        return Desired(**one(row))


MAINTENANCE_NOW = """
SELECT scope, reason, "user", since, until FROM maintenance
WHERE scope = ANY(%s) AND (until IS NULL OR until > clock_timestamp()) ORDER BY scope, since
"""
