"""Incidents and their journals: at most one open incident for each node, and every write fenced by its lease."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Literal

from kintsugi.core.errors import GuardRefused
from kintsugi.core.fleet import Role
from kintsugi.core.incident import Incident, Outcome, incident_id
from kintsugi.db.database import Database, retry_if_lost
from kintsugi.db.incident_rows import (
    append_entry,
    fence_incident,
    load_incident,
    load_incidents,
    read_incident_row,
    record_pending_repair,
)
from kintsugi.db.leases import fence_lease

Mark = Literal["redundant_at", "consistent_at", "t0"]


class Incidents(Database):
    """At most one open incident for each node, with an append-only journal. Each write is fenced by the lease."""

    @retry_if_lost
    def open_incident(
        self,
        node: str,
        token: int,
        *,
        role: Role,
        holder: str,
        first_failed_at: datetime,
        detected_at: datetime,
        t0: datetime | None = None,
    ) -> Incident:
        """Open an incident of ``node``, or continue the open one, such as after the death of its run.

        A continued incident keeps its times and gets the new ``holder``. Raises StaleTokenError.
        """
        with self.transaction() as connection:
            fence_lease(connection, node, token)
            row = connection.execute(
                "UPDATE incident SET holder = %s WHERE node = %s AND closed_at IS NULL RETURNING id",
                (holder, node),
            ).fetchone()
            identity = row["id"] if row else incident_id(node, datetime.now(UTC))
            if row is None:
                connection.execute(
                    "INSERT INTO incident (id, node, role, holder, t0, first_failed_at, detected_at)"
                    " VALUES (%s, %s, %s, %s, %s, %s, %s)",
                    (identity, node, role.value, holder, t0, first_failed_at, detected_at),
                )
            return load_incident(connection, identity)

    def append_entry(
        self,
        incident_id: str,
        token: int,
        step: str,
        message: str,
        data: Mapping[str, Any] | None = None,
        *,
        key: str | None = None,
    ) -> bool:
        """Add an entry to the journal, unless its ``key`` exists already (then False); ``data`` is JSON.

        Raises StaleTokenError, and KintsugiError if there is no such incident.
        """
        with self.transaction() as connection:
            fence_incident(connection, incident_id, token)
            return append_entry(connection, incident_id, step, message, data, key)

    @retry_if_lost
    def set_mark(self, incident_id: str, token: int, mark: Mark, at: datetime | None = None) -> None:
        """Set a time of the incident (default: now) once; a repeated step doesn't change it. Raises StaleTokenError.

        ``consistent_at`` also removes the node's pending data repair.
        """
        from psycopg.sql import SQL, Identifier

        with self.transaction() as connection:
            node = fence_incident(connection, incident_id, token)["node"]
            connection.execute(
                SQL("UPDATE incident SET {0} = coalesce({0}, %s, clock_timestamp()) WHERE id = %s").format(
                    Identifier(mark)
                ),
                (at, incident_id),
            )
            if mark == "consistent_at":
                connection.execute("DELETE FROM pending_repair WHERE node = %s", (node,))

    @retry_if_lost
    def expect_repair(self, incident_id: str, token: int) -> None:
        """Record a pending data repair of the incident's node until the mark ``consistent_at``; StaleTokenError."""
        with self.transaction() as connection:
            record_pending_repair(connection, fence_incident(connection, incident_id, token))

    @retry_if_lost
    def close_incident(self, incident_id: str, token: int, outcome: Outcome, reason: str) -> Incident:
        """Close the incident; release the lease after it. To close it again with the same outcome does nothing.

        Raises StaleTokenError, and GuardRefused if it was closed with another outcome.
        """
        with self.transaction() as connection:
            incident = read_incident_row(connection, incident_id)
            if incident["closed_at"] is None:
                # Another run may have closed it while this one waited for the lease, so it is read again.
                incident = fence_incident(connection, incident_id, token)
            if incident["closed_at"] is None:
                connection.execute(
                    "UPDATE incident SET closed_at = clock_timestamp(), outcome = %s, reason = %s"
                    " WHERE id = %s",
                    (outcome.value, reason, incident_id),
                )
            elif incident["outcome"] != outcome.value:
                raise GuardRefused(
                    f"incident {incident_id} is already closed as {incident['outcome']}; "
                    f"its outcome can't be changed to {outcome.value}"
                )
            return load_incident(connection, incident_id)

    @retry_if_lost
    def read_incident(self, incident_id: str) -> Incident:
        """Return the incident with its whole journal; raises KintsugiError if there is none."""
        with self.transaction() as connection:
            return load_incident(connection, incident_id)

    @retry_if_lost
    def read_incidents(
        self, limit: int | None = 50, *, node: str | None = None, open_only: bool = False
    ) -> list[Incident]:
        """Return the newest incidents (of ``node``, or of all), newest first, with their journals.

        ``limit``: how many at most; None for every one. At most one incident of a node is open.
        """
        with self.transaction() as connection:
            rows = connection.execute(
                "SELECT * FROM incident WHERE (%(node)s::text IS NULL OR node = %(node)s)"
                " AND (NOT %(open)s OR closed_at IS NULL) ORDER BY opened_at DESC LIMIT %(limit)s",
                {"node": node, "open": open_only, "limit": limit},
            ).fetchall()
            return load_incidents(connection, rows)

    @retry_if_lost
    def read_current_incidents(self, since: datetime, *, newest: int = 0) -> list[Incident]:
        """Return every incident that is open or was closed at ``since`` (UTC) or later, newest first, with its journal.

        ``newest``: so many of the newest incidents are among them in any case.
        """
        with self.transaction() as connection:
            rows = connection.execute(
                "SELECT * FROM incident WHERE closed_at IS NULL OR closed_at >= %(since)s OR id IN"
                " (SELECT id FROM incident ORDER BY opened_at DESC LIMIT %(newest)s)"
                " ORDER BY opened_at DESC",
                {"since": since, "newest": newest},
            ).fetchall()
            return load_incidents(connection, rows)

    @retry_if_lost
    def read_failures_between(self, start: datetime, end: datetime, *, role: Role) -> list[Incident]:
        """Return every incident of ``role`` whose first failed probe was between ``start`` and ``end`` (UTC).

        Both ends are exclusive. Newest first, with their journals.
        """
        with self.transaction() as connection:
            rows = connection.execute(
                "SELECT * FROM incident WHERE role = %(role)s AND first_failed_at > %(start)s"
                " AND first_failed_at < %(end)s ORDER BY opened_at DESC",
                {"role": role.value, "start": start, "end": end},
            ).fetchall()
            return load_incidents(connection, rows)

    @retry_if_lost
    def first_failures(self) -> dict[str, datetime]:
        """Return the nodes with an open incident, however many, with the time of the first failed probe, UTC."""
        with self.transaction() as connection:
            rows = connection.execute(
                "SELECT node, max(first_failed_at) AS at FROM incident WHERE closed_at IS NULL GROUP BY node"
            ).fetchall()
        return {row["node"]: row["at"] for row in rows}

    @retry_if_lost
    def pending_repairs(self) -> dict[str, datetime]:
        """Return the nodes with a pending data repair, with the time since when: rebuilt, or missing rows."""
        with self.transaction() as connection:
            rows = connection.execute("SELECT node, since FROM pending_repair ORDER BY since").fetchall()
        return {row["node"]: row["since"] for row in rows}

    def forget_pending(self, nodes: Iterable[str]) -> None:
        """Remove the pending data repairs of these nodes: their cluster was recreated, or they left it."""
        with self.transaction() as connection:
            connection.execute("DELETE FROM pending_repair WHERE node = ANY(%s)", (list(nodes),))
