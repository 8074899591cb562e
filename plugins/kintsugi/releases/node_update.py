"""Update one node: restart it from a release, verify it, and record what failed.

Before each stop of a service its peers are judged again, under the kill lock of the fleet (`stop_permission`). The last
look may be minutes old, and a recovery may kill a peer meanwhile. The lock is held for the judgement and the stop only:
its session ends after 120 s, and a playbook may take longer.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from kintsugi.core.errors import GuardRefused, StaleTokenError, StepFailed
from kintsugi.core.fleet import Node
from kintsugi.core.rollout_state import NodeState
from kintsugi.db.store import Deployment
from kintsugi.infra.ansible import Ansible
from kintsugi.operations import readiness, stream_driver, verification
from kintsugi.operations.context import Context
from kintsugi.operations.node_programs import control_program
from kintsugi.probes.observe import SERVICES
from kintsugi.releases import listener_check, rollout, steady_state
from kintsugi.releases.archive import Release
from kintsugi.releases.rollout_claim import LEASE_S, RESTART_S, check_maintenance

READY_S = 150.0
STOP_S = (
    45.0  # an init waits 30 s for a service to stop; with the judgement less than the 120 s of the kill lock
)

StopReasons = Callable[[Context, Node], list[str]]
"""Returns the reasons against a stop of a node that may serve: `kintsugi.recovery.planned_stop.stop_reasons`.

It uses the facts of the guards, whose room stands above this one, so the caller of the steps passes it.
"""

log = logging.getLogger(__name__)


def await_turn(context: Context, deployment: Deployment, node: str) -> None:
    """Wait until the node may be changed. If this roll-out changed it before, its own state is ignored.

    Raises GuardRefused if the steady state of the other nodes doesn't hold, or if the node is in maintenance. Raises
    StepFailed if a node failed after this roll-out had verified it; then the roll-back begins.
    """
    check_maintenance(context, deployment.id, node)
    again = [node] if deployment.step(node).state is not NodeState.WAITING else []
    ours = rollout.updated_nodes(deployment.steps)
    try:
        steady_state.await_steady(lambda: steady_state.observe_fleet(context, but=again))
    except GuardRefused as refusal:
        lacks = steady_state.observe_fleet(context, but=again).nodes
        sick = {name: lacks[name] for name in ours if name in lacks}
        if not sick or deployment.broken is not None:
            raise
        mark_failed(context, deployment, sick)
        reason = f"{', '.join(sorted(sick))} failed after it was verified: {refusal}"
        break_deployment(context, deployment, reason)
        raise StepFailed(reason) from refusal


def mark_failed(context: Context, deployment: Deployment, sick: Mapping[str, str]) -> None:
    """Mark verified nodes that don't serve any more as failed: they are rolled back before those that serve."""
    for node, lacks in sick.items():
        context.store.set_deployment_node(deployment.id, node, NodeState.FAILED, lacks)


def break_deployment(context: Context, deployment: Deployment, reason: str) -> None:
    """Record the first failed probe of the deployment, and mark its release bad unless it was known-good before."""
    context.store.break_deployment(deployment.id, reason)
    if not context.store.mark_bad(deployment.digest, reason):
        context.store.note_deployment(
            deployment.id, "the release was known-good before and is not marked bad"
        )


@contextmanager
def record_failure(
    context: Context, deployment_id: str, node: str, token: int, stop_reasons: StopReasons
) -> Iterator[None]:
    """Treat a StepFailed in the block as the first failed probe: record it for node, deployment and release."""
    try:
        yield
    except StepFailed as error:
        context.store.set_deployment_node(deployment_id, node, NodeState.FAILED, str(error))
        break_deployment(context, context.store.read_deployment(deployment_id), f"{node}: {error}")
        _stop_failed_service(context, deployment_id, node, token, stop_reasons)
        raise


def _stop_failed_service(
    context: Context, deployment_id: str, node: str, token: int, stop_reasons: StopReasons
) -> None:
    """Stop the service that failed, unless its peers need it: the fault may lie with one of them."""
    try:
        with stop_permission(context, node, token, lambda: stop_reasons(context, context.fleet.node(node))):
            stop_service(context, node)
    except (GuardRefused, StaleTokenError) as refused:
        context.store.note_deployment(
            deployment_id, f"its probe failed, but its service is left running: {refused}", node
        )


@contextmanager
def stop_permission(
    context: Context, node: str, token: int, reasons: Callable[[], list[str]]
) -> Iterator[None]:
    """Judge once more whether the node's service may be stopped; the block may then stop it, and nothing longer.

    ``reasons``: looks anew, and returns every reason against it. No recovery can kill another node meanwhile: the kill
    lock of the fleet is held. Raises GuardRefused, or StaleTokenError if another run has taken the node's lease.
    """
    with context.store.kill_lock():
        if against := reasons():
            raise GuardRefused(f"{node} is not stopped: {' '.join(against)}")
        context.store.renew_lease(node, token, LEASE_S)
        yield


def role_reasons(context: Context, deployment: Deployment, node: str) -> list[str]:
    """The reasons against the stop of a node that serves: maintenance, and what its role lacks for the steady state.

    If this roll-out changed the node before, its own state is ignored.
    """
    check_maintenance(context, deployment.id, node)
    role = context.fleet.node(node).role
    left_out = [other.name for other in context.fleet if other.role is not role]
    if deployment.step(node).state is not NodeState.WAITING:
        left_out.append(node)
    seen = steady_state.observe_fleet(context, but=left_out)
    return [] if seen else [f"{seen}."]


def stop_service(context: Context, node: str) -> None:
    """Stop the node's service, so that its peers lead and answer until it is started again."""
    server = context.fleet.node(node)
    try:
        control_program(context, server, "stop", SERVICES[server.role], STOP_S)
    except StepFailed as error:
        log.warning("%s couldn't be stopped: %s", node, error)  # the playbook restarts it anyway


def restart_node(context: Context, release: Release, node: str, token: int) -> None:
    """Configure the node from the release and start it again. Raises StaleTokenError, or StepFailed by Ansible."""
    context.store.check_lease(node, token)
    Ansible(context.settings, release).run(
        "restart.yml",
        limit=node,
        extra_vars=stream_driver.driver_variables(context),
        timeout_s=RESTART_S,
        give_up=listener_check.listener_watch(context, context.fleet.node(node)),
    )
    context.store.renew_lease(node, token, LEASE_S)


def verify_node(context: Context, node: str) -> str:
    """Wait until the node is ready, then verify it; returns a sentence. Raises StepFailed."""
    server = context.fleet.node(node)
    readiness.wait_until_ready(context.settings, context.fleet, server, READY_S)
    return verification.verify_node(context.settings, context.fleet, server)
