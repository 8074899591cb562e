"""Discard or keep the disk that a rebuild replaced, after the new node is verified."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from kintsugi.core.incident import Incident
from kintsugi.operations.context import Context, FencedStep, RecoveryRef
from kintsugi.recovery.guard_model import Guard

HELD_FOR = timedelta(days=7)
NEEDED = frozenset({Guard.COPIES, Guard.PENDING})
"""The guards that refuse because the disk may hold the only copy of some data."""


def may_be_last_copy(incident: Incident) -> bool:
    """Whether a person approved the replacement of a disk that may hold the only copy of some data. Pure."""
    refused = {
        entry.data.get("run"): set(entry.data.get("gates", ()))
        for entry in incident.entries
        if entry.step == "guard" and "refused" in entry.data
    }
    approved = {entry.data["approved"] for entry in incident.entries if "approved" in entry.data}
    opened = set().union(*(refused.get(run, set()) for run in approved))
    return bool(opened & NEEDED) and any(action.destroys_volume for action in incident.attempts())


def discard_or_hold(context: Context, ref: RecoveryRef, step: FencedStep) -> None:
    """Delete the node's replaced disks, or keep them for HELD_FOR if they may hold the last copy of some data."""
    if may_be_last_copy(context.store.read_incident(ref.incident)):
        until = datetime.now(UTC) + HELD_FOR
        if context.platform().hold(ref.node, until):
            step.note(
                f"the replaced disk of {ref.node} is kept until {until:%Y-%m-%d}, "
                "because it may hold the last copy of some data"
            )
            return
    context.platform().discard(ref.node)
