"""The judging steps of a recovery: gather what is known, let the pure rules speak, write down what they said."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from kintsugi.errors import IncidentClosed, InputError, NodeReturned, Refused
from kintsugi.fleet import Node, Role
from kintsugi.incident import Action, Entry, Incident
from kintsugi.incident import Ledger as RepairLedger
from kintsugi.observation import Answer, Observation, Symptom
from kintsugi.recovery import lacking
from kintsugi.recovery.case import LEASE_S, Case, Runtime, Step
from kintsugi.recovery.common_cause import CommonCause
from kintsugi.recovery.decide import Decision, decide
from kintsugi.recovery.diagnose import Verdict, diagnose
from kintsugi.recovery.gather_facts import Suspicion, gather_guard_facts, is_running
from kintsugi.recovery.guards import Gate, GuardFacts, Limits, Ruling, judge
from kintsugi.release import in_force

PATIENCE_S = 30.0
LOOK_AGAIN_S = 5.0
WAIT_FOR_OTHERS_S = 75.0  # one node of a role is killed at a time, a minute after the other
# Gates that open by themselves: a person is asked only where they have stayed shut for so long.
SELF_OPENING = frozenset({Gate.WRONG_KILL, Gate.COMMON_CAUSE, Gate.ONE_OF_ROLE, Gate.BREAKER})
WAIT_BEFORE_ASKING = timedelta(minutes=3)
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
    watch_late_s: float
    first_failed_at: (
        datetime  # of the watch's last finding: the node may have answered since the incident was opened
    )
    silent: bool  # the watch got no answer at all, not even a refusal

    @classmethod
    def of(cls, incident: Incident, run: str | None = None) -> Confirmed:
        """The newest confirmation of the incident, or of the one ``run`` (the holder of a case).

        A run that acts goes by its own: a dry run that came between must not turn an approved repair into a plan.
        """
        data = latest(incident, "confirm", "verdict", run).data
        heard = data["heard_at"]
        return cls(
            verdict=Verdict(data["verdict"]),
            requested=Action(data["requested"]),
            dry_run=data["dry_run"],
            volume_intact=data["volume_intact"],
            heard_at=datetime.fromisoformat(heard) if heard else None,
            # An older release wrote none of these.
            watch_late_s=data.get("watch_late_s", 0.0),
            first_failed_at=max(incident.first_failed_at, _moment(data.get("first_failed_at"), incident)),
            silent=data.get("silent", False),
        )

    @property
    def planned(self) -> bool:
        """Whether a service that serves may be stopped: its clock is wrong, or a person asked for it."""
        return self.verdict is Verdict.CLOCK_WRONG or self.requested is not Action.AUTO


def _moment(text: str | None, incident: Incident) -> datetime:
    return datetime.fromisoformat(text) if text else incident.first_failed_at


def latest(incident: Incident, step: str, field: str, run: str | None = None) -> Entry:
    """The newest journal entry of ``step`` that carries ``field``; raises KeyError when there is none.

    ``run``: only entries of that run count.
    """
    for entry in reversed(incident.entries):
        if entry.step == step and field in entry.data and run in (None, entry.data.get("run")):
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
        silent = finding is not None and finding["symptom"] == Symptom.HUNG
        seen = look(runtime, server)
        _write_verdict(
            step,
            replace(seen, unanswered_since=first_failed if silent else None),
            requested=requested,
            dry_run=dry_run,
            watch_late_s=finding.get("late_s", 0.0) if finding else 0.0,
            first_failed_at=first_failed.isoformat(),
            silent=silent,
        )
        if server.role is Role.CASSANDRA and seen.service is Answer.OK and not dry_run:
            lacking.record_left_out(runtime, incident, step)
    return case


def look(runtime: Runtime, node: Node) -> Observation:
    """Observe the node, its peers and its disk, and ask its platform; what is silent to us may be heard by a peer."""
    from kintsugi.probes.observe import MARKS, observe

    platform = runtime.platform()
    seen = asyncio.run(observe(runtime.settings, node, is_running(platform, node.name)))
    if seen.volume_intact is None:
        # Only a missing disk is certain from outside; whether a present one is readable the node itself would say.
        return replace(seen, volume_intact=platform.volume_exists(node.name))
    if (
        seen.volume_intact is False
        and platform.volume_formatted(node.name, MARKS.get(node.role)) is not False
    ):
        # The disk holds data, and the node does not see it: it is not mounted there. An empty disk would lose it.
        return replace(seen, volume_intact=None)
    return seen


def _write_verdict(step: Step, seen: Observation, **data: Any) -> None:
    diagnosis = diagnose(seen)
    step.note_as(
        "confirm",
        diagnosis.reason,
        verdict=diagnosis.verdict.value,
        run=step.case.holder,
        volume_intact=seen.volume_intact,
        disk_free=seen.room and seen.room.free,
        clock_ahead_s=seen.clock_ahead_s,
        heard_at=seen.heard_at.isoformat() if seen.heard_at else None,
        service=seen.service.value,
        ssh=seen.ssh.value,
        init_state=seen.init_state,
        peers={peer: opinion.value for peer, opinion in seen.peers.items()},
        running=seen.running,
        **data,
    )


def guard(runtime: Runtime, case: Case) -> list[str]:
    """The tasks to go on with: ``stand_down``, or the archive and either ``decide`` or ``ask_a_human``.

    Reasons that may pass by themselves are given PATIENCE_S seconds, and the node is observed again meanwhile.
    """
    with runtime.step(case, "guard") as step:
        until = time.monotonic() + PATIENCE_S
        while True:
            asked = _ask_guards(runtime, case)
            if not asked.waits or time.monotonic() > until:
                return _answer(step, asked)
            log.info("not yet: %s", asked.reason)
            pause_s = (asked.retry_at - datetime.now(UTC)).total_seconds() if asked.retry_at else 2.0
            time.sleep(min(max(pause_s, 0.1), LOOK_AGAIN_S))
            _confirm_again(runtime, case, step)


@dataclass(frozen=True, slots=True)
class _Asked:
    """What the guards answered to a decision. ``waits``: the reasons against it may pass by themselves."""

    decision: Decision
    dry_run: bool
    waits: bool
    reason: str
    retry_at: datetime | None = None
    ruling: Ruling = field(default_factory=lambda: Ruling(True))
    since: datetime | None = None
    common_cause: CommonCause | None = None


def _ask_guards(runtime: Runtime, case: Case) -> _Asked:
    incident = runtime.store.incident(case.incident)
    confirmed = Confirmed.of(incident, case.holder)
    decision = _decide(runtime, incident, confirmed)
    nothing = decision.action in (Action.STAND_DOWN, Action.WAIT)
    if confirmed.dry_run or nothing:
        partitioned = nothing and confirmed.verdict is Verdict.PARTITIONED and not confirmed.dry_run
        since = incident.first_failed_at
        return _Asked(decision, confirmed.dry_run, partitioned, decision.reason, since=since)
    paging = decision.action is Action.PAGE
    # Who is asked whether to try again shall know what speaks against it.
    at_stake = _decide(runtime, incident, confirmed, insisted=True) if paging else decision
    facts = _facts(runtime, case, incident)
    ruling = judge(at_stake.action, facts.with_ledger(runtime.store.ledger(incident.id)), limits(runtime))
    if paging:
        ruling = Ruling(False, (decision.reason, *ruling.reasons), ruling.gates)
    return _Asked(
        decision,
        dry_run=False,
        waits=ruling.passing,
        reason=" ".join(ruling.reasons) or decision.reason,
        retry_at=ruling.retry_at,
        ruling=ruling,
        since=incident.first_failed_at,
        common_cause=facts.common_cause(),
    )


def _confirm_again(runtime: Runtime, case: Case, step: Step) -> None:
    """Observe the node once more; a changed verdict goes into the journal, and the next decision follows from it."""
    incident = runtime.store.incident(case.incident)
    confirmed = Confirmed.of(incident, case.holder)
    since = confirmed.first_failed_at
    seen = replace(look(runtime, runtime.node(case)), unanswered_since=since if confirmed.silent else None)
    if diagnose(seen).verdict is not confirmed.verdict:
        _write_verdict(
            step,
            seen,
            requested=confirmed.requested.value,
            dry_run=confirmed.dry_run,
            watch_late_s=confirmed.watch_late_s,
            first_failed_at=since.isoformat(),
            silent=confirmed.silent,
        )


def _answer(step: Step, asked: _Asked) -> list[str]:
    """Write the guards' answer into the journal; returns the tasks to go on with."""
    decision, ruling = asked.decision, asked.ruling
    if asked.dry_run:
        step.note(f"dry run of: {decision.reason}", action=decision.action.value)
        return ["decide"]
    recent = asked.since is not None and datetime.now(UTC) - asked.since < WAIT_BEFORE_ASKING
    partitioned = asked.waits and ruling.allowed
    if decision.action is Action.STAND_DOWN or partitioned or (recent and waits_only(ruling)):
        data = _waiting_data(asked) if asked.waits else {}
        step.note(asked.reason, action=decision.action.value, **data)
        return ["stand_down"]
    if ruling.allowed:
        step.note(f"the guards allow: {decision.reason}", action=decision.action.value)
        return ["archive_logs", "decide"]
    step.note(
        "refused: " + asked.reason,
        refused=list(ruling.reasons),
        gates=sorted(gate.value for gate in ruling.gates),
        **_waiting_data(asked),
    )
    return ["archive_logs", "ask_a_human"]


def waits_only(ruling: Ruling) -> bool:
    """Whether only gates refused that open by themselves, sooner than a person could look."""
    return not ruling.allowed and ruling.passing and ruling.gates <= SELF_OPENING


def _waiting_data(asked: _Asked) -> dict[str, Any]:
    """For the journal: that the node is waited for, and with whom it shares a cause."""
    cause = asked.common_cause
    shared = {"cause": cause.cause.value, "nodes": list(cause.nodes)} if cause else None
    return {"waiting": asked.waits, "common_cause": shared}


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
    confirmed = Confirmed.of(incident, case.holder)
    action = incident.attempt_of(case.holder)
    suspicion = Suspicion(
        first_failed_at=confirmed.first_failed_at,
        detected_at=incident.detected_at,
        heard_at=confirmed.heard_at,
        volume_intact=confirmed.volume_intact,
        watch_late_s=confirmed.watch_late_s,
        planned=confirmed.planned or action is Action.ROLL_BACK,
    )
    return gather_guard_facts(runtime, runtime.node(case), suspicion)


def judge_again(runtime: Runtime, case: Case, step: Step) -> GuardFacts:
    """Ask the guards once more, with fresh facts, right before something that may still run is killed.

    The attempt under way is judged, with the gates that its approval opened. Raises NodeReturned when the node answers
    again, Refused with the reasons otherwise; the attempt is then withdrawn, because it has done nothing.
    """
    incident = runtime.store.incident(case.incident)
    action = incident.attempt_of(case.holder)
    if action is None:
        raise Refused(f"This run has no attempt on {case.node} under way: nothing is killed.")
    facts = _facts(runtime, case, incident)
    known = facts.with_ledger(runtime.store.ledger(incident.id))
    ruling = judge(action, known, limits(runtime), approved=_approved(incident, case))
    if ruling.allowed:
        return facts
    answers_again = Answer.OK in (facts.service, facts.view.answer)
    reason = " ".join(ruling.reasons)
    runtime.store.withdraw_attempt(case.incident, step.token, case.holder, f"not killed: {reason}")
    raise (NodeReturned if answers_again else Refused)(reason)


def _approved(incident: Incident, case: Case) -> list[Gate]:
    """The gates that a person opened for this run; see ``choose_path``."""
    if not any(entry.data.get("approved") == case.holder for entry in incident.entries):
        return []
    return [Gate(gate) for gate in latest(incident, "guard", "refused", case.holder).data["gates"]]


def refusal(runtime: Runtime, case: Case) -> list[str]:
    """The sentences with which the guards last refused the repair to this run."""
    return list(
        latest(runtime.store.incident(case.incident), "guard", "refused", case.holder).data["refused"]
    )


def choose_path(runtime: Runtime, case: Case, approved_by: str | None) -> str:
    """Decide, begin the attempt in the store (which asks the guards once more), and name the task to go on with.

    A run that was killed here goes on with what it had chosen. A person's approval opens the gates that had refused
    this run when the question was asked. A node that answers again meanwhile is only proven. Raises Refused when
    another gate refuses by now.
    """
    with runtime.step(case, "decide") as step:
        if approved_by:
            step.note(f"{approved_by} approved the repair against the guards' advice", approved=case.holder)
        incident = runtime.store.incident(case.incident)
        confirmed = Confirmed.of(incident, case.holder)
        if confirmed.dry_run:
            return "show_plan"
        decision = _chosen(incident, case)
        if decision is None:
            decision = _decide(runtime, incident, confirmed, insisted=bool(approved_by))
            step.note(decision.reason, chosen=decision.action.value, run=case.holder)
        if decision.action.changes:
            opened = latest(incident, "guard", "refused", case.holder).data["gates"] if approved_by else ()
            try:
                _begin(runtime, case, step, incident, decision, approved=[Gate(gate) for gate in opened])
            except NodeReturned as returned:
                step.note(f"{case.node} answers again, so it is only proven: {returned}", returned=True)
                return PATHS[Action.WAIT]
    return PATHS[decision.action]


def _chosen(incident: Incident, case: Case) -> Decision | None:
    for entry in incident.entries:
        if entry.step == "decide" and "chosen" in entry.data and entry.data.get("run") == case.holder:
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
    """Begin the attempt; a refusal that may pass by itself is waited for, and the facts are gathered again.

    Raises NodeReturned when the node answers meanwhile, Refused with the reasons otherwise.
    """
    until = time.monotonic() + WAIT_FOR_OTHERS_S
    while True:
        asked = _LastAnswer(decision.action, _facts(runtime, case, incident), limits(runtime), approved)
        try:
            runtime.store.begin_attempt(
                case.incident,
                step.token,
                decision.action,
                key=case.holder,
                reason=decision.reason,
                refusals=asked.refusals,
                ttl_s=LEASE_S,
            )
            return
        except IncidentClosed:
            raise
        except Refused as refused:
            if asked.facts.service is Answer.OK and not asked.facts.planned:
                raise NodeReturned(str(refused)) from refused
            if not asked.ruling.passing or time.monotonic() > until:
                raise
            log.info("not yet: %s", refused)
            time.sleep(LOOK_AGAIN_S)


@dataclass
class _LastAnswer:
    """Asks the guards inside the store's transaction, and keeps what they answered."""

    action: Action
    facts: GuardFacts
    limits: Limits
    approved: Collection[Gate]
    ruling: Ruling = field(default_factory=lambda: Ruling(False))

    def refusals(self, ledger: RepairLedger) -> tuple[str, ...]:
        self.ruling = judge(self.action, self.facts.with_ledger(ledger), self.limits, approved=self.approved)
        return self.ruling.reasons


def stand_down(runtime: Runtime, case: Case) -> str:
    """Nothing to do, or nothing to do yet; a node on its way up is left alone, and the watch looks again."""
    with runtime.step(case, "stand_down") as step:
        confirmed = Confirmed.of(runtime.store.incident(case.incident), case.holder)
        sentence = f"nothing is touched ({confirmed.verdict.value})"
        step.note(sentence)
    return sentence


def answers(node: Node) -> bool:
    """Whether the node answers its own protocol at this moment."""
    from kintsugi.probes.protocols import probe_node

    return asyncio.run(probe_node(node)).answer is Answer.OK
