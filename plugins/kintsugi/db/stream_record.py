"""The record of the stream, in Postgres: messages that Kafka deleted unread, messages that were no trades, waits.

The streaming driver reports the first two as letters on the dead letter topic (`pipeline.stream.driver_reports`). They
are recorded in one transaction together with the position up to which the topic was read, so each letter counts once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from kintsugi.db.advisory_locks import STREAM_LOSS
from kintsugi.db.database import Database, fetch_as

KEPT = timedelta(days=90)
WAIT_IS_OLD = timedelta(minutes=2)  # a process that waits renews its record every few seconds


class LossState(StrEnum):
    """The state of messages that Kafka deleted unread: open, replayed, of no file, or given up (for a person)."""

    OPEN = "open"
    REPLAYED = "replayed"
    NOTHING = "nothing"
    GIVEN_UP = "given-up"


@dataclass(frozen=True, slots=True)
class Loss:
    """Messages ``first`` to ``end`` - 1 of a partition of the topic, deleted before they were stored."""

    partition: int
    first: int
    end: int
    recorded_at: datetime
    state: LossState = LossState.OPEN
    files: tuple[str, ...] = ()
    said: str = ""
    settled_at: datetime | None = None

    @property
    def id(self) -> str:
        """Its name in pages, run ids and replays."""
        return f"{self.partition}-{self.first}-{self.end}-{self.recorded_at:%Y%m%dT%H%M%S}"

    @property
    def messages(self) -> int:
        return self.end - self.first

    @property
    def settled(self) -> bool:
        """Whether nothing is left to do for it."""
        return self.state in (LossState.REPLAYED, LossState.NOTHING)

    def __str__(self) -> str:
        where = f"partition {self.partition}, offsets {self.first} to {self.end - 1}"
        return f"{where} ({self.messages:,} messages): {self.said or self.state}"


@dataclass(frozen=True, slots=True)
class Wait:
    """A process that holds back messages now: ``name`` is the ingest or a replay, ``key`` its file."""

    name: str
    key: str
    why: str
    since: datetime
    at: datetime

    def __str__(self) -> str:
        return f"{self.name} waits with {self.key} since {self.since:%H:%M:%S} UTC: {self.why}"


@dataclass(frozen=True, slots=True)
class StreamSummary:
    """A summary: losses of the last KEPT, current waits, and refused messages since yesterday by reason."""

    losses: tuple[Loss, ...] = ()
    waits: tuple[Wait, ...] = ()
    refused: Mapping[str, int] = field(default_factory=dict)

    @property
    def well(self) -> bool:
        """Whether no loss is left to be replayed."""
        return all(loss.settled for loss in self.losses)

    def lines(self) -> list[str]:
        """The summary for people, a line for each fact."""
        lines = [f"deleted by Kafka before it was stored: {loss}" for loss in self.losses]
        lines += [f"back-pressure: {wait}" for wait in self.waits]
        if self.refused:
            reasons = ", ".join(f"{reason} {count:,}" for reason, count in self.refused.items())
            lines.append(f"messages that were not valid trades, since yesterday: {reasons}")
        return lines


NOTHING_ON_RECORD = StreamSummary()
Range = tuple[int, int]


def subtract_ranges(new: Range, known: Iterable[Range]) -> list[Range]:
    """Return the parts of the range ``new`` that lie in none of the ``known`` ranges; each (first, end), in order."""
    parts, at = [], new[0]
    for first, end in sorted(known):
        if end <= at or first >= new[1]:
            continue
        if first > at:
            parts.append((at, first))
        at = max(at, end)
    if at < new[1]:
        parts.append((at, new[1]))
    return parts


class StreamRecord(Database):
    """The record of one installation. Methods raise StoreUnavailable."""

    def summary(self) -> StreamSummary:
        """Return the summary of the record."""
        return StreamSummary(tuple(self.losses()), tuple(self.waits()), self.refused())

    # Letters

    def position(self) -> dict[int, int]:
        """Return the next offset to read of the dead letter topic, by partition."""
        with self.transaction() as connection:
            rows = connection.execute("SELECT partition, next FROM letter_position").fetchall()
        return {row["partition"]: row["next"] for row in rows}

    def take(
        self,
        lost: Sequence[tuple[int, int, int]],
        refused: Mapping[str, int],
        position: Mapping[int, int],
    ) -> None:
        """Record letters: ``lost`` (partition, first, end), ``refused`` messages by reason, and the new ``position``.

        Ranges that an open loss covers are not recorded again, because a driver that was killed reports a loss twice.
        """
        with self.transaction() as connection:
            connection.execute("SELECT pg_advisory_xact_lock(%s)", (STREAM_LOSS,))
            for partition, first, end in lost:
                covered = connection.execute(
                    "SELECT first, ends FROM stream_loss WHERE partition = %s AND ends > %s AND first < %s"
                    " AND settled_at IS NULL",
                    (partition, first, end),
                ).fetchall()
                for part in subtract_ranges((first, end), [(row["first"], row["ends"]) for row in covered]):
                    connection.execute(
                        "INSERT INTO stream_loss (partition, first, ends) VALUES (%s, %s, %s)",
                        (partition, *part),
                    )
            for reason, count in refused.items():
                connection.execute(
                    "INSERT INTO refused_message (day, reason, messages)"
                    " VALUES ((clock_timestamp() AT TIME ZONE 'UTC')::date, %s, %s) ON CONFLICT (day, reason)"
                    " DO UPDATE SET messages = refused_message.messages + excluded.messages",
                    (reason, count),
                )
            for partition, following in position.items():
                connection.execute(
                    "INSERT INTO letter_position VALUES (%s, %s)"
                    " ON CONFLICT (partition) DO UPDATE SET next = excluded.next",
                    (partition, following),
                )

    def refused(self, span: timedelta = timedelta(days=1)) -> dict[str, int]:
        """Return how many messages were no trades, by reason, since the day of the time ``span`` ago."""
        with self.transaction() as connection:
            rows = connection.execute(
                "SELECT reason, sum(messages)::bigint AS messages FROM refused_message"
                " WHERE day >= ((clock_timestamp() - %s) AT TIME ZONE 'UTC')::date GROUP BY reason ORDER BY reason",
                (span,),
            ).fetchall()
        return {row["reason"]: row["messages"] for row in rows}

    # Losses

    def losses(self, *, open_only: bool = False) -> list[Loss]:
        """Return the losses of the last KEPT, the oldest first; ``open_only``: only those that are not settled."""
        with self.transaction() as connection:
            rows = connection.execute(
                "SELECT * FROM stream_loss WHERE recorded_at > clock_timestamp() - %s"
                " AND (NOT %s OR settled_at IS NULL) ORDER BY recorded_at, partition, first",
                (KEPT, open_only),
            ).fetchall()
        return [_to_loss(row) for row in rows]

    def loss(self, name: str) -> Loss | None:
        """Return the loss with this `Loss.id`; None if there is none."""
        return next((loss for loss in self.losses() if loss.id == name), None)

    def settle(self, loss: Loss, state: LossState, files: Iterable[str], said: str) -> None:
        """Record how a loss ended: the ``files`` that were sent again, and a sentence."""
        from psycopg.types.json import Jsonb

        with self.transaction() as connection:
            connection.execute(
                "UPDATE stream_loss SET state = %s, files = %s, said = %s, settled_at = clock_timestamp()"
                " WHERE partition = %s AND first = %s AND recorded_at = %s",
                (state.value, Jsonb(sorted(files)), said, loss.partition, loss.first, loss.recorded_at),
            )

    def replays_of(self, span: timedelta) -> dict[str, int]:
        """Return, by key, for how many losses of the last ``span`` each file was sent again."""
        with self.transaction() as connection:
            rows = connection.execute(
                "SELECT key, count(*) AS times FROM stream_loss, jsonb_array_elements_text(files) AS key"
                " WHERE settled_at > clock_timestamp() - %s GROUP BY key",
                (span,),
            ).fetchall()
        return {row["key"]: row["times"] for row in rows}

    # Waits

    def wait(self, name: str, key: str, why: str, since: datetime) -> None:
        """Record that a process holds back messages; it must be renewed every few seconds."""
        with self.transaction() as connection:
            connection.execute(
                "INSERT INTO ingest_wait (name, key, why, since, at) VALUES (%s, %s, %s, %s, clock_timestamp())"
                " ON CONFLICT (name) DO UPDATE"
                " SET key = excluded.key, why = excluded.why, since = excluded.since, at = excluded.at",
                (name, key, why, since),
            )

    def go_on(self, name: str) -> None:
        """Remove the record of a wait that is over."""
        with self.transaction() as connection:
            connection.execute("DELETE FROM ingest_wait WHERE name = %s", (name,))

    def waits(self) -> list[Wait]:
        """Return the current waits, the longest first, without those that were not renewed for WAIT_IS_OLD."""
        with self.transaction() as connection:
            return fetch_as(
                connection,
                Wait,
                "SELECT name, key, why, since, at FROM ingest_wait WHERE at > clock_timestamp() - %s ORDER BY since",
                (WAIT_IS_OLD,),
            )


def _to_loss(row: Mapping[str, Any]) -> Loss:
    return Loss(
        row["partition"], row["first"], row["ends"], row["recorded_at"], LossState(row["state"]), tuple(row["files"]),
        row["said"], row["settled_at"],
    )  # fmt: skip
