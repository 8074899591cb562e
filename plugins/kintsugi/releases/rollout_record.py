"""How a roll-out ended: its conclusion, its summary for people, and its record in S3."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from kintsugi.core.rollout_state import NodeState
from kintsugi.db.releases import End
from kintsugi.db.store import Deployment, ReleaseRecord
from kintsugi.operations.context import Context
from kintsugi.operations.spool import deliver_to_s3
from kintsugi.releases import rollout
from kintsugi.releases.rollout import Move


@dataclass(frozen=True, slots=True)
class RolloutRecord:
    """How a deployment ended. ``well``: nothing is left to do. ``text``: the summary for people."""

    well: bool
    text: str


def conclude_rollout(deployment: Deployment, release: ReleaseRecord, *, dry_run: bool) -> tuple[End, str]:
    """Return how the deployment ended, by its records and those of its release. Pure."""
    if dry_run and deployment.steps:
        return "dry_run", "dry run: no node was changed"
    broken = deployment.broken is not None
    turn = rollout.next_move(deployment.steps, broken=broken)
    if broken:
        stuck = any(step.state is NodeState.STUCK for step in deployment.steps)
        state: End = "stuck" if stuck or turn.move is not Move.STOP else "returned"
        return state, f"{deployment.broken}; {turn.reason}"
    if deployment.steps and turn.move is Move.BAKE and release.known_good:
        return "held", "known-good: its probes passed on every node"
    if not deployment.steps and release.bad_reason:  # no plan was made
        return "stopped", f"no node was changed; the release is marked bad: {release.bad_reason}"
    return "stopped", "it stopped before the end, without a failed probe; see the task that failed"


def format_rollout(deployment: Deployment) -> str:
    """Format the deployment in a line: the release, how it ended, which nodes were restarted. Pure."""
    names = rollout.updated_nodes(deployment.steps)
    return (
        f"release {deployment.digest[:12]} {deployment.state}: {deployment.reason} "
        f"(restarted for it: {', '.join(names) or 'no node'})"
    )


def deployment_json(deployment: Deployment) -> dict[str, Any]:
    """Return the deployment as JSON types."""
    return {
        "id": deployment.id,
        "digest": deployment.digest,
        "back_to": deployment.back_to,
        "state": deployment.state,
        "broken": deployment.broken,
        "reason": deployment.reason,
        "started_at": deployment.started_at.isoformat(),
        "ended_at": deployment.ended_at and deployment.ended_at.isoformat(),
        "touched": rollout.updated_nodes(deployment.steps),
        "steps": [
            {"node": step.node, "state": step.state.value, "changes": list(step.changes)}
            for step in deployment.steps
        ],
        "entries": [
            {"at": entry.at.isoformat(), "node": entry.node, "message": entry.message}
            for entry in deployment.entries
        ],
    }


def archive_deployment(context: Context, deployment: Deployment) -> None:
    """Put the record of the deployment into S3, or into the spool."""
    body = json.dumps(deployment_json(deployment), indent=2).encode()
    deliver_to_s3(context, f"deployments/{deployment.id.replace('/', '_')}.json", body)
