"""The steps of a replacement on purpose, as the DAG ``replace_node`` runs them around a recovery.

1. ``check``    every guard is asked (`permission`); nothing is touched. A protected node waits for a person's approval.
2. ``drain``    take the node's lease, open its incident, set its maintenance flag. Ask every guard again under the kill
                lock of the fleet, then stop the service cleanly (`drain`).
3. the recovery of the node with the action *rebuild* (`kintsugi.recovery`): its guards, Terraform, Ansible, rejoin,
                verification. Right before the old node is fenced, its guards are evaluated again.
4. ``finish``   always: start the service again if the node was not fenced, end flag and lease, say what came of it.

The incident is the record: who asked, every step, every reason. Each step may be killed at any moment and run again.
If the whole run is ended, its lease expires, its flag ends with it, and the node's watch takes over.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from kintsugi.core.errors import GuardRefused, IncidentClosed, LeaseHeld, StepFailed
from kintsugi.core.fleet import Node
from kintsugi.core.incident import Incident, Outcome
from kintsugi.operations.context import LEASE_S, Context, FencedStep, RecoveryRef
from kintsugi.recovery.guard_model import Guard
from kintsugi.recovery.kill_permission import refuse_outdated
from kintsugi.replacement import drain, permission

LONGEST = timedelta(hours=6)  # of the maintenance flag, which usually ends with its lease
STOPPING = "stopping"
"""Field of a journal entry of ``drain``: the guards allowed the stop, and the service is stopped from now on."""

log = logging.getLogger(__name__)


class ReplacementState(StrEnum):
    """How a replacement ended."""

    REPLACED = "replaced"
    REFUSED = "refused"
    FAILED = "failed"
    DRY_RUN = "dry_run"


@dataclass(frozen=True, slots=True)
class ReplacementResult:
    """How a replacement ended, and a sentence for people."""

    state: ReplacementState
    text: str


def check_replacement(context: Context, name: str, holder: str) -> list[str]:
    """Return every reason against the replacement now; empty if it is allowed. Nothing is touched.

    A run that has stopped the service already gets none: it goes on.
    """
    own = find_record(context, name, holder)
    if own is not None and own.closed_at is None and is_stopping(own, holder):
        return []
    return permission.refusal_reasons(context, context.fleet.node(name), holder)


def drain_node(
    context: Context, name: str, holder: str, *, started_by: str, approved_by: str | None, what: str
) -> str:
    """Drain the node and stop its service; returns a sentence.

    ``what``: what is asked for, for the journal. ``approved_by``: who approved it for a protected node.

    Raises GuardRefused with every reason, after which the incident is closed; nothing was stopped then. Raises
    StepFailed if the service can't be stopped or the node still leads.
    """
    node = context.fleet.node(name)
    ref = _open_record(context, node, holder)
    try:
        with context.step(ref, "drain") as step:
            if is_stopping(context.store.read_incident(ref.incident), holder):
                drain.stop_service(context, node)  # a killed try of this step may have stopped it
            else:
                _note_request(context, step, started_by, approved_by, what)
                with context.store.kill_lock():
                    _require_permission(context, node, ref, approved_by)
                    allowed_at = datetime.now(UTC)
                    step.check()
                    refuse_outdated(name, allowed_at)
                    step.note(
                        f"the guards allow to stop {name}: it is drained and stopped now", **{STOPPING: True}
                    )
                    drain.stop_service(context, node)
            sentence = drain.wait_until_released(context.fleet, node)
            step.note(sentence)
    except (IncidentClosed, LeaseHeld):
        raise  # of another run
    except GuardRefused as refused:
        _close_refused(context, ref, str(refused))
        raise
    return sentence


def _open_record(context: Context, node: Node, holder: str) -> RecoveryRef:
    """Take the lease and open the incident of this run, or continue it. Raises GuardRefused if another run has one."""
    store = context.store
    lease = store.acquire_lease(node.name, holder, LEASE_S)
    for other in store.read_incidents(1, node=node.name, open_only=True):
        if other.holder != holder:
            store.give_back(node.name, holder)
            raise GuardRefused(
                permission.format_refusal(node.name, [f"incident {other.id} is open ({other.holder})."])
            )
    now = datetime.now(UTC)
    incident = store.open_incident(
        node.name, lease.token, role=node.role, holder=holder, first_failed_at=now, detected_at=now
    )
    return RecoveryRef(incident.id, node.name, holder)


def _note_request(
    context: Context, step: FencedStep, started_by: str, approved_by: str | None, what: str
) -> None:
    ref = step.ref
    step.note(f"{started_by} asked to replace {ref.node} on purpose: {what}", started_by=started_by)
    if approved_by is not None:
        step.note(
            f"{approved_by} approved it although {ref.node} is protected",
            approved=ref.holder,
            gates=[Guard.PROTECTED.value],
        )
    context.store.set_maintenance(
        ref.node,
        reason=f"it is replaced on purpose (asked by {started_by})",
        user=ref.holder,
        until=datetime.now(UTC) + LONGEST,
    )


def _require_permission(context: Context, node: Node, ref: RecoveryRef, approved_by: str | None) -> None:
    """Raise GuardRefused with every reason unless the node may be stopped now."""
    reasons = permission.refusal_reasons(context, node, ref.holder, context.store.repair_budget(ref.incident))
    if node.protected and approved_by is None:
        reasons.append(f"{node.name} is protected, and nobody approved its replacement.")
    if reasons:
        raise GuardRefused(permission.format_refusal(node.name, reasons))


def _close_refused(context: Context, ref: RecoveryRef, reason: str) -> None:
    """Close the incident without a page: nothing was stopped. A killed run leaves that to the sweep of incidents."""
    lease = context.store.acquire_lease(ref.node, ref.holder, LEASE_S)
    context.store.close_incident(ref.incident, lease.token, Outcome.REFUSED, reason)
    _release(context, ref.node, ref.holder)


def _release(context: Context, name: str, holder: str) -> None:
    """End the maintenance flag and the lease of this run; those of other runs stay."""
    context.store.clear_maintenance(name, user=holder)
    context.store.give_back(name, holder)


def finish_replacement(
    context: Context, name: str, holder: str, *, dry_run: bool, refusal: str | None
) -> ReplacementResult:
    """End the replacement in every outcome; returns how it ended. Raises StoreUnavailable.

    ``refusal``: why it ended before the drain; None if it did not. If the node was drained and not fenced, its service
    is started again. If that fails, the node's watch recovers it.
    """
    record = find_record(context, name, holder)
    if record is not None and is_stopping(record, holder) and not _is_fenced(record, holder):
        _start_again(context, context.fleet.node(name), holder)
    _release(context, name, holder)
    return conclude_replacement(name, holder, record, dry_run=dry_run, refusal=refusal)


def _start_again(context: Context, node: Node, holder: str) -> None:
    try:
        context.store.acquire_lease(node.name, holder, LEASE_S)  # another run may be rebuilding it by now
        drain.start_service(context, node)
    except (LeaseHeld, StepFailed) as error:
        log.warning("%s is not started again here: %s", node.name, error)  # its watch recovers it
    else:
        log.info("%s was not replaced, so its service is started again", node.name)


def conclude_replacement(
    name: str, holder: str, record: Incident | None, *, dry_run: bool, refusal: str | None
) -> ReplacementResult:
    """Return how the replacement ended. Pure. ``record``: the newest incident that its run worked on."""
    if dry_run:
        return _conclude_dry_run(name, record, refusal)
    if refusal is not None:
        return ReplacementResult(ReplacementState.REFUSED, refusal)
    if record is None:
        return ReplacementResult(
            ReplacementState.FAILED, f"{name} was not touched: the run ended before its drain; see its tasks"
        )
    return _conclude_record(name, holder, record)


def _conclude_dry_run(name: str, record: Incident | None, refusal: str | None) -> ReplacementResult:
    plan = [entry.message for entry in record.entries if "changes" in entry.data] if record else []
    text = " ".join([*plan[-1:], f"A real run would be refused now: {refusal}" if refusal else ""])
    return ReplacementResult(ReplacementState.DRY_RUN, text.strip() or f"{name}: nothing was changed")


def _conclude_record(name: str, holder: str, record: Incident) -> ReplacementResult:
    see = f"See `make incident ID={record.id}`."
    reason = f"{(record.reason or '').removesuffix('.')}."
    if record.outcome is Outcome.REFUSED:
        return ReplacementResult(ReplacementState.REFUSED, f"{name} is not replaced: {reason} {see}")
    if record.outcome is Outcome.HEALED and record.attempt_of(holder) is None:
        return ReplacementResult(
            ReplacementState.REFUSED, f"{name} is not replaced: it answered again before it was fenced. {see}"
        )
    if record.outcome is Outcome.HEALED:
        return ReplacementResult(ReplacementState.REPLACED, f"{name} is replaced: {reason} {see}")
    failures = [
        f"{entry.step} {entry.message}" for entry in record.entries if entry.data.get("mark") == "failed"
    ]
    why = record.reason or "; ".join(failures[-1:]) or "the run ended without a result"
    return ReplacementResult(
        ReplacementState.FAILED,
        f"the replacement of {name} failed: {why}. The node's watch takes over. {see}",
    )


def find_record(context: Context, name: str, holder: str) -> Incident | None:
    """Return the newest incident of the node that the run ``holder`` worked on; None if it opened none."""
    newest = context.store.read_incidents(5, node=name)
    return next((incident for incident in newest if holder in incident.runs()), None)


def is_stopping(record: Incident, holder: str) -> bool:
    """Whether the run has begun to stop the service, by the journal of its incident."""
    return any(STOPPING in entry.data and entry.data.get("run") == holder for entry in record.entries)


def _is_fenced(record: Incident, holder: str) -> bool:
    """Whether the run has ended every process of the old node, so that there is nothing to start again."""
    return any(
        entry.step == "fence" and entry.data.get("mark") == "end" and entry.data.get("run") == holder
        for entry in record.entries
    )
