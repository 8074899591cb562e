"""What becomes of the disk that a rebuild replaced, once its successor is proven."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from kintsugi.core.incident import Incident
from kintsugi.operations.context import Context, FencedStep, RecoveryRef
from kintsugi.recovery.guards import Guard

HELD_FOR = timedelta(days=7)
NEEDED = frozenset({Guard.COPIES, Guard.PENDING})
"""The gates that refuse because the disk may hold the only copy of something."""


def may_be_last_copy(incident: Incident) -> bool:
    """Whether a person approved that a disk is destroyed which may hold the only copy of something. Pure."""
    refused = {
        entry.data.get("run"): set(entry.data.get("gates", ()))
        for entry in incident.entries
        if entry.step == "guard" and "refused" in entry.data
    }
    approved = {entry.data["approved"] for entry in incident.entries if "approved" in entry.data}
    opened = set().union(*(refused.get(run, set()) for run in approved))
    return bool(opened & NEEDED) and any(action.destroys_volume for action in incident.attempts())


def discard_or_hold(context: Context, case: RecoveryRef, step: FencedStep) -> None:
    """Delete what is left of the node's predecessors, or keep it for HELD_FOR where it may be the last copy."""
    if may_be_last_copy(context.store.incident(case.incident)):
        until = datetime.now(UTC) + HELD_FOR
        if context.platform().hold(case.node, until):
            step.note(
                f"the replaced disk of {case.node} is kept until {until:%Y-%m-%d}: it may hold the last copy"
            )
            return
    context.platform().discard(case.node)
