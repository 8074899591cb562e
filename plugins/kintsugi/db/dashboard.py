"""The data of the Pipeline Health page, in few and light queries.

A list of incidents shows their phases and not their texts, so only the times and steps of each journal are read here.
`Incidents.incident` loads a whole journal.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from kintsugi.core.incident import Incident, Outcome
from kintsugi.db.database import Database, fetch_as, fetch_row
from kintsugi.db.flags import IN_FORCE, Maintenance
from kintsugi.db.incident_rows import load_incidents, to_incident
from kintsugi.db.replica_repairs import ReplicaRepair, read_replica_repairs

if TYPE_CHECKING:
    from kintsugi.db.database import Rows

_FAULTS = 20
_RECENT = 8
_REPAIRED = (Outcome.HEALED.value, Outcome.FAILED.value)


@dataclass(frozen=True, slots=True)
class Experiment:
    """An injected fault and its incident, None while it isn't noticed. Times are UTC."""

    node: str
    kind: str
    mode: str
    run: str
    t0: datetime
    incident: str | None
    outcome: Outcome | None
    redundant_at: datetime | None


@dataclass(frozen=True, slots=True)
class FleetSummary:
    """The state of the database at one time.

    ``open``: open incidents with their whole journals, oldest first. ``newest``: the newest incident of each
    node, by node name. ``pending``: nodes with a pending data repair, with the time since when.
    ``replica_repairs``: the data repairs of Cassandra's nodes, by node name.
    ``installed_at``: when the database was created, UTC.
    ``last_trouble``: when the last incident of a real failure ended; None if there was none.
    ``recent``: the newest incidents, with journals as `Listing.list_incidents` loads them.
    ``faults``: the newest first.
    ``incidents``: how many are recorded.
    """

    open: tuple[Incident, ...]
    newest: Mapping[str, Incident]
    recent: tuple[Incident, ...]
    maintenance: tuple[Maintenance, ...]
    pending: Mapping[str, datetime]
    replica_repairs: Mapping[str, ReplicaRepair]
    installed_at: datetime
    last_trouble: datetime | None
    faults: tuple[Experiment, ...]
    incidents: int


class Listing(Database):
    """Reads only; every method is one transaction and raises StoreUnavailable."""

    def read_summary(self) -> FleetSummary:
        """Return all data of the first screen."""
        with self.transaction() as connection:
            rows = connection.execute(
                "SELECT * FROM incident WHERE closed_at IS NULL ORDER BY opened_at"
            ).fetchall()
            newest = connection.execute(
                "SELECT DISTINCT ON (node) * FROM incident ORDER BY node, opened_at DESC"
            ).fetchall()
            flags = fetch_as(
                connection,
                Maintenance,
                'SELECT scope, reason, "user", since, until FROM maintenance'
                " WHERE " + IN_FORCE + " ORDER BY scope",
            )
            pending = connection.execute("SELECT node, since FROM pending_repair ORDER BY since").fetchall()
            totals = fetch_row(
                connection.execute(
                    "SELECT count(*) AS n, max(closed_at) FILTER (WHERE outcome = ANY(%s)) AS last FROM incident",
                    (list(_REPAIRED),),
                )
            )
            created = fetch_row(connection.execute("SELECT min(applied_at) AS at FROM kintsugi_schema"))
            return FleetSummary(
                open=tuple(load_incidents(connection, rows)),
                newest={row["node"]: to_incident(row) for row in newest},
                recent=tuple(_list_incidents(connection, _RECENT)),
                maintenance=tuple(flags),
                pending={row["node"]: row["since"] for row in pending},
                replica_repairs=read_replica_repairs(connection),
                installed_at=created["at"],
                last_trouble=totals["last"],
                faults=tuple(_read_experiments(connection)),
                incidents=totals["n"],
            )

    def list_incidents(
        self,
        limit: int = 25,
        *,
        before: tuple[datetime, str] | None = None,
        node: str | None = None,
        outcome: str | None = None,
    ) -> list[Incident]:
        """Return up to ``limit`` incidents, newest first; their journals hold only the data for their phases.

        ``before``: ``opened_at`` and ``id`` of the last incident of the previous page, so that new incidents don't
        shift the pages. ``outcome``: a value of Outcome, or ``open``.
        """
        with self.transaction() as connection:
            return _list_incidents(connection, limit, before, node, outcome)


def _list_incidents(
    connection: Rows,
    limit: int,
    before: tuple[datetime, str] | None = None,
    node: str | None = None,
    outcome: str | None = None,
) -> list[Incident]:
    at, identity = before or (None, None)
    rows = connection.execute(
        "SELECT * FROM incident WHERE (%(node)s::text IS NULL OR node = %(node)s)"
        " AND (%(outcome)s::text IS NULL OR coalesce(outcome, 'open') = %(outcome)s)"
        " AND (%(at)s::timestamptz IS NULL OR (opened_at, id) < (%(at)s, %(identity)s))"
        " ORDER BY opened_at DESC, id DESC LIMIT %(limit)s",
        {"node": node, "outcome": outcome, "at": at, "identity": identity, "limit": limit},
    ).fetchall()
    return load_incidents(connection, rows, phases_only=True)


def _read_experiments(connection: Rows) -> Iterable[Experiment]:
    for row in connection.execute(
        "SELECT f.node, f.kind, f.mode, f.run, f.t0, i.id AS incident, i.outcome, i.redundant_at"
        " FROM fault f LEFT JOIN incident i ON i.node = f.node AND i.t0 = f.t0"
        " ORDER BY f.t0 DESC, f.id DESC LIMIT %s",
        (_FAULTS,),
    ):
        yield Experiment(**{**row, "outcome": row["outcome"] and Outcome(row["outcome"])})
