"""What a roll-out holds while it runs: its own lease, and the lease and maintenance flag of the node it changes.

All of them expire. If a roll-out dies, recovery takes over its nodes, and another roll-out can start.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

from kintsugi.core.errors import GuardRefused, LeaseHeld
from kintsugi.core.rollout_state import NodeRollout
from kintsugi.db.store import Deployment
from kintsugi.operations.context import Context

ROLL_OUT = "deploy_release"
"""The lease of the roll-out itself. It can't be a node's lease, because a node's name ends in a number.

A run that adds or removes nodes (`kintsugi.scaling`) holds it too: both change what the whole fleet is configured with.
"""

LEASE_S = 300.0
LEASE_WAIT_S = 300.0
RESTART_S = 280  # below the lease


def holder_of(deployment_id: str) -> str:
    """Return the holder of leases and flags, as other runs see it in their messages."""
    return f"{ROLL_OUT}/{deployment_id}"


def claim_rollout(context: Context, deployment_id: str) -> None:
    """Take or extend the roll-out's own lease. Raises GuardRefused while another roll-out runs."""
    try:
        context.store.acquire_lease(ROLL_OUT, holder_of(deployment_id), LEASE_S + RESTART_S)
    except LeaseHeld as held:
        raise GuardRefused(f"another roll-out is running ({held})") from held


def end_rollout_claim(context: Context, deployment_id: str) -> None:
    """Give back the roll-out's own lease."""
    context.store.give_back(ROLL_OUT, holder_of(deployment_id))


def claim_running(context: Context, deployment_id: str, node: str) -> tuple[Deployment, NodeRollout]:
    """Extend the roll-out's lease; returns the deployment and its step of ``node``. GuardRefused if it has ended."""
    claim_rollout(context, deployment_id)
    deployment = context.store.read_deployment(deployment_id)
    if deployment.state != "running":
        raise GuardRefused(f"deployment {deployment_id} has ended ({deployment.state})")
    return deployment, deployment.step(node)


def check_maintenance(context: Context, deployment_id: str, node: str) -> None:
    """Raise GuardRefused while a maintenance flag of somebody else covers the node."""
    flags = [flag for flag in context.store.read_maintenance(node) if flag.user != holder_of(deployment_id)]
    if flags:
        raise GuardRefused(" ".join(map(str, flags)))


def claim_node(context: Context, deployment_id: str, node: str) -> int:
    """Take the node's lease and set its maintenance flag, so that no recovery acts; returns a fresh token.

    Both expire after LEASE_S seconds. `release_node` ends them earlier.
    """
    store, ends = context.store, time.monotonic() + LEASE_WAIT_S
    while True:
        try:
            lease = store.acquire_lease(node, holder_of(deployment_id), LEASE_S, fresh_token=True)
            break
        except LeaseHeld:
            if time.monotonic() > ends:
                raise
            time.sleep(1)
    until = datetime.now(UTC) + timedelta(seconds=LEASE_S)
    store.set_maintenance(node, reason="a roll-out restarts it", user=holder_of(deployment_id), until=until)
    return lease.token


def release_node(context: Context, deployment_id: str, node: str, token: int) -> None:
    """End the node's maintenance flag and lease."""
    context.store.clear_maintenance(node, user=holder_of(deployment_id))
    context.store.release_lease(node, token)


def release_leftovers(context: Context, deployment_id: str, node: str) -> None:
    """Release what a killed step of this deployment still holds, but nothing that another run holds."""
    context.store.give_back(node, holder_of(deployment_id))
    context.store.clear_maintenance(node, user=holder_of(deployment_id))
