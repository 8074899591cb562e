"""Whether a Cassandra node may lack rows that were acknowledged; see ``docs/decisions/0093``.

If it may, its ranges are compared with its replicas before its incident is over. That takes minutes, so it isn't done
after every crash: what one node alone lost of the last moment, two others hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from kintsugi.core.errors import StepFailed
from kintsugi.core.fleet import Role
from kintsugi.core.incident import Incident
from kintsugi.operations.context import Context, FencedStep, RecoveryRef

HINT_WINDOW = timedelta(hours=3)  # Cassandra's default for max_hint_window
TOGETHER = timedelta(seconds=30)
CLOCKS = timedelta(minutes=2)  # by which the node's clock may be behind ours
# Cassandra takes a piece at the end of its commit log that it can't read for a write that was cut short.
LEFT_OUT = "Ignoring commit log replay error"


def possible_data_loss(context: Context, case: RecoveryRef, step: FencedStep) -> bool:
    """Whether the node's ranges must be compared. Raises StaleTokenError.

    A replace streams each range from one replica, possibly from the one that missed a write. A host that lost
    its power lost what its commit log hadn't synced yet; a process that crashed, what came after the log's last
    marker (100 ms), which matters when another replica lost the same moment. After a longer absence the others keep
    no hints for it. And what an earlier incident left unfinished, or the node left out, is still to be done.
    """
    incident = context.store.incident(case.incident)
    record_left_out(context, incident, step)
    if _another_crashed_too(incident, context.store.incidents()):
        # On record, because this run may not come to it, the other being away.
        context.store.expect_repair(incident.id, step.token)
    return (
        any(action.destroys for action in incident.attempts())
        or datetime.now(UTC) - incident.first_failed_at > HINT_WINDOW
        or case.node in context.store.pending_repairs()
    )


def _another_crashed_too(incident: Incident, latest: Sequence[Incident]) -> bool:
    """Whether another Cassandra node failed at the same time."""
    return any(
        other.role is Role.CASSANDRA
        and other.node != incident.node
        and abs(other.first_failed_at - incident.first_failed_at) < TOGETHER
        for other in latest
    )


def record_left_out(context: Context, incident: Incident, step: FencedStep) -> None:
    """Put a node on record as pending repair where its log says that it started without a part of its commit log.

    Only what it said since the incident's first failure counts. A log that can't be read is noted and no more: a node
    that serves isn't held up for its sshd, and the next night compares its ranges. Raises StaleTokenError.
    """
    try:
        said = context.said(incident.node, LEFT_OUT, incident.first_failed_at - CLOCKS)
    except StepFailed as failure:
        step.note(
            f"{incident.node} couldn't be asked whether it started without a part of its commit log: {failure}"
        )
        return
    if said:
        at = said[-1].partition(" ")[0]
        context.store.expect_repair(incident.id, step.token)
        step.note(
            f"{incident.node} started without a part of its commit log that it couldn't read ({at} by its clock); "
            "its ranges are to be compared with its replicas"
        )
