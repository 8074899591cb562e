"""The steps of a roll-out, as the DAG ``deploy_release`` runs them; ``rollout`` decides, these steps carry it out.

1. ``prepare``    build or find the release; fetch the jars that it or a roll-back needs; open the deployment.
2. ``plan``       wait for the steady state; see that another Kafka can start, and be rolled back; render every file of
                  every node and compare it with the node's disk. A file that doesn't render is found here, before any
                  node is changed.
3. ``apply``, ``prove``   for one node: take its lease and set a maintenance flag, so that the restart does not count
                  as a failure; judge its role again and stop it, under the kill lock; write the files and start it;
                  then wait until it is ready, verify it, and watch it for a moment. A node whose probe failed is
                  stopped only if it serves nobody, or if its peers can do without it.
4. ``hold``       bake: all nodes must hold the steady state for the hold time, and a synthetic trade must arrive.
                  Only then the release is known-good.
5. ``go_back``    roll back after the first failed probe: each updated node returns to the last known-good release,
                  the failed node first.
6. ``finish``     always: end the deployment, release its leases and flags, write the summary; after a success remove
                  the jars that no release needs any more.

Each step may be killed at any moment and run again. The plan and the state of each node are in the database; a node
is recorded as updated before it is changed. The whole roll-out holds a lease of its own, so only one runs at a time.
If its run has ended, another roll-out takes over when that lease expires.
"""

from __future__ import annotations

import logging

from kintsugi.core.errors import GuardRefused, KintsugiError, StepFailed
from kintsugi.core.rollout_state import NodeState
from kintsugi.db.store import Deployment
from kintsugi.operations.context import Context
from kintsugi.releases import (
    archive,
    assignment,
    node_update,
    release_artifacts,
    release_checks,
    release_features,
    rollout,
    steady_state,
)
from kintsugi.releases.archive import Release
from kintsugi.releases.rollout import Move
from kintsugi.releases.rollout_claim import (
    check_maintenance,
    claim_node,
    claim_rollout,
    claim_running,
    end_rollout_claim,
    release_leftovers,
    release_node,
)
from kintsugi.releases.rollout_record import (
    RolloutRecord,
    archive_deployment,
    conclude_rollout,
    format_rollout,
)

WORKING_TREE = "working tree"
NODE_HOLD_S = 8.0

log = logging.getLogger(__name__)


def prepare_rollout(context: Context, deployment_id: str, wanted: str, *, again: bool = False) -> Deployment:
    """Build the release of the working tree, or find the one whose digest begins with ``wanted``; open the deployment.

    Raises GuardRefused for a release that is marked bad, unless ``again``; while another roll-out runs; if jars can't
    be had; and if the fleet file of the release, or of the one to roll back to, declares other nodes than the fleet
    has. Raises KintsugiError if there is no such release.
    """
    claim_rollout(context, deployment_id)
    try:
        return _open_deployment(context, deployment_id, wanted, again=again)
    except KintsugiError:
        # Else the next attempt would have to wait until this lease expires.
        end_rollout_claim(context, deployment_id)
        raise


def _open_deployment(context: Context, deployment_id: str, wanted: str, *, again: bool) -> Deployment:
    store = context.store
    if wanted in ("", WORKING_TREE):
        release = archive.publish_release(context)
    else:
        release = assignment.open_release(context, store.release_record(wanted).digest)
    record = store.release_record(release.digest)
    if record.bad_at is not None and not again:
        raise GuardRefused(
            f"release {release.short} is marked bad ({record.bad_reason}); "
            "change it, or request it again in the form of deploy_release"
        )
    release_checks.check_fit(context, release)
    good = store.last_known_good()
    if good is not None and good.digest != release.digest:
        release_checks.check_way_back(context, assignment.open_release(context, good.digest))
    fetched = release_artifacts.provide_artifacts(context, release)
    claim_rollout(context, deployment_id)  # once more: to fetch jars may have taken minutes
    for other in store.read_deployments():
        if other.state == "running" and other.id != deployment_id:
            store.end_deployment(
                other.id, "stopped", f"its run ended without a result; taken over by {deployment_id}"
            )
    deployment = store.open_deployment(deployment_id, release.digest, good.digest if good else None)
    if fetched:
        store.note_deployment(deployment_id, f"fetched and verified the jars of {', '.join(fetched)}")
    return deployment


def plan_rollout(context: Context, deployment_id: str) -> Deployment:
    """Render all files of all nodes, compare them, and record what changes where; no node is changed.

    Raises GuardRefused if the steady state doesn't hold, a node can't be reached, or another version of Kafka could not
    be rolled back. Raises StepFailed, and marks the release bad, if a file doesn't render. An existing plan is kept.
    """
    deployment = context.store.read_deployment(deployment_id)
    if deployment.steps:
        return deployment
    claim_rollout(context, deployment_id)
    steady_state.await_steady(lambda: steady_state.observe_fleet(context))
    context.store.note_deployment(deployment_id, f"before: {release_checks.check_pipeline(context)}")
    release = assignment.open_release(context, deployment.digest)
    _check_versions(context, deployment, release)
    nodes = [node.name for node in rollout.update_order(context.fleet)]
    checked = release_checks.check_rendering(context, release, nodes)
    if checked.unreachable:
        raise GuardRefused(
            f"no node was changed, because not all nodes can be reached: {'; '.join(checked.unreachable.values())}"
        )
    if checked.failed:
        reason = "; ".join(checked.failed.values())
        context.store.mark_bad(deployment.digest, reason)
        raise StepFailed(f"no node was changed, because release {release.short} does not render: {reason}")
    planned = context.store.plan_deployment(deployment_id, {node: checked.differs[node] for node in nodes})
    for step in planned.steps:
        what = (
            f"{len(step.changes)} files change: {', '.join(step.changes)}"
            if step.changes
            else "nothing changes"
        )
        context.store.note_deployment(deployment_id, what, step.node)
    return planned


def _check_versions(context: Context, deployment: Deployment, release: Release) -> None:
    """Note which versions change from the release that a roll-back returns to; GuardRefused if Kafka's can't."""
    if deployment.back_to is None:
        return
    back_to = assignment.open_release(context, deployment.back_to)
    if versions := release_artifacts.describe_versions(back_to, release):
        context.store.note_deployment(deployment.id, f"versions: {versions}")
    release_features.check_features(context, release, back_to)


def update_node(
    context: Context, deployment_id: str, node: str, stop_reasons: node_update.StopReasons
) -> str:
    """Configure and restart ``node`` from the release, or only record that it runs it; returns a sentence.

    Raises GuardRefused if it isn't the node's turn, if it is in maintenance, or if the other nodes don't hold the
    steady state. Raises StepFailed if the service doesn't come up; then the roll-back begins.
    """
    deployment, step = claim_running(context, deployment_id, node)
    if step.state is NodeState.PROVEN:
        return f"{node} already runs the release"
    turn = rollout.next_move(deployment.steps, broken=deployment.broken is not None)
    if turn.node != node or turn.move not in (Move.UPDATE, Move.RECORD):
        raise GuardRefused(f"{node} is not the next node of the roll-out: {turn.reason}")
    if turn.move is Move.RECORD:
        context.store.set_node_releases([node], deployment.digest)
        context.store.set_deployment_node(deployment_id, node, NodeState.PROVEN, turn.reason)
        return turn.reason
    release = assignment.open_release(context, deployment.digest)
    node_update.await_turn(context, deployment, node)
    token = claim_node(context, deployment_id, node)
    with node_update.record_failure(context, deployment_id, node, token, stop_reasons):
        # Once more: the wait for the lease may have taken minutes.
        with node_update.stop_permission(
            context, node, token, lambda: node_update.role_reasons(context, deployment, node)
        ):
            context.store.set_node_releases([node], deployment.digest)
            context.store.set_deployment_node(deployment_id, node, NodeState.TOUCHED, turn.reason)
            node_update.stop_service(context, node)
        node_update.restart_node(context, release, node, token)
    return f"{node} was configured from release {release.short} and restarted"


def verify_update(
    context: Context, deployment_id: str, node: str, stop_reasons: node_update.StopReasons
) -> str:
    """Verify that ``node`` serves with the release; returns a sentence. On StepFailed the roll-back begins."""
    _, step = claim_running(context, deployment_id, node)
    if step.state is NodeState.PROVEN:
        return f"{node} is verified"
    if step.state is not NodeState.TOUCHED:
        raise GuardRefused(
            f"{node} was not updated (state {step.state.value}), so there is nothing to verify"
        )
    token = claim_node(context, deployment_id, node)
    with node_update.record_failure(context, deployment_id, node, token, stop_reasons):
        proof = node_update.verify_node(context, node)
        steady_state.bake_fleet(lambda: steady_state.observe_fleet(context), NODE_HOLD_S, [node])
        context.store.set_deployment_node(deployment_id, node, NodeState.PROVEN, proof)
    release_node(context, deployment_id, node, token)
    return proof


def bake_release(context: Context, deployment_id: str, seconds: float) -> str:
    """Bake: all nodes hold the steady state for ``seconds`` without a break, and a synthetic trade arrives.

    Then the release is known-good. Raises StepFailed.
    """
    claim_rollout(context, deployment_id)
    deployment = context.store.read_deployment(deployment_id)
    turn = rollout.next_move(deployment.steps, broken=deployment.broken is not None)
    if turn.move is not Move.BAKE:
        raise GuardRefused(f"not every node is verified: {turn.reason}")

    def observe_fleet() -> steady_state.Steady:
        claim_rollout(context, deployment_id)
        return steady_state.observe_fleet(context)

    try:
        steady_state.bake_fleet(observe_fleet, seconds, rollout.updated_nodes(deployment.steps))
        carried = steady_state.verify_synthetic_trade(context)
    except StepFailed as error:
        sick = error.nodes if isinstance(error, steady_state.SickNodes) else {}
        node_update.mark_failed(context, deployment, sick)
        node_update.break_deployment(context, deployment, str(error))
        raise
    release_checks.record_zones(context, assignment.open_release(context, deployment.digest))
    context.store.mark_known_good(deployment.digest)
    sentence = f"all nodes held the steady state for {seconds:.0f} s; {carried}"
    context.store.note_deployment(deployment_id, sentence)
    return sentence


def roll_back(context: Context, deployment_id: str, stop_reasons: node_update.StopReasons) -> str:
    """Roll every updated node back to the last known-good release, the failed one first; returns a sentence.

    Does nothing if no probe failed. Raises StepFailed if a node can't be rolled back (recovery takes over). Raises
    GuardRefused if there is no release to roll back to, or if its peers can't do without a node that serves.
    """
    claim_rollout(context, deployment_id)
    deployment = context.store.read_deployment(deployment_id)
    if deployment.broken is None:
        return "no probe failed, so nothing is rolled back"
    if deployment.back_to in (None, deployment.digest):
        raise GuardRefused(
            "no roll-back: there is no other known-good release. Recovery takes over the nodes that are down"
        )
    release = assignment.open_release(context, str(deployment.back_to))
    while (turn := rollout.next_move(deployment.steps, broken=True)).move is Move.ROLL_BACK:
        _roll_back_node(context, deployment, release, str(turn.node), stop_reasons)
        deployment = context.store.read_deployment(deployment_id)
    noted = [step.node for step in deployment.steps if not step.changes and step.state is NodeState.PROVEN]
    context.store.set_node_releases(noted, release.digest)
    return turn.reason


def _roll_back_node(
    context: Context,
    deployment: Deployment,
    release: Release,
    node: str,
    stop_reasons: node_update.StopReasons,
) -> None:
    store = context.store
    verified = deployment.step(node).state is NodeState.PROVEN

    def reasons() -> list[str]:
        if verified:  # it serves, so its peers must be able to do without it
            return node_update.role_reasons(context, deployment, node)
        # Its release may keep its peers from being ready, so that is not asked. If it serves nobody, nothing is asked.
        check_maintenance(context, deployment.id, node)
        return stop_reasons(context, context.fleet.node(node))

    claim_rollout(context, deployment.id)  # once more: each node may take minutes
    if verified:
        node_update.await_turn(context, deployment, node)
    else:
        steady_state.await_steady(lambda: steady_state.Steady(others=tuple(reasons())))
    token = claim_node(context, deployment.id, node)
    with node_update.stop_permission(context, node, token, reasons):
        store.set_node_releases([node], release.digest)
        node_update.stop_service(context, node)
    try:
        node_update.restart_node(context, release, node, token)
        proof = node_update.verify_node(context, node)
    except StepFailed as error:
        store.set_deployment_node(deployment.id, node, NodeState.STUCK, str(error))
        release_node(context, deployment.id, node, token)
        raise
    store.set_deployment_node(
        deployment.id, node, NodeState.RETURNED, f"rolled back to {release.short}: {proof}"
    )
    release_node(context, deployment.id, node, token)


def finish_rollout(context: Context, deployment_id: str, *, dry_run: bool = False) -> RolloutRecord:
    """End the deployment by its state in the database, release every node, and write the summary (also to S3)."""
    store = context.store
    deployment = store.read_deployment(deployment_id)
    state, reason = conclude_rollout(deployment, store.release_record(deployment.digest), dry_run=dry_run)
    for step in deployment.steps:
        release_leftovers(context, deployment_id, step.node)
    ended = store.end_deployment(deployment_id, state, reason)
    end_rollout_claim(context, deployment_id)
    archive_deployment(context, ended)
    if ended.state == "held":
        _remove_old_jars(context)
    return RolloutRecord(well=ended.state in ("held", "dry_run"), text=format_rollout(ended))


def _remove_old_jars(context: Context) -> None:
    """Remove the jars that no release needs any more; the roll-out has succeeded, also if that fails."""
    try:
        removed = release_artifacts.remove_unneeded(context)
    except OSError as error:
        log.warning("old jars stay in the cache: %s", error)
    else:
        log.info("jars removed from the cache: %s", ", ".join(removed) or "none")
