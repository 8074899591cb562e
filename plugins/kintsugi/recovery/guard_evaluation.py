"""Evaluate the guards: before the decision, and in the transaction that begins an attempt.

`kill_permission` evaluates them once more before each kill.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from kintsugi.core.dag_ids import is_replacement
from kintsugi.core.errors import GuardRefused, IncidentClosed, InputError, NodeReturned
from kintsugi.core.incident import Action, Incident
from kintsugi.core.incident import RepairBudget as RepairLedger
from kintsugi.core.observation import ProbeResult
from kintsugi.operations.context import LEASE_S, Context, FencedStep, RecoveryRef
from kintsugi.recovery.assessment import ConfirmedFinding, latest_entry, observe_node, write_failure_mode
from kintsugi.recovery.common_cause import CommonCause
from kintsugi.recovery.diagnosis import FailureMode, diagnose_node
from kintsugi.recovery.escalation import Decision, decide_action
from kintsugi.recovery.fact_gathering import Suspicion, gather_guard_facts
from kintsugi.recovery.guard_model import Guard, GuardFacts, GuardResult, Limits
from kintsugi.recovery.guards import evaluate_action
from kintsugi.releases import assignment

PATIENCE_S = 30.0
LOOK_AGAIN_S = 5.0
WAIT_FOR_OTHERS_S = 75.0  # nodes of one role are killed one at a time, a minute apart
# These guards usually stop refusing by themselves. A person is asked only after WAIT_BEFORE_ASKING.
SELF_OPENING = frozenset({Guard.WRONG_KILL, Guard.COMMON_CAUSE, Guard.ONE_OF_ROLE, Guard.BREAKER})
WAIT_BEFORE_ASKING = timedelta(minutes=3)
LIMITS = "limits"  # the key in the database of limits that differ from the guards' defaults
PATHS = {
    Action.WAIT: "rejoin",
    Action.RESTART: "restart",
    Action.ROLL_BACK: "restart",  # from the known-good release; see actions.restart_service
    Action.REBUILD_NODE: "plan",
    Action.REBUILD: "plan",
}

log = logging.getLogger(__name__)


def evaluate_guards(context: Context, ref: RecoveryRef) -> list[str]:
    """Return the next tasks: ``stand_down``, or the archive and either ``decide`` or ``ask_a_human``.

    If every reason can go away by itself, it waits up to PATIENCE_S seconds and observes the node again meanwhile.
    """
    with context.step(ref, "guard") as step:
        until = time.monotonic() + PATIENCE_S
        while True:
            answer = _ask_guards(context, ref)
            if not answer.waits or time.monotonic() > until:
                return _record_answer(step, answer, planned=is_replacement(ref.holder))
            log.info("waiting: %s", answer.reason)
            pause_s = (answer.retry_at - datetime.now(UTC)).total_seconds() if answer.retry_at else 2.0
            time.sleep(min(max(pause_s, 0.1), LOOK_AGAIN_S))
            _confirm_again(context, ref, step)


@dataclass(frozen=True, slots=True)
class _GuardAnswer:
    """The guards' answer to a decision. ``waits``: the reasons against it can go away by themselves."""

    decision: Decision
    dry_run: bool
    waits: bool
    reason: str
    retry_at: datetime | None = None
    ruling: GuardResult = field(default_factory=lambda: GuardResult(True))
    since: datetime | None = None
    common_cause: CommonCause | None = None


def _ask_guards(context: Context, ref: RecoveryRef) -> _GuardAnswer:
    incident = context.store.read_incident(ref.incident)
    confirmed = ConfirmedFinding.of(incident, ref.holder)
    decision = _decide_next(context, incident, confirmed)
    nothing = decision.action in (Action.STAND_DOWN, Action.WAIT)
    if confirmed.dry_run or nothing:
        partitioned = nothing and confirmed.verdict is FailureMode.PARTITIONED and not confirmed.dry_run
        since = incident.first_failed_at
        return _GuardAnswer(decision, confirmed.dry_run, partitioned, decision.reason, since=since)
    paging = decision.action is Action.PAGE
    # The person who is asked whether to try again must see every reason against it.
    at_stake = _decide_next(context, incident, confirmed, insisted=True) if paging else decision
    facts = current_facts(context, ref, incident)
    ruling = evaluate_action(
        judged_action(at_stake.action, ref),
        facts.with_ledger(context.store.repair_budget(incident.id)),
        limits_in_force(context),
        # A replacement asks a person before it drains the node. Every other run asks after this answer.
        approved=approved_guards(incident, ref) if is_replacement(ref.holder) else (),
    )
    if paging:
        ruling = GuardResult(False, (decision.reason, *ruling.reasons), ruling.gates)
    return _GuardAnswer(
        decision,
        dry_run=False,
        waits=ruling.passing,
        reason=" ".join(ruling.reasons) or decision.reason,
        retry_at=ruling.retry_at,
        ruling=ruling,
        since=incident.first_failed_at,
        common_cause=facts.common_cause(),
    )


def _confirm_again(context: Context, ref: RecoveryRef, step: FencedStep) -> None:
    """Observe the node once more. A changed failure mode goes into the journal; the next decision uses it."""
    incident = context.store.read_incident(ref.incident)
    confirmed = ConfirmedFinding.of(incident, ref.holder)
    since = confirmed.first_failed_at
    seen = replace(
        observe_node(context, context.node(ref)), unanswered_since=since if confirmed.silent else None
    )
    if diagnose_node(seen).verdict is not confirmed.verdict:
        write_failure_mode(
            step,
            seen,
            requested=confirmed.requested.value,
            dry_run=confirmed.dry_run,
            watch_late_s=confirmed.watch_late_s,
            first_failed_at=since.isoformat(),
            silent=confirmed.silent,
        )


def _record_answer(step: FencedStep, answer: _GuardAnswer, *, planned: bool) -> list[str]:
    """Write the guards' answer into the journal; returns the next tasks. ``planned``: for a replacement on purpose."""
    decision, ruling = answer.decision, answer.ruling
    if answer.dry_run:
        step.note(f"dry run, nothing is changed: {decision.reason}", action=decision.action.value)
        return ["decide"]
    if not ruling.allowed and planned:
        step.note(_give_up(answer.reason), given_up=True, gates=sorted(gate.value for gate in ruling.gates))
        return ["stand_down"]
    recent = answer.since is not None and datetime.now(UTC) - answer.since < WAIT_BEFORE_ASKING
    partitioned = answer.waits and ruling.allowed
    if decision.action is Action.STAND_DOWN or partitioned or (recent and waits_only(ruling)):
        data = _waiting_data(answer) if answer.waits else {}
        step.note(answer.reason, action=decision.action.value, **data)
        return ["stand_down"]
    if ruling.allowed:
        step.note(f"the guards allow: {decision.reason}", action=decision.action.value)
        return ["archive_logs", "decide"]
    step.note(
        "refused: " + answer.reason,
        refused=list(ruling.reasons),
        gates=sorted(gate.value for gate in ruling.gates),
        **_waiting_data(answer),
    )
    return ["archive_logs", "ask_a_human"]


def _give_up(reason: str) -> str:
    """Return why a replacement is given up. Nobody is asked while the node is stopped; it is started again."""
    return f"the replacement is given up before anything is destroyed: {reason}"


def waits_only(ruling: GuardResult) -> bool:
    """Whether all guards that refused usually stop refusing sooner than a person could look."""
    return not ruling.allowed and ruling.passing and ruling.gates <= SELF_OPENING


def _waiting_data(answer: _GuardAnswer) -> dict[str, Any]:
    """Data for the journal: whether the recovery waits, and which nodes share which cause."""
    cause = answer.common_cause
    shared = {"cause": cause.cause.value, "zone": cause.zone, "nodes": list(cause.nodes)} if cause else None
    return {"waiting": answer.waits, "common_cause": shared}


def _decide_next(
    context: Context, incident: Incident, confirmed: ConfirmedFinding, *, insisted: bool = False
) -> Decision:
    return decide_action(
        confirmed.verdict,
        incident.attempts(),
        role=context.fleet.node(incident.node).role,
        requested=confirmed.requested,
        volume_intact=confirmed.volume_intact,
        suspicious_release=assignment.has_unproven_release(context.store, incident.node),
        unfinished=incident.node in context.store.pending_repairs(),
        insisted=insisted,
    )


def judged_action(action: Action, ref: RecoveryRef) -> Action:
    """Return the action whose guards are evaluated: a replacement on purpose is judged as if it lost the volume too.

    Its node can be started again at once. So it is rebuilt only while its peers are complete without it.
    """
    kept = action is Action.REBUILD_NODE and is_replacement(ref.holder)
    return Action.REBUILD if kept else action


def limits_in_force(context: Context) -> Limits:
    """Return the limits in force: the defaults, overridden by what is set in the database under LIMITS.

    An override with ``until`` (ISO 8601) expires at that time, even if the process that set it is gone.
    Raises InputError for an unknown limit, because a misspelt name would silently change nothing.
    """
    setting = context.store.read_desired(LIMITS)
    overrides = dict(setting.value) if setting and setting.value else {}
    until = overrides.pop("until", None)
    if until is not None and datetime.fromisoformat(until) < datetime.now(UTC):
        return Limits()
    known = {"repairs_per_node_and_hour", "repairs_per_hour", "sick_share"}
    if unknown := overrides.keys() - known:
        raise InputError(
            f"Postgres holds an unknown limit of the guards: {', '.join(sorted(unknown))}; "
            f"the known limits are {', '.join(sorted(known))}"
        )
    return Limits(**overrides)


def current_facts(context: Context, ref: RecoveryRef, incident: Incident) -> GuardFacts:
    """Gather the guards' facts now; the state of the disk is taken from ``confirm``."""
    confirmed = ConfirmedFinding.of(incident, ref.holder)
    action = incident.attempt_of(ref.holder)
    suspicion = Suspicion(
        failure_mode=confirmed.verdict,
        first_failed_at=confirmed.first_failed_at,
        detected_at=incident.detected_at,
        last_seen_at=confirmed.last_seen_at,
        volume_intact=confirmed.volume_intact,
        watch_late_s=confirmed.watch_late_s,
        planned=confirmed.planned or action is Action.ROLL_BACK,
    )
    return gather_guard_facts(context, context.node(ref), suspicion)


def approved_guards(incident: Incident, ref: RecoveryRef) -> list[Guard]:
    """Return the guards that a person overrode for this run; see ``choose_path``."""
    approvals = [entry.data for entry in incident.entries if entry.data.get("approved") == ref.holder]
    if not approvals:
        return []
    gates = approvals[-1].get("gates")  # of a replacement, which was approved before a guard refused
    if gates is None:
        gates = latest_entry(incident, "guard", "refused", ref.holder).data["gates"]
    return [Guard(gate) for gate in gates]


def refusal_reasons(context: Context, ref: RecoveryRef) -> list[str]:
    """Return the reasons with which the guards last refused this run, one sentence each."""
    return list(
        latest_entry(context.store.read_incident(ref.incident), "guard", "refused", ref.holder).data[
            "refused"
        ]
    )


def choose_path(context: Context, ref: RecoveryRef, approved_by: str | None) -> str:
    """Decide, begin the attempt in the database (which evaluates the guards once more), and return the next task.

    A run that was killed here continues with the action that it had chosen. A person's approval overrides the guards
    that had refused when the question was asked. A node that answers again meanwhile is only verified. Raises
    GuardRefused if another guard refuses now.
    """
    with context.step(ref, "decide") as step:
        if approved_by:
            step.note(
                f"{approved_by} approved the recovery although the guards refused it", approved=ref.holder
            )
        incident = context.store.read_incident(ref.incident)
        confirmed = ConfirmedFinding.of(incident, ref.holder)
        if confirmed.dry_run:
            return "show_plan"
        decision = _earlier_decision(incident, ref)
        if decision is None:
            decision = _decide_next(context, incident, confirmed, insisted=bool(approved_by))
            step.note(decision.reason, chosen=decision.action.value, run=ref.holder)
        if decision.action.changes:
            try:
                _begin_attempt(
                    context, ref, step, incident, decision, approved=approved_guards(incident, ref)
                )
            except NodeReturned as returned:
                step.note(f"{ref.node} answers again, so it is only verified: {returned}", returned=True)
                return PATHS[Action.WAIT]
            except IncidentClosed:
                raise
            except GuardRefused as refused:
                if is_replacement(ref.holder):
                    step.note(_give_up(str(refused)), given_up=True)
                raise
    return PATHS[decision.action]


def _earlier_decision(incident: Incident, ref: RecoveryRef) -> Decision | None:
    for entry in incident.entries:
        if entry.step == "decide" and "chosen" in entry.data and entry.data.get("run") == ref.holder:
            return Decision(Action(entry.data["chosen"]), entry.message)
    return None


def _begin_attempt(
    context: Context,
    ref: RecoveryRef,
    step: FencedStep,
    incident: Incident,
    decision: Decision,
    *,
    approved: Collection[Guard],
) -> None:
    """Begin the attempt. If a refusal can go away by itself, wait, gather the facts again and retry.

    Raises NodeReturned if the node answers meanwhile, else GuardRefused with the reasons.
    """
    until = time.monotonic() + WAIT_FOR_OTHERS_S
    while True:
        evaluation = _LastAnswer(
            judged_action(decision.action, ref),
            current_facts(context, ref, incident),
            limits_in_force(context),
            approved,
        )
        try:
            context.store.begin_attempt(
                ref.incident,
                step.token,
                decision.action,
                key=ref.holder,
                reason=decision.reason,
                refusals=evaluation.refusals,
                ttl_s=LEASE_S,
            )
            return
        except IncidentClosed:
            raise
        except GuardRefused as refused:
            if evaluation.facts.service is ProbeResult.OK and not evaluation.facts.planned:
                raise NodeReturned(str(refused)) from refused
            if not evaluation.ruling.passing or time.monotonic() > until:
                raise
            log.info("waiting: %s", refused)
            time.sleep(LOOK_AGAIN_S)


@dataclass
class _LastAnswer:
    """Evaluates the guards inside the database transaction, and keeps their answer."""

    action: Action
    facts: GuardFacts
    limits: Limits
    approved: Collection[Guard]
    ruling: GuardResult = field(default_factory=lambda: GuardResult(False))

    def refusals(self, ledger: RepairLedger) -> tuple[str, ...]:
        self.ruling = evaluate_action(
            self.action, self.facts.with_ledger(ledger), self.limits, approved=self.approved
        )
        return self.ruling.reasons
