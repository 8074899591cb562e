"""Incidents and their journals, and the one transaction in which an attempt to recover a node begins."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal, LiteralString

from kintsugi.core.errors import KintsugiError, Refused
from kintsugi.core.fleet import Role
from kintsugi.core.incident import ATTEMPT, WITHDRAWN, Action, Entry, Incident, Ledger, Outcome, incident_id
from kintsugi.db import advisory_locks
from kintsugi.db.database import Database, asked_again, one
from kintsugi.db.flags import FLEET, MAINTENANCE_NOW, Maintenance
from kintsugi.db.leases import extend, fence, require_open

if TYPE_CHECKING:
    from kintsugi.db.database import Rows

Mark = Literal["redundant_at", "consistent_at", "t0"]

BUDGET_WINDOW = timedelta(hours=1)


_NOT_WITHDRAWN: LiteralString = (
    "NOT EXISTS (SELECT FROM incident_entry w WHERE w.incident_id = e.incident_id"
    " AND w.step = 'attempt.withdrawn' AND w.data->>'attempt' = e.key)"
)


# An attempt that failed because of the control plane also counts: this limits how often it is tried.
_IN_BUDGET: LiteralString = _NOT_WITHDRAWN[:-1] + " AND NOT coalesce((w.data->>'counts')::boolean, false))"


class Incidents(Database):
    """At most one open incident for each node, with an append-only journal. Each write is fenced by the lease."""

    @asked_again
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

        A continued incident keeps its times and gets the new ``holder``. Raises Fenced.
        """
        with self.transaction() as connection:
            fence(connection, node, token)
            row = (
                connection.execute(
                    "UPDATE incident SET holder = %s WHERE node = %s AND closed_at IS NULL RETURNING id",
                    (holder, node),
                ).fetchone()
                or connection.execute(
                    "INSERT INTO incident (id, node, role, holder, t0, first_failed_at, detected_at)"
                    " VALUES (%s, %s, %s, %s, %s, %s, %s) RETURNING id",
                    (
                        incident_id(node, datetime.now(UTC)),
                        node,
                        role.value,
                        holder,
                        t0,
                        first_failed_at,
                        detected_at,
                    ),
                ).fetchone()
            )
            return _load(connection, one(row)["id"])

    def append(
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

        Raises Fenced, and KintsugiError if there is no such incident.
        """
        with self.transaction() as connection:
            _fenced(connection, incident_id, token)
            return _write(connection, incident_id, step, message, data, key)

    @asked_again
    def begin_attempt(
        self,
        incident_id: str,
        token: int,
        action: Action,
        *,
        key: str,
        reason: str,
        refusals: Callable[[Ledger], Sequence[str]],
        ttl_s: float = 300.0,
    ) -> bool:
        """Begin an attempt: one transaction that checks the lease, evaluates the guards, and records the action.

        ``refusals``: gets the database's current ledger and returns the reasons against the attempt (none: allowed);
        pure and quick, e.g. ``lambda ledger: judge(action, facts.with_ledger(ledger)).reasons``. Only one attempt of
        the fleet is in this transaction at a time, so two rebuilds always see each other. The lease is held for at
        least another ``ttl_s`` seconds. A pending data repair is recorded until the mark ``consistent_at`` if a volume
        will be destroyed. It is also recorded if the host of a Cassandra node will be destroyed, because the unsynced
        part of its commit log is lost.

        Returns False if the attempt ``key`` was begun before: the step runs again and continues it, after the guards
        were evaluated again. Raises Fenced, IncidentClosed, or Refused with the reasons; nothing is written then.
        """
        with self.transaction() as connection:
            connection.execute("SELECT pg_advisory_xact_lock(%s)", (advisory_locks.ATTEMPT,))
            found = _fenced(connection, incident_id, token)
            extend(connection, found["node"], token, ttl_s)
            require_open(connection, incident_id)
            reasons = refusals(_ledger(connection, found, key))
            if reasons:
                raise Refused(" ".join(reasons))
            pending = connection.execute(
                "SELECT 1 FROM pending_repair WHERE node = %s", (found["node"],)
            ).fetchone()
            data = {"action": action.value, "key": key, "pending_before": pending is not None}
            if not _write(connection, incident_id, ATTEMPT, reason, data, key):
                if _withdrawn(connection, incident_id, key):
                    raise Refused(f"the attempt {key} of {incident_id} was withdrawn; start a new run")
                return False
            # The node failed again, so the marks of an earlier attempt of this incident no longer hold.
            connection.execute(
                "UPDATE incident SET redundant_at = NULL, consistent_at = NULL WHERE id = %s", (incident_id,)
            )
            if action.destroys_volume or (action.destroys and found["role"] == Role.CASSANDRA):
                _expect_repair(connection, found)
            return True

    @asked_again
    def withdraw_attempt(
        self,
        incident_id: str,
        token: int,
        key: str,
        reason: str,
        *,
        untouched: bool = True,
        counts: bool = False,
    ) -> None:
        """Withdraw the attempt ``key``: it did nothing, or the control plane was the reason for its failure.

        It uses up no escalation step, and nothing of the repair budget unless it ``counts``. ``untouched``: nothing of
        the node was destroyed. Then its pending data repair is removed, unless the node had one before or another
        attempt of this incident destroyed something. Raises Fenced, IncidentClosed.
        """
        with self.transaction() as connection:
            found = _fenced(connection, incident_id, token)
            require_open(connection, incident_id)
            data = {"attempt": key, "counts": counts}
            _write(connection, incident_id, WITHDRAWN, reason, data, f"withdrawn {key}")
            incident = _load(connection, incident_id)
            before = any(
                entry.data.get("pending_before")
                for entry in incident.entries
                if entry.step == ATTEMPT and entry.data.get("key") == key
            )
            if untouched and not before and not any(action.destroys for action in incident.attempts()):
                connection.execute(
                    "DELETE FROM pending_repair WHERE node = %s AND incident_id = %s",
                    (found["node"], incident_id),
                )

    @contextmanager
    def kill_lock(self, deadline_s: float = 60.0) -> Iterator[None]:
        """Hold the fleet's kill lock: only its holder may evaluate the guards for a running node and kill it.

        Raises Refused if another recovery holds it for longer than ``deadline_s``.
        """
        with self.transaction() as connection:
            connection.execute("SET LOCAL idle_in_transaction_session_timeout = '120s'")
            ends_s = time.monotonic() + deadline_s
            while not _takes_kill_lock(connection):
                if time.monotonic() > ends_s:
                    raise Refused(
                        f"Nothing is killed: another recovery has held the kill lock for {deadline_s:.0f} s."
                    )
                time.sleep(0.25)
            yield  # the lock ends with its connection, also when this process is killed

    @asked_again
    def set_mark(self, incident_id: str, token: int, mark: Mark, at: datetime | None = None) -> None:
        """Set a time of the incident (default: now) once; a repeated step doesn't change it. Raises Fenced.

        ``consistent_at`` also removes the node's pending data repair.
        """
        from psycopg.sql import SQL, Identifier

        with self.transaction() as connection:
            node = _fenced(connection, incident_id, token)["node"]
            connection.execute(
                SQL("UPDATE incident SET {0} = coalesce({0}, %s, clock_timestamp()) WHERE id = %s").format(
                    Identifier(mark)
                ),
                (at, incident_id),
            )
            if mark == "consistent_at":
                connection.execute("DELETE FROM pending_repair WHERE node = %s", (node,))

    @asked_again
    def expect_repair(self, incident_id: str, token: int) -> None:
        """Record a pending data repair of the incident's node until the mark ``consistent_at``. Raises Fenced."""
        with self.transaction() as connection:
            _expect_repair(connection, _fenced(connection, incident_id, token))

    @asked_again
    def close_incident(self, incident_id: str, token: int, outcome: Outcome, reason: str) -> Incident:
        """Close the incident; release the lease after it. To close it again with the same outcome does nothing.

        Raises Fenced, and Refused if it was closed with another outcome.
        """
        with self.transaction() as connection:
            found = _row(connection, incident_id)
            if found["closed_at"] is None:
                # Another run may have closed it while this one waited for the lease, so it is read again.
                found = _fenced(connection, incident_id, token)
            if found["closed_at"] is None:
                connection.execute(
                    "UPDATE incident SET closed_at = clock_timestamp(), outcome = %s, reason = %s"
                    " WHERE id = %s",
                    (outcome.value, reason, incident_id),
                )
            elif found["outcome"] != outcome.value:
                raise Refused(
                    f"incident {incident_id} is already closed as {found['outcome']}; "
                    f"its outcome can't be changed to {outcome.value}"
                )
            return _load(connection, incident_id)

    @asked_again
    def incident(self, incident_id: str) -> Incident:
        """Return the incident with its whole journal; raises KintsugiError if there is none."""
        with self.transaction() as connection:
            return _load(connection, incident_id)

    @asked_again
    def open_incident_of(self, node: str) -> Incident | None:
        """Return the open incident of ``node``, None if there is none."""
        with self.transaction() as connection:
            row = connection.execute(
                "SELECT * FROM incident WHERE node = %s AND closed_at IS NULL", (node,)
            ).fetchone()
            return None if row is None else _with_entries(connection, [row])[0]

    @asked_again
    def incidents(
        self, limit: int = 50, *, node: str | None = None, open_only: bool = False
    ) -> list[Incident]:
        """Return the newest incidents (of ``node``, or of all), newest first, with their journals."""
        with self.transaction() as connection:
            rows = connection.execute(
                "SELECT * FROM incident WHERE (%(node)s::text IS NULL OR node = %(node)s)"
                " AND (NOT %(open)s OR closed_at IS NULL) ORDER BY opened_at DESC LIMIT %(limit)s",
                {"node": node, "open": open_only, "limit": limit},
            ).fetchall()
            return _with_entries(connection, rows)

    @asked_again
    def repairs(self, node: str | None, since: datetime) -> int:
        """Return how many attempts were begun since then, on ``node`` or (None) on the whole fleet."""
        with self.transaction() as connection:
            return _repairs(connection, node, since, ("", ""))

    @asked_again
    def pending_repairs(self) -> dict[str, datetime]:
        """Return the nodes with a pending data repair, with the time since when: rebuilt, or missing rows."""
        with self.transaction() as connection:
            rows = connection.execute("SELECT node, since FROM pending_repair ORDER BY since").fetchall()
        return {row["node"]: row["since"] for row in rows}

    def forget_pending(self, nodes: Iterable[str]) -> None:
        """Remove the pending data repairs of these nodes: their cluster was recreated and is empty."""
        with self.transaction() as connection:
            connection.execute("DELETE FROM pending_repair WHERE node = ANY(%s)", (list(nodes),))

    @asked_again
    def ledger(self, incident_id: str) -> Ledger:
        """Return the database's facts for the guards before the attempt; ``begin_attempt`` reads them again."""
        with self.transaction() as connection:
            return _ledger(connection, _row(connection, incident_id), "")


def _takes_kill_lock(connection: Rows) -> bool:
    row = connection.execute(
        "SELECT pg_try_advisory_xact_lock(%s) AS held", (advisory_locks.KILL,)
    ).fetchone()
    return bool(one(row)["held"])


def _row(connection: Rows, incident_id: str) -> dict[str, Any]:
    row = connection.execute("SELECT * FROM incident WHERE id = %s", (incident_id,)).fetchone()
    if row is None:
        raise KintsugiError(f"there is no incident {incident_id}; `make status` lists the last ones")
    return row


def _expect_repair(connection: Rows, incident: Mapping[str, Any]) -> None:
    """Record a pending data repair of the node, until ``consistent_at``; Spark nodes have no data."""
    if incident["role"] in (Role.KAFKA.value, Role.CASSANDRA.value):
        connection.execute(
            "INSERT INTO pending_repair (node, role, incident_id) VALUES (%(node)s, %(role)s, %(id)s)"
            " ON CONFLICT (node) DO UPDATE SET incident_id = excluded.incident_id",
            incident,
        )


def _fenced(connection: Rows, incident_id: str, token: int) -> dict[str, Any]:
    """Lock the node's lease, check that ``token`` is the newest, and return the incident's row.

    Every transaction locks the row of the lease first, so there is no deadlock.
    """
    fence(connection, _row(connection, incident_id)["node"], token)
    return _row(connection, incident_id)


def _withdrawn(connection: Rows, incident_id: str, key: str) -> bool:
    row = connection.execute(
        "SELECT 1 FROM incident_entry WHERE incident_id = %s AND key = %s",
        (incident_id, f"withdrawn {key}"),
    ).fetchone()
    return row is not None


def _write(
    connection: Rows,
    incident_id: str,
    step: str,
    message: str,
    data: Mapping[str, Any] | None,
    key: str | None,
) -> bool:
    from psycopg.types.json import Jsonb

    written = connection.execute(
        "INSERT INTO incident_entry (incident_id, step, message, data, key) VALUES (%s, %s, %s, %s, %s)"
        " ON CONFLICT (incident_id, key) DO NOTHING",
        (incident_id, step, message, Jsonb(dict(data or {})), key),
    )
    return written.rowcount == 1


def _ledger(connection: Rows, incident: Mapping[str, Any], attempt_key: str) -> Ledger:
    node, role = incident["node"], incident["role"]
    now = one(connection.execute("SELECT clock_timestamp() AS now").fetchone())["now"]
    this = (incident["id"], attempt_key)
    flags = connection.execute(MAINTENANCE_NOW, ([node, FLEET],)).fetchall()
    pending = connection.execute(
        "SELECT node FROM pending_repair WHERE role = %s AND node <> %s", (role, node)
    ).fetchall()
    attempts = connection.execute(
        "SELECT i.node, max(e.at) AS began_at FROM incident i JOIN incident_entry e ON e.incident_id = i.id"
        " WHERE i.closed_at IS NULL AND i.redundant_at IS NULL AND i.role = %s AND i.node <> %s"
        f" AND e.step = 'attempt' AND {_NOT_WITHDRAWN} GROUP BY i.node",
        (role, node),
    ).fetchall()
    return Ledger(
        maintenance=tuple(str(Maintenance(**flag)) for flag in flags),
        repairs_of_node=_repairs(connection, node, now - BUDGET_WINDOW, this),
        repairs_of_fleet=_repairs(connection, None, now - BUDGET_WINDOW, this),
        pending=frozenset(row["node"] for row in pending),
        role_attempts={row["node"]: row["began_at"] for row in attempts},
    )


def _repairs(connection: Rows, node: str | None, since: datetime, but: tuple[str, str]) -> int:
    """Count the attempts begun since then, without the attempt of this incident and key."""
    row = connection.execute(
        "SELECT count(*) AS n FROM incident_entry e JOIN incident i ON i.id = e.incident_id"
        f" WHERE e.step = 'attempt' AND {_IN_BUDGET} AND e.at >= %(since)s"
        " AND (%(node)s::text IS NULL OR i.node = %(node)s)"
        " AND (e.incident_id, coalesce(e.key, '')) <> (%(incident)s, %(key)s)",
        {"since": since, "node": node, "incident": but[0], "key": but[1]},
    ).fetchone()
    return int(one(row)["n"])


def _load(connection: Rows, incident_id: str) -> Incident:
    return _with_entries(connection, [_row(connection, incident_id)])[0]


def _with_entries(connection: Rows, rows: Iterable[Mapping[str, Any]]) -> list[Incident]:
    rows = list(rows)
    journals: dict[str, list[Entry]] = {row["id"]: [] for row in rows}
    for entry in connection.execute(
        "SELECT incident_id, at, step, message, data FROM incident_entry WHERE incident_id = ANY(%s)"
        " ORDER BY seq",
        (list(journals),),
    ):
        journals[entry.pop("incident_id")].append(Entry(**entry))
    return [_incident(row, journals[row["id"]]) for row in rows]


def _incident(row: Mapping[str, Any], entries: Sequence[Entry]) -> Incident:
    return Incident(
        **{
            **row,
            "role": Role(row["role"]),
            "outcome": row["outcome"] and Outcome(row["outcome"]),
            "entries": tuple(entries),
        }
    )
