"""The judging steps of a recovery: gather what is known, let the pure rules speak, write down what they said."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from kintsugi.errors import InputError
from kintsugi.fleet import Node, Role
from kintsugi.incident import Action, Entry, Incident
from kintsugi.observation import Answer, Observation, Symptom
from kintsugi.recovery import lacking
from kintsugi.recovery.case import LEASE_S, Case, Runtime, Step
from kintsugi.recovery.decide import Decision, decide
from kintsugi.recovery.diagnose import Verdict, diagnose
from kintsugi.recovery.guards import Gate, GuardFacts, Limits, Ruling, judge
from kintsugi.release import in_force

PATIENCE_S = 30.0
LIMITS = "limits"  # where the store keeps what differs from the guards' defaults
# A fault is held to be the cause of what is noticed within this time after it.
FAULT_WINDOW = timedelta(minutes=2)
PATHS = {
    Action.WAIT: "rejoin",
    Action.RESTART: "restart",
    Action.ROLL_BACK: "restart",  # from the known-good release; see act.restart
    Action.REBUILD_NODE: "plan",
    Action.REBUILD: "plan",
}


log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Confirmed:
    """What ``confirm`` wrote into the journal: the verdict, and what the later steps need of the observation."""

    verdict: Verdict
    requested: Action
    dry_run: bool
    volume_intact: bool | None
    heard_at: datetime | None

    @classmethod
    def of(cls, incident: Incident) -> Confirmed:
        """The newest confirmation of the incident."""
        data = latest(incident, "confirm", "verdict").data
        heard = data["heard_at"]
        return cls(
            verdict=Verdict(data["verdict"]),
            requested=Action(data["requested"]),
            dry_run=data["dry_run"],
            volume_intact=data["volume_intact"],
            heard_at=datetime.fromisoformat(heard) if heard else None,
        )


def latest(incident: Incident, step: str, field: str) -> Entry:
    """The newest journal entry of ``step`` that carries ``field``; raises KeyError when there is none."""
    for entry in reversed(incident.entries):
        if entry.step == step and field in entry.data:
            return entry
    raise KeyError(f"incident {incident.id} has no {step} entry with {field}")


def confirm(
    runtime: Runtime,
    *,
    node: str,
    holder: str,
    finding: Mapping[str, Any] | None,
    requested: str,
    dry_run: bool,
) -> Case:
    """Take the lease, open or continue the incident, look again, and write the verdict into the journal.

    Raises LeaseHeld when another run repairs this node.
    """
    server = runtime.fleet.node(node)
    now = datetime.now(UTC)
    first_failed = datetime.fromisoformat(finding["first_failed_at"]) if finding else now
    detected = datetime.fromisoformat(finding["detected_at"]) if finding else now
    lease = runtime.store.acquire_lease(node, holder, LEASE_S, fresh_token=True)
    fault = runtime.store.last_fault(node, detected, after=first_failed - FAULT_WINDOW) if finding else None
    incident = runtime.store.open_incident(
        node,
        lease.token,
        role=server.role,
        holder=holder,
        first_failed_at=first_failed,
        detected_at=detected,
        t0=fault.t0 if fault else None,
    )
    case = Case(incident.id, node, holder)
    with runtime.step(case, "confirm") as step:
        for line in finding["evidence"] if finding else ():
            step.note(line, finding=True)
        seen = look(runtime, server)
        if finding and finding["symptom"] == Symptom.HUNG:
            seen = replace(seen, unanswered_since=first_failed)
        _write_verdict(step, seen, requested, dry_run)
        if server.role is Role.CASSANDRA and seen.service is Answer.OK and not dry_run:
            lacking.record_left_out(runtime, incident, step)
    return case


def look(runtime: Runtime, node: Node) -> Observation:
    """Observe the node, its peers and its disk; what is silent to us counts as heard when a peer heard it."""
    from kintsugi.probes.observe import observe

    seen = asyncio.run(observe(runtime.settings, node))
    if seen.volume_intact is None:
        # Only a missing disk is certain from outside; whether a present one is readable the node itself would say.
        exists = runtime.platform().volume_exists(node.name)
        seen = replace(seen, volume_intact=exists)
    return seen


def _write_verdict(step: Step, seen: Observation, requested: str, dry_run: bool) -> None:
    diagnosis = diagnose(seen)
    step.note(
        diagnosis.reason,
        verdict=diagnosis.verdict.value,
        requested=requested,
        dry_run=dry_run,
        run=step.case.holder,
        volume_intact=seen.volume_intact,
        disk_free=seen.room and seen.room.free,
        clock_ahead_s=seen.clock_ahead_s,
        heard_at=seen.heard_at.isoformat() if seen.heard_at else None,
        service=seen.service.value,
        ssh=seen.ssh.value,
        init_state=seen.init_state,
        peers={peer: opinion.value for peer, opinion in seen.peers.items()},
    )


def guard(runtime: Runtime, case: Case) -> list[str]:
    """The tasks to go on with: ``stand_down``, or the archive and either ``decide`` or ``ask_a_human``."""
    with runtime.step(case, "guard") as step:
        incident = runtime.store.incident(case.incident)
        confirmed = Confirmed.of(incident)
        decision = _decide(runtime, incident, confirmed)
        if confirmed.dry_run:
            step.note(f"dry run of: {decision.reason}", action=decision.action.value)
            return ["decide"]
        if decision.action is Action.STAND_DOWN or confirmed.verdict is Verdict.PARTITIONED:
            step.note(decision.reason, action=decision.action.value)
            return ["stand_down"]
        paging = decision.action is Action.PAGE
        # Who is asked whether to try again shall know what speaks against it.
        at_stake = _decide(runtime, incident, confirmed, insisted=True) if paging else decision
        ruling = _judge(runtime, case, incident, at_stake)
        if paging:
            ruling = Ruling(False, (decision.reason, *ruling.reasons), ruling.gates)
        if ruling.allowed:
            step.note(f"the guards allow: {decision.reason}", action=decision.action.value)
            return ["archive_logs", "decide"]
        step.note(
            "refused: " + " ".join(ruling.reasons),
            refused=list(ruling.reasons),
            gates=sorted(gate.value for gate in ruling.gates),
        )
    return ["archive_logs", "ask_a_human"]


def _decide(
    runtime: Runtime, incident: Incident, confirmed: Confirmed, *, insisted: bool = False
) -> Decision:
    return decide(
        confirmed.verdict,
        incident.attempts(),
        role=runtime.fleet.node(incident.node).role,
        requested=confirmed.requested,
        volume_intact=confirmed.volume_intact,
        suspicious_release=in_force.suspicious(runtime.store, incident.node),
        unfinished=incident.node in runtime.store.pending_repairs(),
        insisted=insisted,
    )


def _judge(runtime: Runtime, case: Case, incident: Incident, decision: Decision) -> Ruling:
    """Ask the guards; reasons that may pass by themselves are given PATIENCE_S seconds before a person is asked."""
    until = time.monotonic() + PATIENCE_S
    while True:
        facts = _facts(runtime, case, incident)
        ruling = judge(decision.action, facts.with_ledger(runtime.store.ledger(incident.id)), limits(runtime))
        if ruling.allowed or not ruling.passing or time.monotonic() > until:
            return ruling
        log.info("the guards say not yet: %s", " ".join(ruling.reasons))
        pause = (ruling.retry_at - datetime.now(UTC)).total_seconds() if ruling.retry_at else 2.0
        time.sleep(min(max(pause, 0.1), 5.0))


def limits(runtime: Runtime) -> Limits:
    """The limits in force: the defaults, but for what somebody set in the store under LIMITS.

    With ``until`` (ISO 8601) beside them they end by themselves, whatever became of who set them.
    Raises InputError for a limit that doesn't exist, because a misspelt one would leave the guard as it was.
    """
    found = runtime.store.desired(LIMITS)
    given = dict(found.value) if found and found.value else {}
    until = given.pop("until", None)
    if until is not None and datetime.fromisoformat(until) < datetime.now(UTC):
        return Limits()
    known = {"repairs_per_node_and_hour", "repairs_per_hour", "sick_share"}
    if strange := given.keys() - known:
        raise InputError(
            f"unknown limit {', '.join(sorted(strange))} in the store; there are {', '.join(sorted(known))}"
        )
    return Limits(**given)


def _facts(runtime: Runtime, case: Case, incident: Incident) -> GuardFacts:
    """What the guards ask for, as it is at this moment; of the disk, what ``confirm`` found out."""
    from kintsugi.probes.facts import guard_facts

    confirmed = Confirmed.of(incident)
    return asyncio.run(
        guard_facts(
            runtime.fleet,
            runtime.node(case),
            heard_at=confirmed.heard_at,
            first_failed_at=incident.first_failed_at,
            volume_intact=confirmed.volume_intact,
        )
    )


def refusal(runtime: Runtime, case: Case) -> list[str]:
    """The sentences with which the guards last refused the repair."""
    return list(latest(runtime.store.incident(case.incident), "guard", "refused").data["refused"])


def choose_path(runtime: Runtime, case: Case, approved_by: str | None) -> str:
    """Decide, begin the attempt in the store (which asks the guards once more), and name the task to go on with.

    A run that was killed here goes on with what it had chosen. A person's approval opens the gates that had refused
    when the question was asked. Raises Refused when another one refuses by now.
    """
    with runtime.step(case, "decide") as step:
        if approved_by:
            step.note(f"{approved_by} approved the repair against the guards' advice", approved=case.holder)
        incident = runtime.store.incident(case.incident)
        confirmed = Confirmed.of(incident)
        if confirmed.dry_run:
            return "show_plan"
        decision = _chosen(incident, case)
        if decision is None:
            decision = _decide(runtime, incident, confirmed, insisted=bool(approved_by))
            step.note(decision.reason, chosen=decision.action.value, run=case.holder)
        if decision.action.changes:
            opened = latest(incident, "guard", "refused").data["gates"] if approved_by else ()
            _begin(runtime, case, step, incident, decision, approved=[Gate(gate) for gate in opened])
    return PATHS[decision.action]


def _chosen(incident: Incident, case: Case) -> Decision | None:
    for entry in incident.entries:
        if entry.step == "decide" and entry.data.get("run") == case.holder:
            return Decision(Action(entry.data["chosen"]), entry.message)
    return None


def _begin(
    runtime: Runtime,
    case: Case,
    step: Step,
    incident: Incident,
    decision: Decision,
    *,
    approved: Collection[Gate],
) -> None:
    facts, allowed = _facts(runtime, case, incident), limits(runtime)
    runtime.store.begin_attempt(
        case.incident,
        step.token,
        decision.action,
        key=case.holder,
        reason=decision.reason,
        refusals=lambda ledger: (
            judge(decision.action, facts.with_ledger(ledger), allowed, approved=approved).reasons
        ),
        ttl_s=LEASE_S,
    )


def stand_down(runtime: Runtime, case: Case) -> str:
    """Nothing to do, or nothing to do yet; a node on its way up is left alone, and the watch looks again."""
    with runtime.step(case, "stand_down") as step:
        confirmed = Confirmed.of(runtime.store.incident(case.incident))
        sentence = f"nothing is touched ({confirmed.verdict.value})"
        step.note(sentence)
    return sentence


def answers(node: Node) -> bool:
    """Whether the node answers its own protocol at this moment."""
    from kintsugi.probes.protocols import probe_node

    return asyncio.run(probe_node(node)).answer is Answer.OK
