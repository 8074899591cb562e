"""Releases: which there are, which node runs which, and how each roll-out went."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Literal

from kintsugi.core.errors import GuardRefused, KintsugiError
from kintsugi.core.rollout_state import NodeRollout, NodeState
from kintsugi.db.database import Database, one

if TYPE_CHECKING:
    from kintsugi.db.database import Rows

End = Literal["held", "returned", "stuck", "stopped", "dry_run"]
"""How a deployment ended: known-good; back on the last known-good; back, but for a node; before or between nodes."""


@dataclass(frozen=True, slots=True)
class ReleaseRecord:
    """What is known of a release. Times are UTC. ``known_good_at``: when its probes last held on every node."""

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
    """A line of a deployment's journal. ``node`` None: it concerns the whole fleet."""

    at: datetime
    node: str | None
    message: str


@dataclass(frozen=True, slots=True)
class Deployment:
    """One roll-out. ``state``: running, or how it ended. ``broken``: the first bad probe, as a sentence.

    ``steps`` in the order of the roll-out; empty until the plan was made.
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
        """The step of ``node``; raises KintsugiError when the plan has none."""
        for step in self.steps:
            if step.node == node:
                return step
        raise KintsugiError(f"deployment {self.id} has no plan for {node}; run its task `plan` again")


class Releases(Database):
    """Every write may be made twice. Digests are the full 64 hexadecimal digits."""

    def add_release(self, digest: str, origin: str) -> bool:
        """Put a release on record; False when it is already there (its origin stays the first one)."""
        with self.transaction() as connection:
            added = connection.execute(
                "INSERT INTO release (digest, origin) VALUES (%s, %s) ON CONFLICT DO NOTHING",
                (digest, origin),
            )
            return added.rowcount == 1

    def releases(self, limit: int = 50) -> list[ReleaseRecord]:
        """The newest releases, newest first."""
        with self.transaction() as connection:
            rows = connection.execute(
                "SELECT * FROM release ORDER BY built_at DESC LIMIT %s", (limit,)
            ).fetchall()
        return [ReleaseRecord(**row) for row in rows]

    def release_record(self, prefix: str) -> ReleaseRecord:
        """The release whose digest begins with ``prefix``; raises KintsugiError when none or several do."""
        with self.transaction() as connection:
            rows = connection.execute(
                "SELECT * FROM release WHERE starts_with(digest, %s) LIMIT 2", (prefix,)
            ).fetchall()
        if len(rows) != 1:
            many = "more than one release begins" if rows else "no release begins"
            raise KintsugiError(f"{many} with {prefix!r}; `kintsugi release list` names them all")
        return ReleaseRecord(**rows[0])

    def last_known_good(self) -> ReleaseRecord | None:
        """The release whose probes held last."""
        with self.transaction() as connection:
            row = connection.execute(
                "SELECT * FROM release WHERE known_good_at IS NOT NULL AND bad_at IS NULL"
                " ORDER BY known_good_at DESC LIMIT 1"
            ).fetchone()
        return None if row is None else ReleaseRecord(**row)

    def mark_known_good(self, digest: str) -> None:
        """Its probes held on every node. Takes an earlier bad mark away: somebody tried it again, and it held."""
        with self.transaction() as connection:
            connection.execute(
                "UPDATE release SET known_good_at = clock_timestamp(), bad_at = NULL, bad_reason = NULL"
                " WHERE digest = %s",
                (digest,),
            )

    def mark_bad(self, digest: str, reason: str) -> bool:
        """Say that a probe of it failed; False for a release that was known-good, which stays so.

        It has been proven once, so the failure has another cause, and recovery must not lose what it returns to.
        """
        with self.transaction() as connection:
            marked = connection.execute(
                "UPDATE release SET bad_at = coalesce(bad_at, clock_timestamp()), bad_reason = %s"
                " WHERE digest = %s AND known_good_at IS NULL",
                (reason, digest),
            )
            return marked.rowcount == 1

    def node_releases(self) -> dict[str, ReleaseRecord]:
        """What each node was last configured from, by node; a node that nobody recorded is left out."""
        with self.transaction() as connection:
            rows = connection.execute(
                "SELECT n.node, r.* FROM node_release n JOIN release r USING (digest) ORDER BY n.node"
            ).fetchall()
        return {row.pop("node"): ReleaseRecord(**row) for row in rows}

    def set_node_releases(self, nodes: Collection[str], digest: str) -> None:
        """Say what these nodes are configured from; to be said before the act, so that a killed act is known."""
        with self.transaction() as connection:
            for node in sorted(nodes):
                connection.execute(
                    "INSERT INTO node_release (node, digest) VALUES (%s, %s) ON CONFLICT (node) DO UPDATE"
                    " SET digest = excluded.digest, since = CASE WHEN node_release.digest = excluded.digest"
                    " THEN node_release.since ELSE clock_timestamp() END",
                    (node, digest),
                )

    # --- deployments --------------------------------------------------------------------------------------

    def open_deployment(self, deployment: str, digest: str, back_to: str | None) -> Deployment:
        """Begin a roll-out, or go on with the one of this id, which keeps what it began with.

        Raises GuardRefused when another one runs.
        """
        with self.transaction() as connection:
            connection.execute("LOCK TABLE deployment IN SHARE ROW EXCLUSIVE MODE")
            other = connection.execute(
                "SELECT id FROM deployment WHERE state = 'running' AND id <> %s", (deployment,)
            ).fetchone()
            if other is not None:
                raise GuardRefused(f"deployment {other['id']} is still running; one roll-out at a time")
            connection.execute(
                "INSERT INTO deployment (id, digest, back_to) VALUES (%s, %s, %s) ON CONFLICT DO NOTHING",
                (deployment, digest, back_to),
            )
            return _deployment(connection, deployment)

    def deployment(self, deployment: str) -> Deployment:
        """The deployment with its steps and journal; raises KintsugiError when there is none."""
        with self.transaction() as connection:
            return _deployment(connection, deployment)

    def deployments(self, limit: int = 20) -> list[Deployment]:
        """The newest deployments, newest first."""
        with self.transaction() as connection:
            rows = connection.execute(
                "SELECT id FROM deployment ORDER BY started_at DESC LIMIT %s", (limit,)
            ).fetchall()
            return [_deployment(connection, row["id"]) for row in rows]

    def plan_deployment(self, deployment: str, changes: Mapping[str, Sequence[str]]) -> Deployment:
        """Write the plan down: by node, in the order of the roll-out, the paths that change.

        A plan that is there already stays: what a killed run touched must not look untouched.
        """
        from psycopg.types.json import Jsonb

        with self.transaction() as connection:
            for position, (node, paths) in enumerate(changes.items()):
                connection.execute(
                    "INSERT INTO deployment_node (deployment, node, position, changes, state)"
                    " VALUES (%s, %s, %s, %s, %s) ON CONFLICT DO NOTHING",
                    (deployment, node, position, Jsonb(list(paths)), NodeState.WAITING.value),
                )
            return _deployment(connection, deployment)

    def set_deployment_node(self, deployment: str, node: str, state: NodeState, message: str) -> None:
        """Move ``node`` to ``state``, with a line in the journal; the same state again says nothing."""
        with self.transaction() as connection:
            moved = connection.execute(
                "UPDATE deployment_node SET state = %s WHERE deployment = %s AND node = %s AND state <> %s",
                (state.value, deployment, node, state.value),
            )
            if moved.rowcount:
                _note(connection, deployment, message, node)

    def break_deployment(self, deployment: str, reason: str) -> None:
        """The first bad probe: from here on there is only the way back. A second one changes nothing."""
        with self.transaction() as connection:
            broken = connection.execute(
                "UPDATE deployment SET broken = %s WHERE id = %s AND broken IS NULL", (reason, deployment)
            )
            if broken.rowcount:
                _note(connection, deployment, f"the way back begins: {reason}")

    def end_deployment(self, deployment: str, state: End, reason: str) -> Deployment:
        """End it; one that has ended stays as it is."""
        with self.transaction() as connection:
            ended = connection.execute(
                "UPDATE deployment SET state = %s, reason = %s, ended_at = clock_timestamp()"
                " WHERE id = %s AND state = 'running'",
                (state, reason, deployment),
            )
            if ended.rowcount:
                _note(connection, deployment, f"{state}: {reason}")
            return _deployment(connection, deployment)

    def note_deployment(self, deployment: str, message: str, node: str | None = None) -> None:
        """Add a line to the deployment's journal."""
        with self.transaction() as connection:
            _note(connection, deployment, message, node)

    # --- drift --------------------------------------------------------------------------------------------

    def record_drift(
        self, node: str, digest: str, paths: Collection[str], *, put_right: bool = False
    ) -> list[str]:
        """Write down how ``node`` differs at this moment; returns the paths that weren't known yet.

        What was known and isn't among ``paths`` is over; ``put_right``: because somebody wrote it anew just now.
        """
        with self.transaction() as connection:
            connection.execute(
                "UPDATE drift SET gone_at = clock_timestamp(), put_right = %s"
                " WHERE node = %s AND gone_at IS NULL AND path <> ALL(%s)",
                (put_right, node, list(paths)),
            )
            fresh = []
            for path in sorted(paths):
                known = connection.execute(
                    "UPDATE drift SET seen_at = clock_timestamp(), digest = %s"
                    " WHERE node = %s AND path = %s AND gone_at IS NULL",
                    (digest, node, path),
                )
                if known.rowcount == 0:
                    connection.execute(
                        "INSERT INTO drift (node, path, digest) VALUES (%s, %s, %s)", (node, path, digest)
                    )
                    fresh.append(path)
        return fresh

    def drift(self) -> dict[str, list[str]]:
        """What differs, as far as is known: paths by node."""
        with self.transaction() as connection:
            rows = connection.execute(
                "SELECT node, path FROM drift WHERE gone_at IS NULL ORDER BY node, path"
            ).fetchall()
        found: dict[str, list[str]] = {}
        for row in rows:
            found.setdefault(row["node"], []).append(row["path"])
        return found


def _note(connection: Rows, deployment: str, message: str, node: str | None = None) -> None:
    connection.execute(
        "INSERT INTO deployment_entry (deployment, node, message) VALUES (%s, %s, %s)",
        (deployment, node, message),
    )


def _deployment(connection: Rows, deployment: str) -> Deployment:
    row = connection.execute("SELECT * FROM deployment WHERE id = %s", (deployment,)).fetchone()
    if row is None:
        raise KintsugiError(
            f"there is no deployment {deployment}; `kintsugi release list` names the last ones"
        )
    steps = connection.execute(
        "SELECT node, changes, state FROM deployment_node WHERE deployment = %s ORDER BY position",
        (deployment,),
    ).fetchall()
    entries = connection.execute(
        "SELECT at, node, message FROM deployment_entry WHERE deployment = %s ORDER BY seq", (deployment,)
    ).fetchall()
    return Deployment(
        **one(row),
        steps=tuple(NodeRollout(s["node"], tuple(s["changes"]), NodeState(s["state"])) for s in steps),
        entries=tuple(DeploymentEntry(**entry) for entry in entries),
    )
