"""The steps of a recovery that change something. Each may be killed at any moment and run again.

Before each action that can't be undone, the step evaluates the guards again with fresh facts, under the kill lock of
the fleet (``_judged``). It also checks that its fencing token is the newest. The diagnosis is minutes old by then,
and a live node must never be killed.
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
START_TIMEOUT_S = 420  # of a playbook that starts a service: longer than each role waits for its own service
# How long a node that isn't ready yet is waited for, by its failure mode.
PATIENCE_S = {
    FailureMode.STARTING: 1800.0,  # it makes progress: a long log takes time
    FailureMode.FALSE_ALARM: 720.0,  # it serves and catches up, or other nodes are being recovered too
}
# For every other failure mode: time for the init to restart the service, or for a busy machine to answer again.
GRACE_S = 45.0
NONE_RAN = ""  # as an incarnation: nothing ran when the guards were evaluated, so nothing may be killed
LOOK_EVERY_S = 10.0
CANARY_DEADLINE_S = 120.0
OUTAGE_DEADLINE_S = 480.0


def restart(context: Context, case: RecoveryRef) -> None:
    """Restart the node's service and keep its disk. Raises PermanentStepError with Ansible's error.

    It is configured from the release that it runs; for a roll-back from the last known-good release.
    A hung process ignores the request to end, so it is killed; its init starts it again with the same configuration.
    """
    with context.step(case, "restart") as step:
        node, action = context.node(case), _action(context, case)
        hung, ansible = _verdict(context, case) is FailureMode.HUNG, None
        # A hang is not caused by the configuration, and to apply it takes longer than the start.
        if not (hung and action is Action.RESTART):
            ansible = assignment.ansible_for(context, node.name, roll_back=action is Action.ROLL_BACK)
        with _judged(context, case, step) as facts:
            step.check()
            serves = facts.service is ProbeResult.OK
            if not serves:
                _kill_service(context, node, facts.view, step, required=hung)
            elif (
                ansible is not None
            ):  # it stops gracefully; the lock keeps its role's other nodes alive meanwhile
                _run_restart(context, node, ansible)
        if ansible is not None and not serves:
            _run_restart(context, node, ansible)


def _kill_service(context: Context, node: Node, view: NodeView, step: FencedStep, *, required: bool) -> None:
    """Kill the process that the guards were evaluated for, if there is one; its init starts the service again.

    ``required``: the step does nothing else. Then raises StepFailed if the node could not name the process.
    """
    if view.process is not None:
        context.platform().kill_service(node.name, view.process)
        step.note(
            f"process {view.process} of {node.name} answered no request and was killed; its init starts it again"
        )
    elif required and not view.listening:
        raise StepFailed(
            f"{node.name} did not report which process to kill, so nothing was killed; is its sshd overloaded?"
        )


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
    """Hold the fleet's kill lock and evaluate the guards once more; the block may then kill the node.

    For a node that is proven dead no lock is taken: nothing is killed. Raises NodeReturned and GuardRefused. If another
    incarnation runs by now, nothing was killed either, and the attempt is withdrawn as after a refusal.
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
            f"guards evaluated again: {node.name} may be killed",
            service=facts.service and facts.service.value,
            running=facts.running,
            heard_at=facts.last_seen_at and facts.last_seen_at.isoformat(),
            process=facts.view.process and str(facts.view.process),
        )
        yield facts


def _verdict(context: Context, case: RecoveryRef) -> FailureMode:
    return assessment.ConfirmedFinding.of(context.store.incident(case.incident), case.holder).verdict


def fence(context: Context, case: RecoveryRef) -> None:
    """Fence the node: end every process of it. Raises NodeReturned or GuardRefused if a guard refuses.

    Only the incarnation that the guards were evaluated for is ended. For a newer one the guards are evaluated first.
    """
    with context.step(case, "fence") as step:
        platform = context.platform()
        judged = platform.incarnation(case.node)
        with _judged(context, case, step):
            step.check()
            platform.power_off(case.node, judged or NONE_RAN)
        step.note(f"{case.node} is fenced: no process of it is left running", incarnation=judged)


def show_plan(context: Context, case: RecoveryRef) -> str:
    """Show what Terraform would do, by address and action; nothing is changed."""
    with context.step(case, "dry_run") as step:
        saved = _plan(context, case)
        summary = plan_policy.check_plan(saved.document, _addresses(context, case))
        step.note(f"dry run, nothing was changed. {summary}", changes=plan_policy.changes(saved.document))
    return str(summary)


def plan(context: Context, case: RecoveryRef) -> str:
    """Plan the replacement of this node only; raises PlanRejected if the plan would change anything else."""
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
    """Return the action of the open attempt; in a dry run the action with the largest plan."""
    incident = context.store.incident(case.incident)
    confirmed = assessment.ConfirmedFinding.of(incident, case.holder)
    if confirmed.dry_run:
        return Action.REBUILD_NODE if confirmed.requested is Action.REBUILD_NODE else Action.REBUILD
    return incident.attempt_of(case.holder) or Action.WAIT


def provision(context: Context, case: RecoveryRef, saved_plan: str) -> None:
    """Apply exactly the plan that was checked. A stale plan is made and checked again, up to three times.

    A plan is also stale if this step applied it before and was killed. The new plan then replaces the node again,
    which loses nothing: a node that is not configured yet holds no data.
    """
    with context.step(case, "provision") as step:
        terraform = context.terraform()
        saved = terraform.load(Path(saved_plan))
        for _ in range(PLAN_TRIES):
            plan_policy.check_plan(saved.document, _addresses(context, case))
            step.check()
            # Left over from a killed run of this step: made by this recovery, because the old node is fenced.
            context.platform().make_room([case.node], terraform.known, living=True)
            try:
                terraform.apply(saved)
            except StalePlan:
                saved = _judged_plan(context, case, step)
            else:
                return
        raise PlanRejected(
            f"{case.node}: the plan went stale {PLAN_TRIES} times because other runs change Terraform's state; "
            "the next run of recover_node plans it again"
        )


def configure(context: Context, case: RecoveryRef) -> None:
    """Configure the empty server as a node of its role; raises PermanentStepError with Ansible's error."""
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
    """Turn StepFailed into PermanentStepError: a playbook that failed to start a service would fail again.

    Before that, retries on a damaged commit log took 12 minutes.
    """
    try:
        yield
    except StepFailed as failure:
        raise PermanentStepError(str(failure)) from failure


def rejoin(context: Context, case: RecoveryRef) -> str:
    """Wait until the node is ready and mark it redundant; then repair its data and mark it consistent."""
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
    """Wait until the node is ready, while it starts or catches up; see PATIENCE_S.

    On a starved machine the wait counts the processor time that the node gets, not wall time.

    Raises PermanentStepError with what is wrong and what is missing. The next run of the watch then takes the next
    escalation step.
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
    """Restart a Cassandra node if its gossip generation is behind the one that its peers know."""
    why = (
        asyncio.run(gossip_generation.generation_is_behind(context.fleet, node))
        if node.role is Role.CASSANDRA
        else None
    )
    if why is None:
        return
    with context.store.kill_lock():  # its peers ignore it, so it is not a live replica
        step.check()
        step.note(f"{why}; it is restarted")
        gossip_generation.bump_generation(node)
        _run_restart(context, node, assignment.ansible_for(context, node.name))


def restore_consistency(
    context: Context, node: Node, by: str, *, compare: bool, note: Callable[[str], None] = log.info
) -> str | None:
    """Restore the node's consistency: Kafka's quorum gets its voter, Cassandra's ranges are repaired.

    ``by``: the incident or run on whose record this goes. ``compare``: whether a Cassandra node's ranges are repaired.
    Returns a sentence if anything was checked or done, else None; raises StepFailed.
    """
    if node.role is Role.KAFKA:
        rejoin_voter(context.fleet, node, kafka_cluster_id(context.settings), on_progress=note)
        return f"{node.name} is a Kafka voter with its current directory, and no dead voter is left"
    if node.role is Role.CASSANDRA:
        if counted := gossip_generation.bump_generation(node):
            note(counted)
        if compare:
            await_replicas(context.fleet)
            return repair_ranges(context, node, by, primary=False, note=note)
    return None


def verify(context: Context, case: RecoveryRef) -> str:
    """Verify that this node serves; raises StepFailed with what is missing."""
    with context.step(case, "verify") as step:
        proof = proofs.verify_node(context.settings, context.fleet, context.node(case))
        step.note(proof)
        if _verdict(context, case) is FailureMode.CLOCK_WRONG:
            step.note(proofs.verify_clock(context.settings, context.node(case)))
        predecessors.discard_or_hold(context, case, step)
    return proof


def verify_synthetic_trade(context: Context, case: RecoveryRef) -> str:
    """Send a synthetic trade through S3 and wait for it in Cassandra; raises StepFailed if it doesn't arrive.

    While S3 is unreachable, the trade is sent to Kafka, so that the recovery need not wait for S3. The wait is longer
    while other nodes are being recovered, because one of them may be what stops the trade.
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
    """Send a synthetic trade; returns its trade_id and where it went in: S3, or Kafka while S3 is unreachable."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        return trade.send_synthetic_trade(context.s3_in_time()), "S3"
    except (BotoCoreError, ClientError):
        brokers = [f"{node.address}:{KAFKA_PORT}" for node in context.fleet.of(Role.KAFKA)]
        return trade.send_synthetic_trade_to_kafka(brokers), "Kafka (S3 is unreachable)"


def _others_sick(context: Context, case: RecoveryRef) -> bool:
    """Whether another node has an open incident."""
    return any(one.node != case.node for one in context.store.incidents(20, open_only=True))
