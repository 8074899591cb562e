"""Decide whether a Cassandra node may be missing rows that were acknowledged; see ``docs/decisions/0093``.

If so, its ranges are repaired before its incident is closed. A repair takes minutes, so it is not done after every
crash. If only one node lost its last writes, two other replicas still hold them.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from kintsugi.core.errors import StepFailed
from kintsugi.core.fleet import Role
from kintsugi.core.incident import Incident
from kintsugi.operations.context import Context, FencedStep, RecoveryRef

HINT_WINDOW = timedelta(hours=3)  # Cassandra's default for max_hint_window
TOGETHER = timedelta(seconds=30)
CLOCKS = timedelta(minutes=2)  # the node's clock may be behind ours by this
# Cassandra treats an unreadable end of its commit log as a write that was cut off, skips it and starts.
LEFT_OUT = "Ignoring commit log replay error"


def possible_data_loss(context: Context, ref: RecoveryRef, step: FencedStep) -> bool:
    """Whether the node's ranges must be repaired. Raises StaleTokenError.

    It is so in these cases:

    1. The node was rebuilt. A replace streams each range from one replica, possibly from one that missed a write.
    2. Another Cassandra node failed at the same time. A crashed node loses the writes that its commit log had not
       synced yet. That matters if another replica lost the same writes.
    3. The node was away for longer than HINT_WINDOW, so the other nodes hold no hints for all of its missed writes.
    4. A repair is pending: an earlier incident left it unfinished, or the node skipped a part of its commit log.
    """
    incident = context.store.read_incident(ref.incident)
    record_left_out(context, incident, step)
    if _another_crashed_too(context, incident):
        # Recorded now, because this run may not be able to repair: the other node may be down.
        context.store.expect_repair(incident.id, step.token)
    return (
        any(action.destroys for action in incident.attempts())
        or datetime.now(UTC) - incident.first_failed_at > HINT_WINDOW
        or ref.node in context.store.pending_repairs()
    )


def _another_crashed_too(context: Context, incident: Incident) -> bool:
    """Whether another Cassandra node failed at the same time, however many incidents followed."""
    failed_at = incident.first_failed_at
    failures = context.store.read_failures_between(
        failed_at - TOGETHER, failed_at + TOGETHER, role=Role.CASSANDRA
    )
    return any(other.node != incident.node for other in failures)


def record_left_out(context: Context, incident: Incident, step: FencedStep) -> None:
    """Record a pending repair if the node's log says that it started without a part of its commit log.

    Only log lines since the incident's first failure count. If the log can't be read, that is only noted: the recovery
    does not wait for sshd of a node that serves, and the nightly repair covers its ranges. Raises StaleTokenError.
    """
    try:
        log_lines = context.said(incident.node, LEFT_OUT, incident.first_failed_at - CLOCKS)
    except StepFailed as failure:
        step.note(
            f"it is unknown whether {incident.node} started without a part of its commit log, "
            f"because its service log can't be read: {failure}"
        )
        return
    if log_lines:
        at = log_lines[-1].partition(" ")[0]
        context.store.expect_repair(incident.id, step.token)
        step.note(
            f"{incident.node} started without a part of its commit log that it couldn't read (at {at} by its clock) "
            "and may be missing rows; a repair of its ranges is recorded as pending"
        )
