"""The steps of a recovery that change something. Each may be killed at any moment and run again.

Before each action that can't be undone, the step evaluates the guards again with fresh facts, under the kill lock of
the fleet (`kill_permission`). It also checks that its fencing token is the newest. The diagnosis is
minutes old by then, and a live node must never be killed.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from kintsugi.core.errors import PermanentStepError, PlanRejected, StepFailed
from kintsugi.core.fleet import Node, Role
from kintsugi.core.incident import Action
from kintsugi.core.observation import ProbeResult
from kintsugi.core.s3_keys import S3Purpose
from kintsugi.core.settings import KAFKA_PORT
from kintsugi.environments.local.node_identity import kafka_cluster_id
from kintsugi.infra.terraform import StalePlan
from kintsugi.operations import gossip_generation, readiness, stream_driver
from kintsugi.operations import verification as proofs
from kintsugi.operations.cassandra_repair import await_replicas, repair_ranges
from kintsugi.operations.context import Context, FencedStep, RecoveryRef
from kintsugi.operations.kafka_voters import rejoin_voter
from kintsugi.operations.spool import deliver_to_s3
from kintsugi.pipeline import synthetic_trade as trade
from kintsugi.recovery import (
    assessment,
    data_loss,
    fact_gathering,
    plan_policy,
    predecessors,
)
from kintsugi.recovery.diagnosis import FailureMode, diagnose_node
from kintsugi.recovery.kill_permission import (
    KILL_S,
    check_before_kill,
    kill_permission,
    withdraw_on_refusal,
)
from kintsugi.releases import assignment

if TYPE_CHECKING:
    from kintsugi.infra.ansible import Ansible
    from kintsugi.infra.terraform import SavedPlan
    from kintsugi.recovery.guard_model import GuardFacts

log = logging.getLogger(__name__)

PLAN_TRIES = 3
START_TIMEOUT_S = 420  # of a playbook that starts a service: longer than each role waits for its own service
PLAYBOOK_HOLD_S = START_TIMEOUT_S + 60.0  # of the kill lock
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


def restart_service(context: Context, ref: RecoveryRef) -> None:
    """Restart the node's service and keep its disk. Raises PermanentStepError with Ansible's error.

    It is configured from the release that it runs; for a roll-back from the last known-good release.
    A hung process ignores the request to end, so it is killed; its init starts it again with the same configuration.
    """
    with context.step(ref, "restart") as step:
        node, action = context.node(ref), _open_action(context, ref)
        hung, ansible = _confirmed_mode(context, ref) is FailureMode.HUNG, None
        # A hang is not caused by the configuration, and to apply it takes longer than the start.
        if not (hung and action is Action.RESTART):
            ansible = assignment.ansible_for(context, node.name, roll_back=action is Action.ROLL_BACK)
        hold_s = KILL_S if ansible is None else PLAYBOOK_HOLD_S
        with kill_permission(context, ref, step, hold_s=hold_s) as facts:
            step.check()
            check_before_kill(context, ref, facts)
            serves = facts.service is ProbeResult.OK
            if not serves:
                _kill_silent_process(context, node, facts, step)
            elif ansible is not None:
                # It stops gracefully. The lock keeps the other nodes of its role alive meanwhile.
                _run_restart(context, node, ansible)
        if ansible is not None and not serves:
            _run_restart(context, node, ansible)


def _kill_silent_process(context: Context, node: Node, facts: GuardFacts, step: FencedStep) -> None:
    """Kill the process that the guards were evaluated for, if there is one; its init starts the service again.

    Raises StepFailed if the node did not say which process runs, or that none does: a restart would stop whatever runs.
    """
    process = facts.view.process
    if process is not None:
        context.platform().kill_service(node.name, process)
        step.note(
            f"process {process} of {node.name} answered no request and was killed; its init starts it again"
        )
    elif not (facts.process_ended or facts.proven_dead):
        raise StepFailed(
            f"{node.name} did not report which process to kill, so nothing was killed; is its sshd overloaded?"
        )


def _run_restart(context: Context, node: Node, ansible: Ansible) -> None:
    with _permanent_failures():
        ansible.run(
            "restart.yml",
            limit=node.name,
            extra_vars=stream_driver.driver_variables(context),
            timeout_s=START_TIMEOUT_S,
        )


def _confirmed_mode(context: Context, ref: RecoveryRef) -> FailureMode:
    return assessment.ConfirmedFinding.of(context.store.read_incident(ref.incident), ref.holder).verdict


def fence_node(context: Context, ref: RecoveryRef) -> None:
    """Fence the node: end every process of it. Raises NodeReturned or GuardRefused if a guard refuses.

    Only the incarnation that the guards were evaluated for is ended. For a newer one the guards are evaluated first.
    """
    with context.step(ref, "fence") as step:
        platform = context.platform()
        with withdraw_on_refusal(context, ref, step):
            judged = platform.incarnation(ref.node)
        with kill_permission(context, ref, step) as facts:
            step.check()
            check_before_kill(context, ref, facts)
            platform.power_off(ref.node, judged or NONE_RAN)
        step.note(f"{ref.node} is fenced: no process of it is left running", incarnation=judged)


def show_plan(context: Context, ref: RecoveryRef) -> str:
    """Show what Terraform would do, by address and action; nothing is changed."""
    with context.step(ref, "dry_run") as step:
        saved = _plan_replacement(context, ref)
        summary = plan_policy.check_plan(saved.document, _replaced_addresses(context, ref))
        step.note(
            f"dry run, nothing was changed. {summary}", changes=plan_policy.planned_changes(saved.document)
        )
    return str(summary)


def plan_replacement(context: Context, ref: RecoveryRef) -> str:
    """Plan the replacement of this node only; raises PlanRejected if the plan would change anything else."""
    with context.step(ref, "plan") as step:
        saved = _checked_plan(context, ref, step)
    return str(saved.path)


def _checked_plan(context: Context, ref: RecoveryRef, step: FencedStep) -> SavedPlan:
    saved = _plan_replacement(context, ref)
    summary = plan_policy.check_plan(saved.document, _replaced_addresses(context, ref))
    step.note(str(summary), changes=plan_policy.planned_changes(saved.document))
    body = json.dumps(saved.document, indent=1).encode()
    deliver_to_s3(context, f"incidents/{ref.incident}/plan.json", body)
    return saved


def _plan_replacement(context: Context, ref: RecoveryRef) -> SavedPlan:
    addresses = _replaced_addresses(context, ref)
    return context.terraform().plan(replace=addresses, targets=addresses)


def _replaced_addresses(context: Context, ref: RecoveryRef) -> list[str]:
    action = _open_action(context, ref)
    return plan_policy.node_addresses(context.fleet.environment, ref.node, with_volume=action.destroys_volume)


def _open_action(context: Context, ref: RecoveryRef) -> Action:
    """Return the action of the open attempt; in a dry run the action with the largest plan."""
    incident = context.store.read_incident(ref.incident)
    confirmed = assessment.ConfirmedFinding.of(incident, ref.holder)
    if confirmed.dry_run:
        return Action.REBUILD_NODE if confirmed.requested is Action.REBUILD_NODE else Action.REBUILD
    return incident.attempt_of(ref.holder) or Action.WAIT


def apply_plan(context: Context, ref: RecoveryRef, saved_plan: str) -> None:
    """Apply exactly the plan that was checked. A stale plan is made and checked again, up to three times.

    A plan is also stale if this step applied it before and was killed. The new plan then replaces the node again,
    which loses nothing: a node that is not configured yet holds no data.
    """
    with context.step(ref, "provision") as step:
        terraform = context.terraform()
        saved = terraform.load(Path(saved_plan))
        for _ in range(PLAN_TRIES):
            plan_policy.check_plan(saved.document, _replaced_addresses(context, ref))
            step.check()
            # Left over from a killed run of this step: made by this recovery, because the old node is fenced.
            context.platform().make_room([ref.node], terraform.known, living=True)
            try:
                terraform.apply(saved)
            except StalePlan:
                saved = _checked_plan(context, ref, step)
            else:
                return
        raise PlanRejected(
            f"{ref.node}: the plan went stale {PLAN_TRIES} times because other runs change Terraform's state; "
            "the next run of recover_node plans it again"
        )


def configure_node(context: Context, ref: RecoveryRef) -> None:
    """Configure the new node for its role; raises PermanentStepError with Ansible's error."""
    with context.step(ref, "configure") as step:
        node = context.node(ref)
        ansible = assignment.ansible_for(context, node.name)
        step.check()
        with _permanent_failures():
            keeps_volume = _open_action(context, ref) is Action.REBUILD_NODE
            desired = stream_driver.driver_variables(context) | {"volume_kept": keeps_volume}
            ansible.run("site.yml", limit=node.name, extra_vars=desired, timeout_s=START_TIMEOUT_S)


@contextmanager
def _permanent_failures() -> Iterator[None]:
    """Turn StepFailed into PermanentStepError: a playbook that failed to start a service would fail again.

    Before that, retries on a damaged commit log took 12 minutes.
    """
    try:
        yield
    except StepFailed as failure:
        raise PermanentStepError(str(failure)) from failure


def rejoin_node(context: Context, ref: RecoveryRef) -> str:
    """Wait until the node is ready and mark it redundant; then repair its data and mark it consistent."""
    with context.step(ref, "rejoin") as step:
        node = context.node(ref)
        sentence = _await_ready(context, node, step)
        step.note(sentence)
        context.store.set_mark(ref.incident, step.token, "redundant_at")
    with context.step(ref, "repair") as step:
        compare = node.role is Role.CASSANDRA and data_loss.possible_data_loss(context, ref, step)
        made_whole = restore_consistency(context, node, ref.incident, compare=compare, note=step.note)
        if made_whole:
            step.note(made_whole)
        context.store.set_mark(ref.incident, step.token, "consistent_at")
    return sentence


def _await_ready(context: Context, node: Node, step: FencedStep) -> str:
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
            diagnosis = diagnose_node(assessment.observe_node(context, node))
            if patience.passed_s() > PATIENCE_S.get(diagnosis.verdict, GRACE_S):
                raise PermanentStepError(f"{diagnosis.reason} {waiting}") from waiting
            _restart_if_ignored(context, node, step)


def _restart_if_ignored(context: Context, node: Node, step: FencedStep) -> None:
    """Restart a Cassandra node with a newer gossip generation if its peers ignore the one that it has."""
    if node.role is not Role.CASSANDRA:
        return
    if asyncio.run(gossip_generation.ignored_by_peers(context.fleet, node)) is None:
        return
    with context.store.kill_lock(hold_s=PLAYBOOK_HOLD_S):
        # Asked again: to wait for the lock took time. A node that its peers ignore is no live replica.
        known = asyncio.run(gossip_generation.ignored_by_peers(context.fleet, node))
        if known is None:
            return
        step.check()
        step.note(f"{known.why}; it is restarted and continues from there")
        gossip_generation.continue_from(node, known.generation)
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


def verify_recovery(context: Context, ref: RecoveryRef) -> str:
    """Verify that this node serves; raises StepFailed with what is missing."""
    with context.step(ref, "verify") as step:
        proof = proofs.verify_node(context.settings, context.fleet, context.node(ref))
        step.note(proof)
        if _confirmed_mode(context, ref) is FailureMode.CLOCK_WRONG:
            step.note(proofs.verify_clock(context.settings, context.node(ref)))
        predecessors.discard_or_hold(context, ref, step)
    return proof


def verify_synthetic_trade(context: Context, ref: RecoveryRef) -> str:
    """Send a synthetic trade through S3 and wait for it in Cassandra; raises StepFailed if it doesn't arrive.

    While S3 is unreachable, the trade is sent to Kafka, so that the recovery need not wait for S3. The wait is longer
    while other nodes are being recovered, because one of them may be what stops the trade.
    """

    def give_up(waited_s: float) -> bool:
        if waited_s <= CANARY_DEADLINE_S:
            return False
        return waited_s > OUTAGE_DEADLINE_S or not _other_incident_is_open(context, ref)

    with context.step(ref, "canary") as step:
        sentence = proofs.verify_synthetic_trade(context, lambda: _send_synthetic_trade(context), give_up)
        step.note(sentence)
    return sentence


def _send_synthetic_trade(context: Context) -> tuple[str, str]:
    """Send a synthetic trade; returns its trade_id and where it went in: S3, or Kafka while S3 is unreachable."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        return trade.send_synthetic_trade(context.s3_in_time(S3Purpose.SYNTHETIC)), "S3"
    except (BotoCoreError, ClientError):
        brokers = [f"{node.address}:{KAFKA_PORT}" for node in context.fleet.of(Role.KAFKA)]
        return trade.send_synthetic_trade_to_kafka(brokers), "Kafka (S3 is unreachable)"


def _other_incident_is_open(context: Context, ref: RecoveryRef) -> bool:
    """Whether another node has an open incident."""
    return any(one.node != ref.node for one in context.store.read_incidents(20, open_only=True))
