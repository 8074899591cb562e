"""Attempts to recover a node: the one transaction in which an attempt begins, and the repair budget."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, LiteralString

from kintsugi.core.errors import GuardRefused
from kintsugi.core.fleet import Role
from kintsugi.core.incident import ATTEMPT, WITHDRAWN, Action, RepairBudget
from kintsugi.db import advisory_locks
from kintsugi.db.database import Database, fetch_as, fetch_row, retry_if_lost
from kintsugi.db.flags import FLEET, MAINTENANCE_NOW, Maintenance
from kintsugi.db.incident_rows import (
    append_entry,
    fence_incident,
    load_incident,
    read_incident_row,
    record_pending_repair,
)
from kintsugi.db.leases import extend_lease, require_open

if TYPE_CHECKING:
    from kintsugi.db.database import Rows

BUDGET_WINDOW = timedelta(hours=1)

_NOT_WITHDRAWN: LiteralString = (
    "NOT EXISTS (SELECT FROM incident_entry w WHERE w.incident_id = e.incident_id"
    " AND w.step = 'attempt.withdrawn' AND w.data->>'attempt' = e.key)"
)


# An attempt that failed because of the control plane also counts: this limits how often it is tried.
_IN_BUDGET: LiteralString = _NOT_WITHDRAWN[:-1] + " AND NOT coalesce((w.data->>'counts')::boolean, false))"


class Attempts(Database):
    """Attempts of incidents. Each write is fenced by the lease of the incident's node."""

    @retry_if_lost
    def begin_attempt(
        self,
        incident_id: str,
        token: int,
        action: Action,
        *,
        key: str,
        reason: str,
        refusals: Callable[[RepairBudget], Sequence[str]],
        ttl_s: float = 300.0,
    ) -> bool:
        """Begin an attempt: one transaction that checks the lease, evaluates the guards, and records the action.

        ``refusals``: gets the current repair budget and returns the reasons against the attempt (none: allowed). It is
        pure and quick. Only one attempt of the fleet is in this transaction at a time, so two rebuilds always see each
        other. The lease is held for at least another ``ttl_s`` seconds.

        A pending data repair is recorded until the mark ``consistent_at`` if a volume will be destroyed. It is also
        recorded if the host of a Cassandra node will be destroyed, because the unsynced part of its commit log is lost.

        Returns False if the attempt ``key`` was begun before: the step runs again and continues it, after the guards
        were evaluated again. Raises StaleTokenError, IncidentClosed, or GuardRefused with the reasons; nothing is
        written then.
        """
        with self.transaction() as connection:
            connection.execute("SELECT pg_advisory_xact_lock(%s)", (advisory_locks.ATTEMPT,))
            incident = fence_incident(connection, incident_id, token)
            extend_lease(connection, incident["node"], token, ttl_s)
            require_open(connection, incident_id)
            reasons = refusals(_read_budget(connection, incident, key))
            if reasons:
                raise GuardRefused(" ".join(reasons))
            pending = connection.execute(
                "SELECT 1 FROM pending_repair WHERE node = %s", (incident["node"],)
            ).fetchone()
            data = {"action": action.value, "key": key, "pending_before": pending is not None}
            if not append_entry(connection, incident_id, ATTEMPT, reason, data, key):
                if _is_withdrawn(connection, incident_id, key):
                    raise GuardRefused(f"the attempt {key} of {incident_id} was withdrawn; start a new run")
                return False
            # The node failed again, so the marks of an earlier attempt of this incident no longer hold.
            connection.execute(
                "UPDATE incident SET redundant_at = NULL, consistent_at = NULL WHERE id = %s", (incident_id,)
            )
            if action.destroys_volume or (action.destroys and incident["role"] == Role.CASSANDRA):
                record_pending_repair(connection, incident)
            return True

    @retry_if_lost
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
        attempt of this incident destroyed something. Raises StaleTokenError, IncidentClosed.
        """
        with self.transaction() as connection:
            node = fence_incident(connection, incident_id, token)["node"]
            require_open(connection, incident_id)
            data = {"attempt": key, "counts": counts}
            append_entry(connection, incident_id, WITHDRAWN, reason, data, f"withdrawn {key}")
            incident = load_incident(connection, incident_id)
            before = any(
                entry.data.get("pending_before")
                for entry in incident.entries
                if entry.step == ATTEMPT and entry.data.get("key") == key
            )
            if untouched and not before and not any(action.destroys for action in incident.attempts()):
                connection.execute(
                    "DELETE FROM pending_repair WHERE node = %s AND incident_id = %s",
                    (node, incident_id),
                )

    @contextmanager
    def kill_lock(self, deadline_s: float = 60.0, *, hold_s: float = 120.0) -> Iterator[None]:
        """Hold the fleet's kill lock: only its holder may evaluate the guards for a running node and kill it.

        ``hold_s``: how long the block may take; then the lock is lost. Raises GuardRefused if another recovery holds
        it for longer than ``deadline_s``.
        """
        with self.transaction() as connection:
            connection.execute(
                "SELECT set_config('idle_in_transaction_session_timeout', %s, true)", (f"{hold_s:.0f}s",)
            )
            ends_s = time.monotonic() + deadline_s
            while not _try_kill_lock(connection):
                if time.monotonic() > ends_s:
                    raise GuardRefused(
                        f"Nothing is killed: another recovery has held the kill lock for {deadline_s:.0f} s."
                    )
                time.sleep(0.25)
            yield  # the lock ends with its connection, also when this process is killed

    @retry_if_lost
    def repair_budget(self, incident_id: str) -> RepairBudget:
        """Return the database's facts for the guards before the attempt; ``begin_attempt`` reads them again."""
        with self.transaction() as connection:
            return _read_budget(connection, read_incident_row(connection, incident_id), "")


def _try_kill_lock(connection: Rows) -> bool:
    row = fetch_row(
        connection.execute("SELECT pg_try_advisory_xact_lock(%s) AS held", (advisory_locks.KILL,))
    )
    return bool(row["held"])


def _is_withdrawn(connection: Rows, incident_id: str, key: str) -> bool:
    row = connection.execute(
        "SELECT 1 FROM incident_entry WHERE incident_id = %s AND key = %s",
        (incident_id, f"withdrawn {key}"),
    ).fetchone()
    return row is not None


def _read_budget(connection: Rows, incident: Mapping[str, Any], attempt_key: str) -> RepairBudget:
    node, role = incident["node"], incident["role"]
    now = fetch_row(connection.execute("SELECT clock_timestamp() AS now"))["now"]
    this = (incident["id"], attempt_key)
    flags = fetch_as(connection, Maintenance, MAINTENANCE_NOW, ([node, FLEET],))
    others = [flag for flag in flags if flag.user != incident["holder"]]  # its own flag keeps others away
    pending = connection.execute(
        "SELECT node FROM pending_repair WHERE role = %s AND node <> %s", (role, node)
    ).fetchall()
    attempts = connection.execute(
        "SELECT i.node, max(e.at) AS began_at FROM incident i JOIN incident_entry e ON e.incident_id = i.id"
        " WHERE i.closed_at IS NULL AND i.redundant_at IS NULL AND i.role = %s AND i.node <> %s"
        f" AND e.step = 'attempt' AND {_NOT_WITHDRAWN} GROUP BY i.node",
        (role, node),
    ).fetchall()
    return RepairBudget(
        maintenance=tuple(map(str, others)),
        repairs_of_node=count_attempts(connection, node, now - BUDGET_WINDOW, this),
        repairs_of_fleet=count_attempts(connection, None, now - BUDGET_WINDOW, this),
        pending=frozenset(row["node"] for row in pending),
        role_attempts={row["node"]: row["began_at"] for row in attempts},
    )


def count_attempts(
    connection: Rows, node: str | None, since: datetime, but: tuple[str, str] = ("", "")
) -> int:
    """Count the attempts since then, on ``node`` or (None) on the fleet.

    ``but``: the incident and key of an attempt that is left out.
    """
    rows = connection.execute(
        "SELECT count(*) AS n FROM incident_entry e JOIN incident i ON i.id = e.incident_id"
        f" WHERE e.step = 'attempt' AND {_IN_BUDGET} AND e.at >= %(since)s"
        " AND (%(node)s::text IS NULL OR i.node = %(node)s)"
        " AND (e.incident_id, coalesce(e.key, '')) <> (%(incident)s, %(key)s)",
        {"since": since, "node": node, "incident": but[0], "key": but[1]},
    )
    return int(fetch_row(rows)["n"])
