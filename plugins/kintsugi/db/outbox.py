"""The outbox: what has to be told to the outside, in Postgres until the outside has taken it.

Whoever has something to tell puts it here and goes on; the watchdog's process delivers. So a dead endpoint delays
nobody, and a killed process neither loses a message nor tells the same thing twice: the key says what a message
is about, and a key is taken once. Delivery is at least once: a process killed between the
receiver's "yes" and the row's ``done_at`` sends again, under the same key.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from kintsugi.core.connections import store_dsn
from kintsugi.core.settings import Settings
from kintsugi.db.database import Database

CLAIM = timedelta(seconds=90)
"""How long a deliverer may take before the message is given to another."""
KEPT = timedelta(days=30)
_LOCK = 0x4B494E56

_TABLES = """
CREATE TABLE IF NOT EXISTS outbox (
    key         text PRIMARY KEY,
    kind        text NOT NULL,
    body        jsonb NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    due_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at  timestamptz NOT NULL,
    attempts    integer NOT NULL DEFAULT 0,
    receipt     jsonb NOT NULL DEFAULT '{}',   -- what the receivers answered
    done_at     timestamptz,
    error       text                           -- of the last attempt; beside done_at: it was given up
);
CREATE INDEX IF NOT EXISTS outbox_due ON outbox (due_at) WHERE done_at IS NULL;
"""


class MessageKind(StrEnum):
    """What a message is, and so who delivers it."""

    PAGE = "page"  # a person is needed
    DIGEST = "digest"  # for the morning
    INCIDENT_TRACE = "incident_trace"
    INGEST_TRACE = "ingest_trace"
    MARKER = "marker"
    RECOVERY = "recovery"  # asked for from outside
    REPLAY = "replay"  # of messages that Kafka deleted unread


LIFETIME: Mapping[MessageKind, timedelta] = {
    # A rebuild asked for long ago is not what anybody wants now: the watch has looked since.
    MessageKind.RECOVERY: timedelta(minutes=15),
}
_DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class OutboxMessage:
    """One row under delivery. ``attempts`` counts this one; ``receipt``: what earlier ones brought back."""

    key: str
    kind: MessageKind
    body: Mapping[str, Any]
    created_at: datetime
    attempts: int
    receipt: Mapping[str, Any] = field(default_factory=dict)


class Outbox(Database):
    """The messages of one installation. Methods raise StoreUnavailable when Postgres can't be reached."""

    def ensure_tables(self) -> None:
        """Make the table where it is missing; safe to race."""
        with self.transaction() as connection:
            connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
            connection.execute(_TABLES)

    def put(self, key: str, kind: MessageKind, body: Mapping[str, Any]) -> bool:
        """Say something once; False when ``key`` was said before. ``body`` is JSON and holds no secret."""
        from psycopg.types.json import Jsonb

        with self.transaction() as connection:
            written = connection.execute(
                "INSERT INTO outbox (key, kind, body, expires_at)"
                " VALUES (%s, %s, %s, clock_timestamp() + %s) ON CONFLICT (key) DO NOTHING",
                (key, kind.value, Jsonb(dict(body)), LIFETIME.get(kind, _DAY)),
            )
            return written.rowcount == 1

    def claim(self, kinds: Collection[MessageKind]) -> OutboxMessage | None:
        """The oldest message that is due, for CLAIM to deliver; None when there is none."""
        with self.transaction() as connection:
            row = connection.execute(
                "UPDATE outbox SET due_at = clock_timestamp() + %s, attempts = attempts + 1"
                " WHERE key = (SELECT key FROM outbox WHERE done_at IS NULL AND due_at <= clock_timestamp()"
                " AND kind = ANY(%s) ORDER BY due_at FOR UPDATE SKIP LOCKED LIMIT 1)"
                " RETURNING key, kind, body, created_at, attempts, receipt",
                (CLAIM, [kind.value for kind in kinds]),
            ).fetchone()
        return None if row is None else OutboxMessage(**{**row, "kind": MessageKind(row["kind"])})

    def done(self, key: str, receipt: Mapping[str, Any] | None = None) -> None:
        """The outside has it; ``receipt`` is added to what is known."""
        from psycopg.types.json import Jsonb

        with self.transaction() as connection:
            connection.execute(
                "UPDATE outbox SET done_at = clock_timestamp(), error = NULL, receipt = receipt || %s"
                " WHERE key = %s",
                (Jsonb(dict(receipt or {})), key),
            )

    def failed(self, message: OutboxMessage, error: str, receipt: Mapping[str, Any] | None = None) -> bool:
        """Not this time: try again later, or give up when it has expired; returns whether it was given up.

        ``receipt``: what was reached nevertheless, so that the next attempt leaves it out.
        """
        from psycopg.types.json import Jsonb

        with self.transaction() as connection:
            row = connection.execute(
                "UPDATE outbox SET error = %s, receipt = receipt || %s, due_at = clock_timestamp() + %s,"
                " done_at = CASE WHEN expires_at <= clock_timestamp() THEN clock_timestamp() END"
                " WHERE key = %s RETURNING done_at",
                (error, Jsonb(dict(receipt or {})), backoff(message.attempts), message.key),
            ).fetchone()
        return row is not None and row["done_at"] is not None

    def give_up(self, key: str, why: str) -> None:
        """Nobody will ever take it: keep it with the reason."""
        with self.transaction() as connection:
            connection.execute(
                "UPDATE outbox SET done_at = clock_timestamp(), error = %s WHERE key = %s", (why, key)
            )

    def receipt(self, key: str) -> Mapping[str, Any]:
        """What the receivers of a message answered so far; empty when nothing did, or there is no such key."""
        with self.transaction() as connection:
            row = connection.execute("SELECT receipt FROM outbox WHERE key = %s", (key,)).fetchone()
        return {} if row is None else dict(row["receipt"])

    def due(self) -> set[MessageKind]:
        """The kinds of which at least one message is due now."""
        with self.transaction() as connection:
            rows = connection.execute(
                "SELECT DISTINCT kind FROM outbox WHERE done_at IS NULL AND due_at <= clock_timestamp()"
            ).fetchall()
        return {MessageKind(row["kind"]) for row in rows}

    def undelivered(self) -> list[tuple[str, str | None]]:
        """Key and last error of every message that waits or was given up in the last day, oldest first."""
        with self.transaction() as connection:
            rows = connection.execute(
                "SELECT key, error FROM outbox WHERE created_at > clock_timestamp() - interval '1 day'"
                " AND (done_at IS NULL OR error IS NOT NULL) ORDER BY created_at"
            ).fetchall()
        return [(row["key"], row["error"]) for row in rows]

    def forget_old(self) -> int:
        """Delete what was settled longer than KEPT ago; returns how many."""
        with self.transaction() as connection:
            return connection.execute(
                "DELETE FROM outbox WHERE done_at < clock_timestamp() - %s", (KEPT,)
            ).rowcount


def backoff(attempts: int) -> timedelta:
    """The pause after the nth attempt: 2 s, doubled each time, at most 5 minutes."""
    return timedelta(seconds=min(300.0, 2.0 ** min(attempts, 9)))


def outbox_of(settings: Settings) -> Outbox:
    """The outbox of an installation, its table made where it is missing."""
    outbox = Outbox(store_dsn(settings))
    outbox.ensure_tables()
    return outbox
