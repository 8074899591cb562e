"""The outbox: messages to the outside, kept in Postgres until a receiver has accepted them.

A sender puts a message here and continues; the watchdog's process delivers it. So a dead endpoint delays nobody, and a
killed process loses no message. The key says what a message is about, and each key is accepted once, so nothing is
reported twice. Delivery is at least once: a process that is killed after the receiver's answer, but before
``done_at`` is written, sends the message again under the same key.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from kintsugi.db.database import Database

CLAIM = timedelta(seconds=90)
"""How long one delivery may take before another process may take over the message."""
KEPT = timedelta(days=30)


class MessageKind(StrEnum):
    """The kind of a message, which decides who delivers it."""

    PAGE = "page"  # a person is needed
    DIGEST = "digest"  # the summary for the morning
    INCIDENT_TRACE = "incident_trace"
    INGEST_TRACE = "ingest_trace"
    MARKER = "marker"
    RECOVERY = "recovery"  # a recovery that was requested from outside
    REPLAY = "replay"  # a replay of messages that Kafka deleted before they were read


LIFETIME: Mapping[MessageKind, timedelta] = {
    # An old request is out of date: the watch has observed the node since.
    MessageKind.RECOVERY: timedelta(minutes=15),
}
_DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class OutboxMessage:
    """A message under delivery. ``attempts`` includes this one; ``receipt``: the answers to earlier attempts."""

    key: str
    kind: MessageKind
    body: Mapping[str, Any]
    created_at: datetime
    attempts: int
    receipt: Mapping[str, Any] = field(default_factory=dict)


class Outbox(Database):
    """The messages of one installation. Methods raise StoreUnavailable if Postgres can't be reached."""

    def add_message(self, key: str, kind: MessageKind, body: Mapping[str, Any]) -> bool:
        """Add a message; returns False if ``key`` exists already. ``body`` is JSON and holds no secret."""
        from psycopg.types.json import Jsonb

        with self.transaction() as connection:
            written = connection.execute(
                "INSERT INTO outbox (key, kind, body, expires_at)"
                " VALUES (%s, %s, %s, clock_timestamp() + %s) ON CONFLICT (key) DO NOTHING",
                (key, kind.value, Jsonb(dict(body)), LIFETIME.get(kind, _DAY)),
            )
            return written.rowcount == 1

    def claim_message(self, kinds: Collection[MessageKind]) -> OutboxMessage | None:
        """Claim the oldest message that is due, for the time CLAIM; returns None if there is none."""
        with self.transaction() as connection:
            row = connection.execute(
                "UPDATE outbox SET due_at = clock_timestamp() + %s, attempts = attempts + 1"
                " WHERE key = (SELECT key FROM outbox WHERE done_at IS NULL AND due_at <= clock_timestamp()"
                " AND kind = ANY(%s) ORDER BY due_at FOR UPDATE SKIP LOCKED LIMIT 1)"
                " RETURNING key, kind, body, created_at, attempts, receipt",
                (CLAIM, [kind.value for kind in kinds]),
            ).fetchone()
        return None if row is None else OutboxMessage(**{**row, "kind": MessageKind(row["kind"])})

    def mark_delivered(self, key: str, receipt: Mapping[str, Any] | None = None) -> None:
        """Record that the message is delivered; ``receipt`` is added to earlier answers."""
        from psycopg.types.json import Jsonb

        with self.transaction() as connection:
            connection.execute(
                "UPDATE outbox SET done_at = clock_timestamp(), error = NULL, receipt = receipt || %s"
                " WHERE key = %s",
                (Jsonb(dict(receipt or {})), key),
            )

    def record_failure(
        self, message: OutboxMessage, error: str, receipt: Mapping[str, Any] | None = None
    ) -> bool:
        """Record a failed delivery: it is tried again later, or given up if expired; returns whether it is given up.

        ``receipt``: the receivers that accepted it, which the next attempt skips.
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
        """Give up a message that can't be delivered, and keep it with the reason."""
        with self.transaction() as connection:
            connection.execute(
                "UPDATE outbox SET done_at = clock_timestamp(), error = %s WHERE key = %s", (why, key)
            )

    def read_receipt(self, key: str) -> Mapping[str, Any]:
        """Return the receivers' answers to a message so far; empty if there are none, or no such key."""
        with self.transaction() as connection:
            row = connection.execute("SELECT receipt FROM outbox WHERE key = %s", (key,)).fetchone()
        return {} if row is None else dict(row["receipt"])

    def find_due_kinds(self) -> set[MessageKind]:
        """Return the kinds with at least one message that is due now."""
        with self.transaction() as connection:
            rows = connection.execute(
                "SELECT DISTINCT kind FROM outbox WHERE done_at IS NULL AND due_at <= clock_timestamp()"
            ).fetchall()
        return {MessageKind(row["kind"]) for row in rows}

    def read_undelivered(self) -> list[tuple[str, str | None]]:
        """Return key and last error of each message of the last day that waits or was given up, oldest first."""
        with self.transaction() as connection:
            rows = connection.execute(
                "SELECT key, error FROM outbox WHERE created_at > clock_timestamp() - interval '1 day'"
                " AND (done_at IS NULL OR error IS NOT NULL) ORDER BY created_at"
            ).fetchall()
        return [(row["key"], row["error"]) for row in rows]

    def forget_old(self) -> int:
        """Delete messages that were delivered or given up longer than KEPT ago; returns how many."""
        with self.transaction() as connection:
            return connection.execute(
                "DELETE FROM outbox WHERE done_at < clock_timestamp() - %s", (KEPT,)
            ).rowcount


def backoff(attempts: int) -> timedelta:
    """Return the pause after the nth attempt: 2 s, doubled each time, at most 5 minutes."""
    return timedelta(seconds=min(300.0, 2.0 ** min(attempts, 9)))
