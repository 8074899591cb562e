"""Update one node: restart it from a release, verify it, and record what failed."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from kintsugi.core.errors import GuardRefused, StepFailed
from kintsugi.core.rollout_state import NodeState
from kintsugi.db.store import Deployment
from kintsugi.infra.ansible import Ansible
from kintsugi.operations import readiness, stream_driver, verification
from kintsugi.operations.context import Context
from kintsugi.probes.observe import SERVICES
from kintsugi.releases import listener_check, rollout, steady_state
from kintsugi.releases.archive import Release
from kintsugi.releases.rollout_claim import LEASE_S, RESTART_S, check_maintenance

READY_S = 150.0

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
def record_failure(context: Context, deployment_id: str, node: str) -> Iterator[None]:
    """Treat a StepFailed in the block as the first failed probe: record it for node, deployment and release."""
    try:
        yield
    except StepFailed as error:
        context.store.set_deployment_node(deployment_id, node, NodeState.FAILED, str(error))
        stop_service(context, node)
        break_deployment(context, context.store.read_deployment(deployment_id), f"{node}: {error}")
        raise


def stop_service(context: Context, node: str) -> None:
    """Stop the service that failed, so that its peers lead and answer until it is rolled back."""
    config = context.settings.node_root(node) / "etc" / "supervisord.conf"
    service = SERVICES[context.fleet.node(node).role]
    try:
        context.platform().run(node, ["supervisorctl", "-c", str(config), "stop", service])
    except StepFailed as error:
        log.warning("%s couldn't be stopped: %s", node, error)  # the roll-back restarts it anyway


def restart_node(context: Context, release: Release, node: str, token: int) -> None:
    """Configure the node from the release and restart it. Raises StaleTokenError, or StepFailed by Ansible."""
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
