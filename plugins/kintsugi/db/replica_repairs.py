"""Records of data repairs (anti-entropy) of Cassandra nodes: the nightly ones, and those that end a recovery."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from kintsugi.db.database import Database, fetch_row

if TYPE_CHECKING:
    from kintsugi.db.database import Rows

# A deleted row reappears if a replica misses the deletion for longer than gc_grace_seconds, ten days by default.
OVERDUE = timedelta(days=8)


@dataclass(frozen=True, slots=True)
class ReplicaRepair:
    """The data repairs of one node. Times are UTC.

    ``whole_at``: when the last complete repair began, None if there was none. ``differed``: how many ranges were out
    of sync in it, and were repaired. ``failed_at``, ``failure``: of the newest repair, if it failed.
    """

    whole_at: datetime | None = None
    differed: int | None = None
    failed_at: datetime | None = None
    failure: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the fields by name; times in ISO 8601."""
        return {
            name: value.isoformat() if isinstance(value, datetime) else value
            for name, value in asdict(self).items()
        }


class ReplicaRepairs(Database):
    """One row for each repair; every method is one transaction."""

    def begin_comparison(self, node: str, by: str) -> int:
        """Record that a repair of the node begins for ``by`` (a DAG run, an incident); returns its number."""
        with self.transaction() as connection:
            row = fetch_row(
                connection.execute(
                    "INSERT INTO comparison (node, by) VALUES (%s, %s) RETURNING id", (node, by)
                )
            )
            return int(row["id"])

    def end_comparison(self, number: int, differed: int | None = None, *, failure: str | None = None) -> None:
        """Record how the repair ended: how many ranges were out of sync, or why it failed."""
        with self.transaction() as connection:
            connection.execute(
                "UPDATE comparison SET ended_at = clock_timestamp(), differed = %s, failure = %s WHERE id = %s",
                (differed, failure, number),
            )

    def replica_repairs(self) -> dict[str, ReplicaRepair]:
        """Return the repairs by node, for every node that was ever repaired."""
        with self.transaction() as connection:
            return read_replica_repairs(connection)


def read_replica_repairs(connection: Rows) -> dict[str, ReplicaRepair]:
    """Return `ReplicaRepairs.replica_repairs` within a transaction.

    A repair without an end is running or was killed.
    """
    rows = connection.execute(
        "SELECT newest.node, whole.began_at AS whole_at, whole.differed,"
        " CASE WHEN newest.failure IS NOT NULL THEN newest.ended_at END AS failed_at, newest.failure"
        " FROM (SELECT DISTINCT ON (node) * FROM comparison WHERE ended_at IS NOT NULL ORDER BY node, id DESC) newest"
        " LEFT JOIN (SELECT DISTINCT ON (node) * FROM comparison"
        " WHERE ended_at IS NOT NULL AND failure IS NULL ORDER BY node, id DESC) whole USING (node)"
    ).fetchall()
    return {row.pop("node"): ReplicaRepair(**row) for row in rows}


def describe_repairs(nodes: Sequence[str], repairs: Mapping[str, ReplicaRepair]) -> str:
    """Say when the last repair of ``nodes`` was, which were never repaired, and which repairs failed last."""
    times = _last_repair_times(nodes, repairs)
    missing = [name for name in nodes if name not in times]
    if len(missing) == len(nodes):
        sentence = "Replicas not repaired yet."
    elif missing:
        sentence = f"Replicas of {' and '.join(missing)} not repaired yet."
    else:
        sentence = f"Replicas repaired {min(times.values()):%Y-%m-%d %H:%M} UTC."
    failed = [name for name in nodes if name in repairs and repairs[name].failure is not None]
    return f"{sentence} The last repair of {' and '.join(failed)} failed." if failed else sentence


def overdue_since(
    nodes: Sequence[str], repairs: Mapping[str, ReplicaRepair], *, installed_at: datetime, now: datetime
) -> datetime | None:
    """Return the time of the oldest last repair, if it is longer ago than OVERDUE; times are UTC."""
    times = _last_repair_times(nodes, repairs)
    oldest = min(times.values()) if len(times) == len(nodes) else installed_at
    return oldest if now - oldest > OVERDUE else None


def _last_repair_times(nodes: Sequence[str], repairs: Mapping[str, ReplicaRepair]) -> dict[str, datetime]:
    """Return when each node was repaired last; nodes that never were are left out."""
    return {name: at for name in nodes if name in repairs and (at := repairs[name].whole_at) is not None}
