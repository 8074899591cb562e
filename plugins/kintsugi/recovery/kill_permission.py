"""Evaluate the guards once more, with fresh facts, right before a node or its service is killed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime, timedelta

from kintsugi.core.errors import GuardRefused, IncidentClosed, NodeReturned
from kintsugi.core.incident import Incident
from kintsugi.core.observation import ProbeResult
from kintsugi.operations.context import Context, FencedStep, RecoveryRef
from kintsugi.probes.protocols import probe_node
from kintsugi.recovery import guard_evaluation
from kintsugi.recovery.fact_gathering import is_running
from kintsugi.recovery.guard_model import GuardFacts
from kintsugi.recovery.guards import evaluate_action

KILL_S = 120.0  # of a kill, or of a clean stop; a playbook takes longer
KILL_WITHIN = timedelta(seconds=10)  # after the observation that allows the kill


@contextmanager
def kill_permission(
    context: Context, ref: RecoveryRef, step: FencedStep, *, hold_s: float = KILL_S
) -> Iterator[GuardFacts]:
    """Evaluate the guards once more, with fresh facts; the block may then kill what they were evaluated for.

    Another recovery can't kill a node meanwhile: the fleet's kill lock is held, unless the node does not run.

    Raises NodeReturned if the node answers again, else GuardRefused with the reasons. After every refusal, also one of
    the block (NewIncarnation), nothing was killed. So the attempt is withdrawn and uses up no repair budget. The block
    calls `check_before_kill` directly before it kills.

    ``hold_s``: how long the block may take.
    """
    runs = is_running(context.platform(), ref.node) is not False
    with (
        withdraw_on_refusal(context, ref, step),
        context.store.kill_lock(hold_s=hold_s) if runs else nullcontext(),
    ):
        facts = _reevaluate_guards(context, ref)
        if runs:
            step.note(
                f"guards evaluated again: {ref.node} may be killed",
                service=facts.service and facts.service.value,
                running=facts.running,
                heard_at=facts.last_seen_at and facts.last_seen_at.isoformat(),
                process=facts.view.process and str(facts.view.process),
            )
        yield facts


def check_before_kill(context: Context, ref: RecoveryRef, facts: GuardFacts) -> None:
    """Probe the node once more: after the guards allowed the kill, the database or a disk may have stood still.

    Raises NodeReturned if the node answers, unless it is to be stopped although it serves. Raises GuardRefused if the
    facts are older than KILL_WITHIN. A node that its platform proves dead can't be killed, so it isn't probed.
    """
    if facts.proven_dead:
        return
    if not facts.planned and asyncio.run(probe_node(context.node(ref))).answer is ProbeResult.OK:
        raise NodeReturned(f"{ref.node} answered just before it would have been killed.")
    refuse_outdated(ref.node, facts.at)


def refuse_outdated(node: str, observed_at: datetime) -> None:
    """Raise GuardRefused if a kill or a stop comes more than KILL_WITHIN after the observation that allowed it."""
    if (age := datetime.now(UTC) - observed_at) > KILL_WITHIN:
        raise GuardRefused(
            f"Nothing is killed: the guards evaluated facts about {node} that are {age.total_seconds():.0f} s old "
            f"by now (limit: {KILL_WITHIN.total_seconds():.0f} s). The database or this machine stood still meanwhile."
        )


@contextmanager
def withdraw_on_refusal(context: Context, ref: RecoveryRef, step: FencedStep) -> Iterator[None]:
    """Withdraw this run's attempt if the block raises GuardRefused: it has killed nothing then."""
    try:
        yield
    except IncidentClosed:
        raise
    except GuardRefused as refused:
        incident = context.store.read_incident(ref.incident)
        # An earlier try of this task may have fenced and destroyed the node. Then the attempt is no longer untouched.
        if incident.attempt_of(ref.holder) is not None and not _has_fenced(incident, ref.holder):
            context.store.withdraw_attempt(ref.incident, step.token, ref.holder, f"not killed: {refused}")
        raise


def _has_fenced(incident: Incident, holder: str) -> bool:
    return any(
        entry.step == "fence" and entry.data.get("mark") == "end" and entry.data.get("run") == holder
        for entry in incident.entries
    )


def _reevaluate_guards(context: Context, ref: RecoveryRef) -> GuardFacts:
    """Return fresh facts that the guards allow. Guards that a person overrode for this attempt stay overridden."""
    incident = context.store.read_incident(ref.incident)
    action = incident.attempt_of(ref.holder)
    if action is None:
        raise GuardRefused(f"Nothing is killed: this run has no open attempt on {ref.node}.")
    facts = guard_evaluation.current_facts(context, ref, incident)
    ruling = evaluate_action(
        guard_evaluation.judged_action(action, ref),
        facts.with_ledger(context.store.repair_budget(incident.id)),
        guard_evaluation.limits_in_force(context),
        approved=guard_evaluation.approved_guards(incident, ref),
    )
    if ruling.allowed:
        return facts
    answers_again = ProbeResult.OK in (facts.service, facts.view.answer)
    raise (NodeReturned if answers_again else GuardRefused)(" ".join(ruling.reasons))
