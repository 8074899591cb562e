"""The acting steps of a recovery. Each may be killed at any moment and run again.

Before each act that can't be taken back, the step asks the guards once more with fresh facts, inside the one lock of
the fleet (``_judged``), and proves that its fencing token is the newest: a verdict is minutes old by then, and a
live node must never be killed.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from kintsugi.core.errors import NewIncarnation, PermanentStepError, PlanRejected, StepFailed
from kintsugi.core.fleet import Node, Role
from kintsugi.core.incident import Action
from kintsugi.core.observation import NodeView, ProbeResult
from kintsugi.core.settings import KAFKA_PORT
from kintsugi.environments.local.node_identity import kafka_cluster_id
from kintsugi.infra.terraform import StalePlan
from kintsugi.operations import gossip_generation, readiness, stream_driver
from kintsugi.operations import verification as proofs
from kintsugi.operations.cassandra_repair import await_replicas, repair_ranges
from kintsugi.operations.context import Context, FencedStep, RecoveryRef
from kintsugi.operations.kafka_voters import rejoin_voter
from kintsugi.operations.spool import deliver
from kintsugi.pipeline import synthetic_trade as trade
from kintsugi.recovery import (
    assessment,
    data_loss,
    fact_gathering,
    guard_evaluation,
    plan_policy,
    predecessors,
)
from kintsugi.recovery.diagnosis import FailureMode, diagnose
from kintsugi.releases import assignment

if TYPE_CHECKING:
    from kintsugi.infra.ansible import Ansible
    from kintsugi.infra.terraform import SavedPlan
    from kintsugi.recovery.guards import GuardFacts

log = logging.getLogger(__name__)

PLAN_TRIES = 3
START_TIMEOUT_S = 420  # of a playbook that starts a service: longer than each role waits for its own
# For how long a node that isn't redundant yet is waited for, by what it looks like; anything else is no way to it.
PATIENCE_S = {
    FailureMode.STARTING: 1800.0,  # it advances: a long log takes its time
    FailureMode.FALSE_ALARM: 720.0,  # it serves, and catches up, or others are being repaired too
}
# Any other is given the time in which its init starts a service that ended, and a busy machine answers again.
GRACE_S = 45.0
NONE_RAN = ""  # as an incarnation: whatever runs by the time of the kill was not judged
LOOK_EVERY_S = 10.0
CANARY_DEADLINE_S = 120.0
OUTAGE_DEADLINE_S = 480.0


def restart(context: Context, case: RecoveryRef) -> None:
    """Start the node's service again; the disk stays. Raises PermanentStepError with Ansible's words.

    It is configured from the release it runs, and from the last known-good one where the action is to roll back.
    A hung process can't hear the request to end, so it is killed; its init starts it again, with what it had.
    """
    with context.step(case, "restart") as step:
        node, action = context.node(case), _action(context, case)
        hung, ansible = _verdict(context, case) is FailureMode.HUNG, None
        # The configuration is not to blame for a hang, and applying it takes longer than the start.
        if not (hung and action is Action.RESTART):
            ansible = assignment.ansible_for(context, node.name, roll_back=action is Action.ROLL_BACK)
        with _judged(context, case, step) as facts:
            step.check()
            serves = facts.service is ProbeResult.OK
            if not serves:
                _kill_service(context, node, facts.view, step, required=hung)
            elif ansible is not None:  # it stops gracefully, and nobody else of its role is killed meanwhile
                _run_restart(context, node, ansible)
        if ansible is not None and not serves:
            _run_restart(context, node, ansible)


def _kill_service(context: Context, node: Node, view: NodeView, step: FencedStep, *, required: bool) -> None:
    """Kill the process that was judged, where there is one; its init starts the service again.

    ``required``: the step has no other act. Then StepFailed where the node could not name the process.
    """
    if view.process is not None:
        context.platform().kill_service(node.name, view.process)
        step.note(
            f"process {view.process} of {node.name}, which answers nobody, was killed; its init starts it again"
        )
    elif required and not view.listening:
        raise StepFailed(f"{node.name} could not say which process to kill; is its sshd overloaded?")


def _run_restart(context: Context, node: Node, ansible: Ansible) -> None:
    with _no_second_try():
        ansible.run(
            "restart.yml",
            limit=node.name,
            extra_vars=stream_driver.variables(context),
            timeout_s=START_TIMEOUT_S,
        )


@contextmanager
def _judged(context: Context, case: RecoveryRef, step: FencedStep) -> Iterator[GuardFacts]:
    """Hold the one right in the fleet to kill, and judge once more; the block kills what was judged.

    What is proven dead is not waited for: nothing of it is killed. Raises NodeReturned and GuardRefused. Where another
    incarnation runs by now, nothing was killed either: the attempt is withdrawn as after a refusal.
    """
    try:
        with _kill_right(context, case, step) as facts:
            yield facts
    except NewIncarnation as changed:
        context.store.withdraw_attempt(case.incident, step.token, case.holder, f"not killed: {changed}")
        raise


@contextmanager
def _kill_right(context: Context, case: RecoveryRef, step: FencedStep) -> Iterator[GuardFacts]:
    node = context.node(case)
    if fact_gathering.is_running(context.platform(), node.name) is False:
        yield guard_evaluation.reevaluate_guards(context, case, step)
        return
    with context.store.kill_lock():
        facts = guard_evaluation.reevaluate_guards(context, case, step)
        step.note(
            f"judged again: {node.name} may be killed",
            service=facts.service and facts.service.value,
            running=facts.running,
            heard_at=facts.last_seen_at and facts.last_seen_at.isoformat(),
            process=facts.view.process and str(facts.view.process),
        )
        yield facts


def _verdict(context: Context, case: RecoveryRef) -> FailureMode:
    return assessment.ConfirmedFinding.of(context.store.incident(case.incident), case.holder).verdict


def fence(context: Context, case: RecoveryRef) -> None:
    """End whatever may still run of the node; raises NodeReturned or GuardRefused when it must not be, whoever asked.

    Exactly the incarnation that was judged is ended: another one that came up meanwhile is judged first.
    """
    with context.step(case, "fence") as step:
        platform = context.platform()
        judged = platform.incarnation(case.node)
        with _judged(context, case, step):
            step.check()
            platform.power_off(case.node, judged or NONE_RAN)
        step.note(f"nothing of {case.node} is left running", incarnation=judged)


def show_plan(context: Context, case: RecoveryRef) -> str:
    """What Terraform would do, as a list of addresses and actions; nothing is changed."""
    with context.step(case, "dry_run") as step:
        saved = _plan(context, case)
        summary = plan_policy.check_plan(saved.document, _addresses(context, case))
        step.note(f"dry run, nothing was changed. {summary}", changes=plan_policy.changes(saved.document))
    return str(summary)


def plan(context: Context, case: RecoveryRef) -> str:
    """Plan the replacement of this node alone; raises PlanRejected when the plan would touch anything else."""
    with context.step(case, "plan") as step:
        saved = _judged_plan(context, case, step)
    return str(saved.path)


def _judged_plan(context: Context, case: RecoveryRef, step: FencedStep) -> SavedPlan:
    saved = _plan(context, case)
    summary = plan_policy.check_plan(saved.document, _addresses(context, case))
    step.note(str(summary), changes=plan_policy.changes(saved.document))
    body = json.dumps(saved.document, indent=1).encode()
    deliver(context, f"incidents/{case.incident}/plan.json", body)
    return saved


def _plan(context: Context, case: RecoveryRef) -> SavedPlan:
    addresses = _addresses(context, case)
    return context.terraform().plan(replace=addresses, targets=addresses)


def _addresses(context: Context, case: RecoveryRef) -> list[str]:
    action = _action(context, case)
    return plan_policy.addresses(context.fleet.environment, case.node, with_volume=action.destroys_volume)


def _action(context: Context, case: RecoveryRef) -> Action:
    """The action under way; in a dry run the one that would show most."""
    incident = context.store.incident(case.incident)
    confirmed = assessment.ConfirmedFinding.of(incident, case.holder)
    if confirmed.dry_run:
        return Action.REBUILD_NODE if confirmed.requested is Action.REBUILD_NODE else Action.REBUILD
    return incident.attempt_of(case.holder) or Action.WAIT


def provision(context: Context, case: RecoveryRef, saved_plan: str) -> None:
    """Apply exactly the judged plan; one that went stale is planned and judged again, up to three times.

    Applied already (this step ran before and was killed), it goes stale too, and the new plan does it over: a node
    that nobody has configured yet holds nothing.
    """
    with context.step(case, "provision") as step:
        terraform = context.terraform()
        saved = terraform.load(Path(saved_plan))
        for _ in range(PLAN_TRIES):
            plan_policy.check_plan(saved.document, _addresses(context, case))
            step.check()
            # Of a run of this step that was killed; what lives there is this repair's own, the old node is fenced.
            context.platform().make_room([case.node], terraform.known, living=True)
            try:
                terraform.apply(saved)
            except StalePlan:
                saved = _judged_plan(context, case, step)
            else:
                return
        raise PlanRejected(
            f"{case.node}: the plan went stale {PLAN_TRIES} times; other repairs hold the state"
        )


def configure(context: Context, case: RecoveryRef) -> None:
    """Make the empty server a node of its role; raises PermanentStepError with Ansible's words."""
    with context.step(case, "configure") as step:
        node = context.node(case)
        ansible = assignment.ansible_for(context, node.name)
        step.check()
        with _no_second_try():
            kept = _action(context, case) is Action.REBUILD_NODE
            desired = stream_driver.variables(context) | {"volume_kept": kept}
            ansible.run("site.yml", limit=node.name, extra_vars=desired, timeout_s=START_TIMEOUT_S)


@contextmanager
def _no_second_try() -> Iterator[None]:
    """What a playbook couldn't start it won't start at once either: 12 minutes went by on a damaged commit log so."""
    try:
        yield
    except StepFailed as failure:
        raise PermanentStepError(str(failure)) from failure


def rejoin(context: Context, case: RecoveryRef) -> str:
    """Wait until the node serves again, mark it redundant, then make its data whole and mark it consistent."""
    with context.step(case, "rejoin") as step:
        node = context.node(case)
        sentence = _await_redundant(context, node, step)
        step.note(sentence)
        context.store.set_mark(case.incident, step.token, "redundant_at")
    with context.step(case, "repair") as step:
        compare = node.role is Role.CASSANDRA and data_loss.possible_data_loss(context, case, step)
        made_whole = restore_consistency(context, node, case.incident, compare=compare, note=step.note)
        if made_whole:
            step.note(made_whole)
        context.store.set_mark(case.incident, step.token, "consistent_at")
    return sentence


def _await_redundant(context: Context, node: Node, step: FencedStep) -> str:
    """Wait as long as the node starts, or answers while others still have to agree; see PATIENCE_S.

    On a starved machine the wait counts the processor time that the node gets, not the time on the clock.

    Raises PermanentStepError, saying what is wrong and what is lacking; the next run of the watch then climbs the
    ladder.
    """
    patience = fact_gathering.ProcessorClock(context.platform(), node.name)
    while True:
        try:
            return readiness.wait_until_ready(context.settings, context.fleet, node, LOOK_EVERY_S)
        except StepFailed as waiting:
            diagnosis = diagnose(assessment.observe_node(context, node))
            if patience.passed_s() > PATIENCE_S.get(diagnosis.verdict, GRACE_S):
                raise PermanentStepError(f"{diagnosis.reason} {waiting}") from waiting
            _start_under_another_number(context, node, step)


def _start_under_another_number(context: Context, node: Node, step: FencedStep) -> None:
    """Start a Cassandra node once more when its peers take it for a former life of itself."""
    why = (
        asyncio.run(gossip_generation.generation_is_behind(context.fleet, node))
        if node.role is Role.CASSANDRA
        else None
    )
    if why is None:
        return
    with context.store.kill_lock():  # its peers do not listen to it, so it is nobody's live replica
        step.check()
        step.note(f"{why}; it is started once more")
        gossip_generation.bump_generation(node)
        _run_restart(context, node, assignment.ansible_for(context, node.name))


def restore_consistency(
    context: Context, node: Node, by: str, *, compare: bool, note: Callable[[str], None] = log.info
) -> str | None:
    """What stands behind the node's service: Kafka's quorum has its voter, Cassandra's ranges are repaired.

    ``by``: for whom, as it stands on record. ``compare``: whether a Cassandra node's ranges are compared with their
    replicas. Returns a sentence when anything had to be asked or done; raises StepFailed.
    """
    if node.role is Role.KAFKA:
        rejoin_voter(context.fleet, node, kafka_cluster_id(context.settings), on_progress=note)
        return f"{node.name} votes with the directory it has now, and no dead voter is left"
    if node.role is Role.CASSANDRA:
        if counted := gossip_generation.bump_generation(node):
            note(counted)
        if compare:
            await_replicas(context.fleet)
            return repair_ranges(context, node, by, primary=False, note=note)
    return None


def verify(context: Context, case: RecoveryRef) -> str:
    """Proof by this very node; raises StepFailed saying what was missing."""
    with context.step(case, "verify") as step:
        proof = proofs.verify_node(context.settings, context.fleet, context.node(case))
        step.note(proof)
        if _verdict(context, case) is FailureMode.CLOCK_WRONG:
            step.note(proofs.verify_clock(context.settings, context.node(case)))
        predecessors.discard_or_hold(context, case, step)
    return proof


def verify_synthetic_trade(context: Context, case: RecoveryRef) -> str:
    """Send a canary trade through S3 and wait for it in Cassandra; raises StepFailed when it doesn't arrive.

    While S3 is away a repair isn't held up: the canary goes in at Kafka then. While other nodes are being
    repaired too, the whole way may be shut for reasons that aren't this node's, so the wait goes on.
    """

    def give_up(waited_s: float) -> bool:
        if waited_s <= CANARY_DEADLINE_S:
            return False
        return waited_s > OUTAGE_DEADLINE_S or not _others_sick(context, case)

    with context.step(case, "canary") as step:
        sentence = proofs.verify_synthetic_trade(context, lambda: _send_canary(context), give_up)
        step.note(sentence)
    return sentence


def _send_canary(context: Context) -> tuple[str, str]:
    """Send a canary; returns its trade_id and where it went in: S3, or Kafka while S3 is away."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        return trade.send_synthetic_trade(context.s3_in_time()), "S3"
    except (BotoCoreError, ClientError):
        brokers = [f"{node.address}:{KAFKA_PORT}" for node in context.fleet.of(Role.KAFKA)]
        return trade.send_synthetic_trade_to_kafka(brokers), "Kafka (S3 is away)"


def _others_sick(context: Context, case: RecoveryRef) -> bool:
    """Whether another node has an open incident."""
    return any(one.node != case.node for one in context.store.incidents(20, open_only=True))
