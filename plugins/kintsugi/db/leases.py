"""Leases: at most one recovery for each node, and a fencing token that shows which holder is the newest."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from kintsugi.core.errors import IncidentClosed, KintsugiError, LeaseHeld, StaleTokenError
from kintsugi.db.database import Database, retry_if_lost

if TYPE_CHECKING:
    from kintsugi.db.database import Rows


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to act on ``node``, until ``expires_at`` (UTC) or until a higher ``token`` exists."""

    node: str
    holder: str
    token: int
    expires_at: datetime


class Leases(Database):
    """One holder for each node.

    After M. Kleppmann, "How to do distributed locking" (2016): a lease can expire while its holder is
    paused. So each write carries the token, and the database refuses every token but the newest.
    """

    @retry_if_lost
    def acquire_lease(
        self, node: str, holder: str, ttl_s: float, *, fresh_token: bool = False, incident: str | None = None
    ) -> Lease:
        """Take the lease on ``node`` for ``ttl_s`` seconds.

        The same holder gets it again with the same token (a renewal). With ``fresh_token`` it gets a higher token,
        which fences off an older process of the same holder. Anyone can take a released or expired lease, with a
        higher token. Raises LeaseHeld, which names the holder and the end of the lease.

        ``incident``: the incident that it is for; raises IncidentClosed if it is closed, and the lease is unchanged.
        """
        with self.transaction() as connection:
            if incident is not None:
                require_open(connection, incident)
            row = connection.execute(
                """
                INSERT INTO lease AS held (node, holder, token, expires_at)
                VALUES (%(node)s, %(holder)s, 1, clock_timestamp() + %(ttl)s)
                ON CONFLICT (node) DO UPDATE SET
                    token = held.token + (held.holder IS DISTINCT FROM excluded.holder OR %(fresh)s)::int,
                    holder = excluded.holder,
                    expires_at = clock_timestamp() + %(ttl)s
                WHERE held.holder IS NULL OR held.holder = excluded.holder
                   OR held.expires_at <= clock_timestamp()
                RETURNING *
                """,
                {"node": node, "holder": holder, "ttl": timedelta(seconds=ttl_s), "fresh": fresh_token},
            ).fetchone()
            if row is None:
                raise self._held_error(connection, node)
        return Lease(**row)

    @retry_if_lost
    def renew_lease(self, node: str, token: int, ttl_s: float) -> Lease:
        """Hold the lease for ``ttl_s`` seconds from now, also if it expired but nobody took it.

        Raises StaleTokenError if ``token`` isn't the newest, or was released.
        """
        with self.transaction() as connection:
            return extend_lease(connection, node, token, ttl_s)

    @retry_if_lost
    def check_lease(self, node: str, token: int, *, incident: str | None = None) -> None:
        """Raise StaleTokenError unless ``token`` is the newest on ``node`` and its lease has not expired.

        Call it right before each action; ``begin_attempt`` does it for an attempt. ``incident``: the incident that the
        action is for; raises IncidentClosed if it is closed. To close an incident locks the same lease, so the answer
        holds for the whole transaction.
        """
        with self.transaction() as connection:
            held = fence_lease(connection, node, token)
            if held["lapsed"]:
                raise StaleTokenError(
                    f"the lease on {node} (token {token}) expired at {held['expires_at']:%H:%M:%S} UTC; "
                    "renew it before acting"
                )
            if incident is not None:
                require_open(connection, incident)

    @retry_if_lost
    def release_lease(self, node: str, token: int) -> None:
        """Release the lease, so that anyone can take it. Does nothing if the token is stale."""
        with self.transaction() as connection:
            connection.execute(
                "UPDATE lease SET holder = NULL, expires_at = clock_timestamp()"
                " WHERE node = %s AND token = %s",
                (node, token),
            )

    @contextmanager
    def hold_lease(self, node: str, holder: str, ttl_s: float) -> Iterator[Lease]:
        """Hold the lease on ``node`` under a fresh token during the block. Raises LeaseHeld before it."""
        lease = self.acquire_lease(node, holder, ttl_s, fresh_token=True)
        try:
            yield lease
        finally:
            self.release_lease(node, lease.token)

    @retry_if_lost
    def give_back(self, node: str, holder: str) -> None:
        """Release the lease on ``node`` if ``holder`` has it; never the lease of another holder."""
        with self.transaction() as connection:
            connection.execute(
                "UPDATE lease SET holder = NULL, expires_at = clock_timestamp()"
                " WHERE node = %s AND holder = %s",
                (node, holder),
            )

    @retry_if_lost
    def read_lease(self, node: str) -> Lease | None:
        """Return the current lease on ``node``; None if nobody holds one."""
        with self.transaction() as connection:
            row = connection.execute(
                "SELECT * FROM lease WHERE node = %s AND holder IS NOT NULL"
                " AND expires_at > clock_timestamp()",
                (node,),
            ).fetchone()
        return None if row is None else Lease(**row)

    @staticmethod
    def _held_error(connection: Rows, node: str) -> LeaseHeld:
        row = connection.execute("SELECT holder, expires_at FROM lease WHERE node = %s", (node,)).fetchone()
        who = (
            f"by {row['holder']} until {row['expires_at']:%Y-%m-%d %H:%M:%S} UTC"
            if row
            else "by someone else"
        )
        return LeaseHeld(f"the lease on {node} is held {who}; wait for that run, or end it first")


def require_open(connection: Rows, incident_id: str) -> None:
    """Raise IncidentClosed if the incident is closed, KintsugiError if there is none."""
    row = connection.execute(
        "SELECT closed_at, outcome FROM incident WHERE id = %s", (incident_id,)
    ).fetchone()
    if row is None:
        raise KintsugiError(f"there is no incident {incident_id}; `make status` lists the last ones")
    if row["closed_at"] is not None:
        raise IncidentClosed(
            f"incident {incident_id} was closed as {row['outcome']} at {row['closed_at']:%Y-%m-%d %H:%M:%S} UTC; "
            "nothing more is done for it. Start recover_node to recover the node again"
        )


def fence_lease(connection: Rows, node: str, token: int) -> dict[str, Any]:
    """Lock the row of the lease until the transaction ends; raises StaleTokenError unless ``token`` is the newest."""
    row = connection.execute(
        "SELECT *, expires_at <= clock_timestamp() AS lapsed FROM lease WHERE node = %s FOR UPDATE", (node,)
    ).fetchone()
    if row is None:
        raise StaleTokenError(f"nobody ever held a lease on {node}; acquire it before acting")
    if row["token"] != token:
        raise StaleTokenError(
            f"token {token} on {node} is no longer the newest ({row['token']}, "
            f"held by {row['holder'] or 'nobody'}); this process must stop"
        )
    if row["holder"] is None:
        raise StaleTokenError(
            f"the lease on {node} (token {token}) was released; acquire it again before acting"
        )
    return row


def extend_lease(connection: Rows, node: str, token: int, ttl_s: float) -> Lease:
    """Fence, then move the end of the lease to at least ``ttl_s`` seconds from now."""
    fence_lease(connection, node, token)
    row = connection.execute(
        "UPDATE lease SET expires_at = greatest(expires_at, clock_timestamp() + %s)"
        " WHERE node = %s RETURNING *",
        (timedelta(seconds=ttl_s), node),
    ).fetchone()
    assert row is not None
    return Lease(**row)
