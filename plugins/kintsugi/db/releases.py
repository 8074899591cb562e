"""Releases: the known releases, the release of each node, and the course of each roll-out."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Literal

from kintsugi.core.errors import GuardRefused, KintsugiError
from kintsugi.core.rollout_state import NodeRollout, NodeState
from kintsugi.db.database import Database, fetch_as

if TYPE_CHECKING:
    from kintsugi.db.database import Rows

End = Literal["held", "returned", "stuck", "stopped", "dry_run"]
"""How a deployment ended: known-good; rolled back; a node could not be rolled back; stopped before the end; dry run."""


@dataclass(frozen=True, slots=True)
class ReleaseRecord:
    """The record of a release. Times are UTC. ``known_good_at``: when its probes last passed on every node."""

    digest: str
    origin: str
    built_at: datetime
    known_good_at: datetime | None
    bad_at: datetime | None
    bad_reason: str | None

    @property
    def known_good(self) -> bool:
        return self.known_good_at is not None and self.bad_at is None

    @property
    def verdict(self) -> str:
        """``known-good``, ``bad`` or ``unproven``."""
        return "bad" if self.bad_at else "known-good" if self.known_good_at else "unproven"


@dataclass(frozen=True, slots=True)
class DeploymentEntry:
    """An entry of a deployment's journal. ``node`` None: it concerns the whole fleet."""

    at: datetime
    node: str | None
    message: str


@dataclass(frozen=True, slots=True)
class Deployment:
    """One roll-out. ``state``: running, or how it ended. ``broken``: the first failed probe, as a sentence.

    ``steps``: in the order of the roll-out; empty until the plan is made.
    """

    id: str
    digest: str
    back_to: str | None
    state: str
    broken: str | None
    reason: str | None
    started_at: datetime
    ended_at: datetime | None
    steps: tuple[NodeRollout, ...] = ()
    entries: tuple[DeploymentEntry, ...] = ()

    def step(self, node: str) -> NodeRollout:
        """Return the step of ``node``; raises KintsugiError if the plan has none."""
        for step in self.steps:
            if step.node == node:
                return step
        raise KintsugiError(f"deployment {self.id} has no plan for {node}; run its task `plan` again")


class Releases(Database):
    """Every write may be repeated. Digests are the full 64 hexadecimal digits."""

    def add_release(self, digest: str, origin: str) -> bool:
        """Record a release; returns False if it is recorded already (it keeps its first origin)."""
        with self.transaction() as connection:
            added = connection.execute(
                "INSERT INTO release (digest, origin) VALUES (%s, %s) ON CONFLICT DO NOTHING",
                (digest, origin),
            )
            return added.rowcount == 1

    def read_releases(self, limit: int = 50) -> list[ReleaseRecord]:
        """Return the newest releases, newest first."""
        with self.transaction() as connection:
            return fetch_as(
                connection, ReleaseRecord, "SELECT * FROM release ORDER BY built_at DESC LIMIT %s", (limit,)
            )

    def release_record(self, prefix: str) -> ReleaseRecord:
        """Return the release whose digest begins with ``prefix``; raises KintsugiError if none or several do."""
        with self.transaction() as connection:
            rows = fetch_as(
                connection,
                ReleaseRecord,
                "SELECT * FROM release WHERE starts_with(digest, %s) LIMIT 2",
                (prefix,),
            )
        if len(rows) != 1:
            many = "more than one release begins" if rows else "no release begins"
            raise KintsugiError(f"{many} with {prefix!r}; `kintsugi release list` shows all releases")
        return rows[0]

    def last_known_good(self) -> ReleaseRecord | None:
        """Return the release that was marked known-good last; None if there is none."""
        with self.transaction() as connection:
            row = connection.execute(
                "SELECT * FROM release WHERE known_good_at IS NOT NULL AND bad_at IS NULL"
                " ORDER BY known_good_at DESC LIMIT 1"
            ).fetchone()
        return None if row is None else ReleaseRecord(**row)

    def mark_known_good(self, digest: str) -> None:
        """Mark the release known-good: its probes passed on every node. Removes an earlier bad mark."""
        with self.transaction() as connection:
            connection.execute(
                "UPDATE release SET known_good_at = clock_timestamp(), bad_at = NULL, bad_reason = NULL"
                " WHERE digest = %s",
                (digest,),
            )

    def mark_bad(self, digest: str, reason: str) -> bool:
        """Mark the release bad after a failed probe; returns False for a known-good release, which stays known-good.

        A known-good release has passed its probes before, so the failure probably has another cause. And recovery
        needs it to roll back to.
        """
        with self.transaction() as connection:
            marked = connection.execute(
                "UPDATE release SET bad_at = coalesce(bad_at, clock_timestamp()), bad_reason = %s"
                " WHERE digest = %s AND known_good_at IS NULL",
                (reason, digest),
            )
            return marked.rowcount == 1

    def node_releases(self) -> dict[str, ReleaseRecord]:
        """Return the release that each node was last configured from; nodes without a record are left out."""
        with self.transaction() as connection:
            rows = connection.execute(
                "SELECT n.node, r.* FROM node_release n JOIN release r USING (digest) ORDER BY n.node"
            ).fetchall()
        return {row.pop("node"): ReleaseRecord(**row) for row in rows}

    def set_node_releases(self, nodes: Collection[str], digest: str) -> None:
        """Record the release of these nodes. Call it before they are configured, so that a killed run is known."""
        with self.transaction() as connection:
            for node in sorted(nodes):
                connection.execute(
                    "INSERT INTO node_release (node, digest) VALUES (%s, %s) ON CONFLICT (node) DO UPDATE"
                    " SET digest = excluded.digest, since = CASE WHEN node_release.digest = excluded.digest"
                    " THEN node_release.since ELSE clock_timestamp() END",
                    (node, digest),
                )

    def forget_node_release(self, node: str) -> None:
        """Remove the record of a node that is no longer part of the fleet, and of its drift."""
        with self.transaction() as connection:
            connection.execute("DELETE FROM node_release WHERE node = %s", (node,))
            connection.execute(
                "UPDATE drift SET gone_at = clock_timestamp() WHERE node = %s AND gone_at IS NULL", (node,)
            )

    # --- deployments --------------------------------------------------------------------------------------

    def open_deployment(self, deployment: str, digest: str, back_to: str | None) -> Deployment:
        """Begin a roll-out, or continue the one with this id, which keeps its release and its roll-back target.

        Raises GuardRefused if another one runs.
        """
        with self.transaction() as connection:
            connection.execute("LOCK TABLE deployment IN SHARE ROW EXCLUSIVE MODE")
            other = connection.execute(
                "SELECT id FROM deployment WHERE state = 'running' AND id <> %s", (deployment,)
            ).fetchone()
            if other is not None:
                raise GuardRefused(
                    f"deployment {other['id']} is still running; only one roll-out can run at a time"
                )
            connection.execute(
                "INSERT INTO deployment (id, digest, back_to) VALUES (%s, %s, %s) ON CONFLICT DO NOTHING",
                (deployment, digest, back_to),
            )
            return _load_deployment(connection, deployment)

    def read_deployment(self, deployment: str) -> Deployment:
        """Return the deployment with its steps and journal; raises KintsugiError if there is none."""
        with self.transaction() as connection:
            return _load_deployment(connection, deployment)

    def read_deployments(self, limit: int = 20) -> list[Deployment]:
        """Return the newest deployments, newest first."""
        with self.transaction() as connection:
            rows = connection.execute(
                "SELECT id FROM deployment ORDER BY started_at DESC LIMIT %s", (limit,)
            ).fetchall()
            return [_load_deployment(connection, row["id"]) for row in rows]

    def plan_deployment(self, deployment: str, changes: Mapping[str, Sequence[str]]) -> Deployment:
        """Record the plan: the paths that change by node, in the order of the roll-out.

        An existing plan is kept, so that a node that a killed run updated does not look unchanged.
        """
        from psycopg.types.json import Jsonb

        with self.transaction() as connection:
            for position, (node, paths) in enumerate(changes.items()):
                connection.execute(
                    "INSERT INTO deployment_node (deployment, node, position, changes, state)"
                    " VALUES (%s, %s, %s, %s, %s) ON CONFLICT DO NOTHING",
                    (deployment, node, position, Jsonb(list(paths)), NodeState.WAITING.value),
                )
            return _load_deployment(connection, deployment)

    def set_deployment_node(self, deployment: str, node: str, state: NodeState, message: str) -> None:
        """Move ``node`` to ``state``, with a journal entry; the same state again writes nothing."""
        with self.transaction() as connection:
            moved = connection.execute(
                "UPDATE deployment_node SET state = %s WHERE deployment = %s AND node = %s AND state <> %s",
                (state.value, deployment, node, state.value),
            )
            if moved.rowcount:
                _append_deployment_entry(connection, deployment, message, node)

    def break_deployment(self, deployment: str, reason: str) -> None:
        """Record the first failed probe: from here on the deployment is rolled back. A second one changes nothing."""
        with self.transaction() as connection:
            broken = connection.execute(
                "UPDATE deployment SET broken = %s WHERE id = %s AND broken IS NULL", (reason, deployment)
            )
            if broken.rowcount:
                _append_deployment_entry(connection, deployment, f"the roll-back begins: {reason}")

    def end_deployment(self, deployment: str, state: End, reason: str) -> Deployment:
        """End the deployment; one that has ended already is not changed."""
        with self.transaction() as connection:
            ended = connection.execute(
                "UPDATE deployment SET state = %s, reason = %s, ended_at = clock_timestamp()"
                " WHERE id = %s AND state = 'running'",
                (state, reason, deployment),
            )
            if ended.rowcount:
                _append_deployment_entry(connection, deployment, f"{state}: {reason}")
            return _load_deployment(connection, deployment)

    def note_deployment(self, deployment: str, message: str, node: str | None = None) -> None:
        """Add an entry to the deployment's journal."""
        with self.transaction() as connection:
            _append_deployment_entry(connection, deployment, message, node)

    # --- drift --------------------------------------------------------------------------------------------

    def record_drift(
        self, node: str, digest: str, paths: Collection[str], *, put_right: bool = False
    ) -> list[str]:
        """Record the ``paths`` at which ``node`` differs now; returns the paths that are new.

        A recorded path that isn't among ``paths`` counts as gone. ``put_right``: because it was written again just now.
        """
        with self.transaction() as connection:
            connection.execute(
                "UPDATE drift SET gone_at = clock_timestamp(), put_right = %s"
                " WHERE node = %s AND gone_at IS NULL AND path <> ALL(%s)",
                (put_right, node, list(paths)),
            )
            fresh = []
            for path in sorted(paths):
                updated = connection.execute(
                    "UPDATE drift SET seen_at = clock_timestamp(), digest = %s"
                    " WHERE node = %s AND path = %s AND gone_at IS NULL",
                    (digest, node, path),
                )
                if updated.rowcount == 0:
                    connection.execute(
                        "INSERT INTO drift (node, path, digest) VALUES (%s, %s, %s)", (node, path, digest)
                    )
                    fresh.append(path)
        return fresh

    def read_drift(self) -> dict[str, list[str]]:
        """Return the recorded differences: paths by node."""
        with self.transaction() as connection:
            rows = connection.execute(
                "SELECT node, path FROM drift WHERE gone_at IS NULL ORDER BY node, path"
            ).fetchall()
        paths: dict[str, list[str]] = {}
        for row in rows:
            paths.setdefault(row["node"], []).append(row["path"])
        return paths


def _append_deployment_entry(
    connection: Rows, deployment: str, message: str, node: str | None = None
) -> None:
    connection.execute(
        "INSERT INTO deployment_entry (deployment, node, message) VALUES (%s, %s, %s)",
        (deployment, node, message),
    )


def _load_deployment(connection: Rows, deployment: str) -> Deployment:
    row = connection.execute("SELECT * FROM deployment WHERE id = %s", (deployment,)).fetchone()
    if row is None:
        raise KintsugiError(
            f"there is no deployment {deployment}; `kintsugi release list` shows the last ones"
        )
    steps = connection.execute(
        "SELECT node, changes, state FROM deployment_node WHERE deployment = %s ORDER BY position",
        (deployment,),
    ).fetchall()
    entries = fetch_as(
        connection,
        DeploymentEntry,
        "SELECT at, node, message FROM deployment_entry WHERE deployment = %s ORDER BY seq",
        (deployment,),
    )
    return Deployment(
        **row,
        steps=tuple(NodeRollout(s["node"], tuple(s["changes"]), NodeState(s["state"])) for s in steps),
        entries=tuple(entries),
    )
