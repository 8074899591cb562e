"""Rows of incidents and their journals, read and written within a transaction of the caller."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, LiteralString

from kintsugi.core.errors import KintsugiError
from kintsugi.core.fleet import Role
from kintsugi.core.incident import Incident, JournalEntry, Outcome
from kintsugi.db.leases import fence_lease

if TYPE_CHECKING:
    from kintsugi.db.database import Rows

_WHOLE_ENTRY: LiteralString = "incident_id, at, step, message, data"
_PHASE_ENTRY: LiteralString = (
    "incident_id, at, step, '' AS message, jsonb_strip_nulls(jsonb_build_object('seconds', data->'seconds',"
    " 'action', data->'action', 'key', data->'key', 'attempt', data->'attempt')) AS data"
)


def read_incident_row(connection: Rows, incident_id: str) -> dict[str, Any]:
    """Return the incident's row; raises KintsugiError if there is none."""
    row = connection.execute("SELECT * FROM incident WHERE id = %s", (incident_id,)).fetchone()
    if row is None:
        raise KintsugiError(f"there is no incident {incident_id}; `make status` lists the last ones")
    return row


def fence_incident(connection: Rows, incident_id: str, token: int) -> dict[str, Any]:
    """Lock the node's lease, check that ``token`` is the newest, and return the incident's row.

    Every transaction locks the row of the lease first, so there is no deadlock.
    """
    fence_lease(connection, read_incident_row(connection, incident_id)["node"], token)
    return read_incident_row(connection, incident_id)


def record_pending_repair(connection: Rows, incident: Mapping[str, Any]) -> None:
    """Record a pending data repair of the node, until ``consistent_at``; Spark nodes have no data."""
    if incident["role"] in (Role.KAFKA.value, Role.CASSANDRA.value):
        connection.execute(
            "INSERT INTO pending_repair (node, role, incident_id) VALUES (%(node)s, %(role)s, %(id)s)"
            " ON CONFLICT (node) DO UPDATE SET incident_id = excluded.incident_id",
            incident,
        )


def append_entry(
    connection: Rows,
    incident_id: str,
    step: str,
    message: str,
    data: Mapping[str, Any] | None,
    key: str | None,
) -> bool:
    """Add an entry to the journal; returns False if its ``key`` exists already."""
    from psycopg.types.json import Jsonb

    written = connection.execute(
        "INSERT INTO incident_entry (incident_id, step, message, data, key) VALUES (%s, %s, %s, %s, %s)"
        " ON CONFLICT (incident_id, key) DO NOTHING",
        (incident_id, step, message, Jsonb(dict(data or {})), key),
    )
    return written.rowcount == 1


def load_incident(connection: Rows, incident_id: str) -> Incident:
    """Return the incident with its whole journal; raises KintsugiError if there is none."""
    return load_incidents(connection, [read_incident_row(connection, incident_id)])[0]


def load_incidents(
    connection: Rows, rows: Sequence[Mapping[str, Any]], *, phases_only: bool = False
) -> list[Incident]:
    """Return the incidents of these rows with their journals; ``phases_only``: without what phases don't need."""
    journals: dict[str, list[JournalEntry]] = {row["id"]: [] for row in rows}
    for entry in connection.execute(
        f"SELECT {_PHASE_ENTRY if phases_only else _WHOLE_ENTRY} FROM incident_entry"
        " WHERE incident_id = ANY(%s) ORDER BY seq",
        (list(journals),),
    ):
        journals[entry.pop("incident_id")].append(JournalEntry(**entry))
    return [to_incident(row, journals[row["id"]]) for row in rows]


def to_incident(row: Mapping[str, Any], entries: Sequence[JournalEntry] = ()) -> Incident:
    """Return the incident of a row of the table."""
    return Incident(
        **{
            **row,
            "role": Role(row["role"]),
            "outcome": row["outcome"] and Outcome(row["outcome"]),
            "entries": tuple(entries),
        }
    )
