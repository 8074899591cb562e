"""Comparisons of Cassandra nodes' ranges with their replicas: the nightly ones, and those that end a repair."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from kintsugi.db.database import Database, one

if TYPE_CHECKING:
    from kintsugi.db.database import Rows

# A row that was deleted comes back where a replica never heard of it for gc_grace_seconds, ten days by default.
OVERDUE = timedelta(days=8)


@dataclass(frozen=True, slots=True)
class ReplicaRepair:
    """What is known of one node's comparisons. Times are UTC.

    ``whole_at``: when the last one began that was carried through, None when none was. ``differed``: how many ranges
    weren't as a replica's in it, and were repaired. ``failed_at``, ``failure``: of the newest, where it failed.
    """

    whole_at: datetime | None = None
    differed: int | None = None
    failed_at: datetime | None = None
    failure: str | None = None

    def to_json(self) -> dict[str, Any]:
        """With the fields' names; times in ISO 8601."""
        return {
            name: value.isoformat() if isinstance(value, datetime) else value
            for name, value in asdict(self).items()
        }


class ReplicaRepairs(Database):
    """One row each; every method is one transaction."""

    def begin_comparison(self, node: str, by: str) -> int:
        """Note that the node's ranges are being compared by ``by`` (a DAG run, an incident); returns its number."""
        with self.transaction() as connection:
            row = connection.execute(
                "INSERT INTO comparison (node, by) VALUES (%s, %s) RETURNING id", (node, by)
            ).fetchone()
            return int(one(row)["id"])

    def end_comparison(self, number: int, differed: int | None = None, *, failure: str | None = None) -> None:
        """Note how it ended: how many ranges differed, or why it was not carried through."""
        with self.transaction() as connection:
            connection.execute(
                "UPDATE comparison SET ended_at = clock_timestamp(), differed = %s, failure = %s WHERE id = %s",
                (differed, failure, number),
            )

    def compared(self) -> dict[str, ReplicaRepair]:
        """By node, of every one that was ever compared."""
        with self.transaction() as connection:
            return dict(compared(connection))


def compared(connection: Rows) -> Mapping[str, ReplicaRepair]:
    """`ReplicaRepairs.compared` within a transaction. One that never ended was broken off, unless it is under way."""
    rows = connection.execute(
        "SELECT newest.node, whole.began_at AS whole_at, whole.differed,"
        " CASE WHEN newest.failure IS NOT NULL THEN newest.ended_at END AS failed_at, newest.failure"
        " FROM (SELECT DISTINCT ON (node) * FROM comparison WHERE ended_at IS NOT NULL ORDER BY node, id DESC) newest"
        " LEFT JOIN (SELECT DISTINCT ON (node) * FROM comparison"
        " WHERE ended_at IS NOT NULL AND failure IS NULL ORDER BY node, id DESC) whole USING (node)"
    ).fetchall()
    return {row.pop("node"): ReplicaRepair(**row) for row in rows}


def sentence(nodes: Sequence[str], known: Mapping[str, ReplicaRepair]) -> str:
    """When all of ``nodes`` had been compared, or which hadn't been; and what failed last."""
    times = _times(nodes, known)
    missing = [name for name in nodes if name not in times]
    if len(missing) == len(nodes):
        said = "Replicas not compared yet."
    elif missing:
        said = f"Replicas of {' and '.join(missing)} not compared yet."
    else:
        said = f"Replicas compared {min(times.values()):%Y-%m-%d %H:%M} UTC."
    failed = [name for name in nodes if name in known and known[name].failure is not None]
    return f"{said} The last comparison of {' and '.join(failed)} failed." if failed else said


def overdue_since(
    nodes: Sequence[str], known: Mapping[str, ReplicaRepair], *, installed_at: datetime, now: datetime
) -> datetime | None:
    """Since when the node has waited that has waited for longest, if that is too long; times are UTC."""
    times = _times(nodes, known)
    oldest = min(times.values()) if len(times) == len(nodes) else installed_at
    return oldest if now - oldest > OVERDUE else None


def _times(nodes: Sequence[str], known: Mapping[str, ReplicaRepair]) -> dict[str, datetime]:
    """When each was compared last, by node; those that never were are left out."""
    found = {name: known[name].whole_at for name in nodes if name in known}
    return {name: at for name, at in found.items() if at is not None}
