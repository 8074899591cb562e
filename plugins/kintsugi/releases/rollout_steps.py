"""The steps of a roll-out, as the DAG ``deploy_release`` runs them; ``rollout`` decides, these steps carry it out.

1. ``prepare``    build or find the release; open the deployment.
2. ``plan``       wait for the steady state; render every file of every node and compare it with the node's disk. A
                  file that doesn't render is found here, before any node is changed.
3. ``apply``, ``prove``   for one node: take its lease and set a maintenance flag, so that the restart does not count
                  as a failure; write the files and restart; then wait until it is ready, verify it, and watch it
                  for a moment.
4. ``hold``       bake: all nodes must hold the steady state for the hold time, and a synthetic trade must arrive.
                  Only then the release is known-good.
5. ``go_back``    roll back after the first failed probe: each updated node returns to the last known-good release,
                  the failed node first.
6. ``finish``     always: end the deployment, release its leases and flags, write the summary.

Each step may be killed at any moment and run again. The plan and the state of each node are in the database; a node
is recorded as updated before it is changed. The whole roll-out holds a lease of its own, so only one runs at a time.
If its run has ended, another roll-out takes over when that lease expires.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from kintsugi.core.errors import GuardRefused, KintsugiError, LeaseHeld, StepFailed
from kintsugi.core.fleet import Fleet, load_fleet
from kintsugi.core.rollout_state import NodeRollout, NodeState
from kintsugi.db.releases import End
from kintsugi.db.store import Deployment, ReleaseRecord
from kintsugi.infra import artifacts
from kintsugi.infra.ansible import Ansible, Checked
from kintsugi.operations import readiness, stream_driver, verification
from kintsugi.operations.context import Context
from kintsugi.operations.spool import deliver
from kintsugi.probes.observe import SERVICES
from kintsugi.releases import archive, assignment, listener_check, rollout, steady_state
from kintsugi.releases.archive import Release
from kintsugi.releases.rollout import Move

WORKING_TREE = "working tree"
ROLL_OUT = "deploy_release"
"""The lease of the roll-out itself. It can't be a node's lease, because a node's name ends in a number."""

LEASE_S = 300.0
LEASE_WAIT_S = 300.0
CHECK_S = 300.0
RESTART_S = 280  # below the lease
REDUNDANT_S = 150.0
NODE_HOLD_S = 8.0

_PRODUCTS = ("cassandra", "kafka", "spark")  # what nodes run; S3Proxy belongs to the control plane

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RolloutRecord:
    """How a deployment ended. ``well``: nothing is left to do. ``text``: the summary for people."""

    well: bool
    text: str


def prepare(context: Context, deployment: str, wanted: str, *, again: bool = False) -> Deployment:
    """Build the release of the working tree, or find the one whose digest begins with ``wanted``; open the deployment.

    Raises GuardRefused for a release that is marked bad, unless ``again``; while another roll-out runs; and if the
    fleet file of the release declares other nodes than the fleet has. Raises KintsugiError if there is no such release.
    """
    _hold_roll_out(context, deployment)
    try:
        return _open(context, deployment, wanted, again=again)
    except KintsugiError:
        # Else the next attempt would have to wait until this lease expires.
        context.store.give_back(ROLL_OUT, _holder(deployment))
        raise


def _open(context: Context, deployment: str, wanted: str, *, again: bool) -> Deployment:
    store = context.store
    release = build(context) if wanted in ("", WORKING_TREE) else _known(context, wanted)
    record = store.release_record(release.digest)
    if record.bad_at is not None and not again:
        raise GuardRefused(
            f"release {release.short} is marked bad ({record.bad_reason}); "
            "change it, or request it again in the form of deploy_release"
        )
    _same_nodes(context.fleet, load_fleet(release.fleet_file))
    _jars_fit(context, release)
    for other in store.deployments():
        if other.state == "running" and other.id != deployment:
            store.end_deployment(
                other.id, "stopped", f"its run ended without a result; taken over by {deployment}"
            )
    good = store.last_known_good()
    return store.open_deployment(deployment, release.digest, good.digest if good else None)


def build(context: Context) -> Release:
    """Build a release from this checkout: on disk, in S3 and in the database."""
    release = archive.build(context.settings)
    archive.store_in_s3(context, release)
    context.store.add_release(release.digest, archive.origin(context.settings.repository))
    return release


def _known(context: Context, prefix: str) -> Release:
    return assignment.open_release(context, context.store.release_record(prefix).digest)


def _same_nodes(there: Fleet, declared: Fleet) -> None:
    def described(fleet: Fleet) -> set[tuple[str, str, str]]:
        return {(node.name, node.role.value, node.address) for node in fleet}

    odd = sorted({name for name, _, _ in described(there) ^ described(declared)})
    if odd:
        raise GuardRefused(
            f"the fleet file of the release and the current fleet differ in {', '.join(odd)}; "
            "a roll-out does not create, move or remove nodes. Use Terraform (`make up`) for that"
        )


def _jars_fit(context: Context, release: Release) -> None:
    """Refuse a release whose jars aren't in the cache: a roll-out downloads nothing."""
    odd = artifacts.missing(replace(context.settings, repository=release.directory), among=_PRODUCTS)
    if odd:
        raise GuardRefused(
            f"release {release.short} needs other versions of {', '.join(odd)} than the cache at "
            f"{context.settings.artifacts} holds; check out that version, run `kintsugi artifacts`, then roll it out"
        )


def plan(context: Context, deployment: str) -> Deployment:
    """Render all files of all nodes, compare them, and record what changes where; no node is changed.

    Raises GuardRefused if the steady state doesn't hold or a node can't be reached. Raises StepFailed, and marks the
    release bad, if a file doesn't render. An existing plan is kept.
    """
    found = context.store.deployment(deployment)
    if found.steps:
        return found
    _hold_roll_out(context, deployment)
    steady_state.await_steady(lambda: steady_state.observe_fleet(context))
    context.store.note_deployment(deployment, f"before: {_canary_before(context)}")
    release = assignment.open_release(context, found.digest)
    nodes = [node.name for node in rollout.order(context.fleet)]
    checked = _check(context, release, nodes)
    if checked.unreachable:
        raise GuardRefused(
            f"no node was changed, because not all nodes can be reached: {'; '.join(checked.unreachable.values())}"
        )
    if checked.failed:
        reason = "; ".join(checked.failed.values())
        context.store.mark_bad(found.digest, reason)
        raise StepFailed(f"no node was changed, because release {release.short} does not render: {reason}")
    planned = context.store.plan_deployment(deployment, {node: checked.differs[node] for node in nodes})
    for step in planned.steps:
        what = (
            f"{len(step.changes)} files change: {', '.join(step.changes)}"
            if step.changes
            else "nothing changes"
        )
        context.store.note_deployment(deployment, what, step.node)
    return planned


def _check(context: Context, release: Release, nodes: Sequence[str]) -> Checked:
    """Render and compare; a node that fails is checked a second time.

    A lost connection on a busy machine fails a task just as an error in the release does. Only the error fails twice.
    """
    ansible, wanted = _ansible(context, release), stream_driver.variables(context)
    first: Checked = ansible.check(nodes, extra_vars=wanted, timeout_s=CHECK_S)
    again = sorted(first.failed.keys() | first.unreachable.keys())
    if not again:
        return first
    log.warning("checking %s again: %s", ", ".join(again), {**first.failed, **first.unreachable})
    second: Checked = ansible.check(again, extra_vars=wanted, timeout_s=CHECK_S)
    return Checked({**first.differs, **second.differs}, second.failed, second.unreachable)


def _canary_before(context: Context) -> str:
    """Send a synthetic trade before the roll-out: in a pipeline that is broken already, every release would fail."""
    try:
        return steady_state.verify_synthetic_trade(context)
    except StepFailed as error:
        raise GuardRefused(
            f"the pipeline does not work before the roll-out, so nothing is rolled out: {error}"
        ) from error


def apply(context: Context, deployment: str, node: str) -> str:
    """Configure and restart ``node`` from the release, or only record that it runs it; returns a sentence.

    Raises GuardRefused if it isn't the node's turn, if it is in maintenance, or if the steady state of the other nodes
    doesn't
    hold. Raises StepFailed if the service doesn't come up; then the roll-back begins.
    """
    found, step = _at(context, deployment, node)
    if step.state is NodeState.PROVEN:
        return f"{node} already runs the release"
    turn = rollout.next_move(found.steps, broken=found.broken is not None)
    if turn.node != node or turn.move not in (Move.TOUCH, Move.NOTE):
        raise GuardRefused(f"{node} is not the next node of the roll-out: {turn.reason}")
    if turn.move is Move.NOTE:
        context.store.set_node_releases([node], found.digest)
        context.store.set_deployment_node(deployment, node, NodeState.PROVEN, turn.reason)
        return turn.reason
    release = assignment.open_release(context, found.digest)
    _before(context, found, node)
    with _in_hand(context, deployment, node) as token, _judged(context, deployment, node):
        _heed_people(context, deployment, node)  # once more: the wait for the lease may have taken minutes
        context.store.set_node_releases([node], found.digest)
        context.store.set_deployment_node(deployment, node, NodeState.TOUCHED, turn.reason)
        _restart(context, release, node, token)
    return f"{node} was configured from release {release.short} and restarted"


def verify_update(context: Context, deployment: str, node: str) -> str:
    """Verify that ``node`` serves with the release; returns a sentence. On StepFailed the roll-back begins."""
    _, step = _at(context, deployment, node)
    if step.state is NodeState.PROVEN:
        return f"{node} is verified"
    if step.state is not NodeState.TOUCHED:
        raise GuardRefused(
            f"{node} was not updated (state {step.state.value}), so there is nothing to verify"
        )
    with _in_hand(context, deployment, node) as token, _judged(context, deployment, node):
        proof = _proof(context, node)
        steady_state.bake(lambda: steady_state.observe_fleet(context), NODE_HOLD_S, [node])
        context.store.set_deployment_node(deployment, node, NodeState.PROVEN, proof)
    _let_go(context, deployment, node, token)
    return proof


def bake_release(context: Context, deployment: str, seconds: float) -> str:
    """Bake: all nodes hold the steady state for ``seconds`` without a break, and a synthetic trade arrives.

    Then the release is known-good. Raises StepFailed.
    """
    _hold_roll_out(context, deployment)
    found = context.store.deployment(deployment)
    turn = rollout.next_move(found.steps, broken=found.broken is not None)
    if turn.move is not Move.HOLD:
        raise GuardRefused(f"not every node is verified: {turn.reason}")

    def look() -> steady_state.Steady:
        _hold_roll_out(context, deployment)
        return steady_state.observe_fleet(context)

    try:
        steady_state.bake(look, seconds, rollout.updated_nodes(found.steps))
        carried = steady_state.verify_synthetic_trade(context)
    except StepFailed as error:
        sick = error.nodes if isinstance(error, steady_state.SickNodes) else {}
        _fall_sick(context, found, sick)
        _break(context, found, str(error))
        raise
    context.store.mark_known_good(found.digest)
    sentence = f"all nodes held the steady state for {seconds:.0f} s; {carried}"
    context.store.note_deployment(deployment, sentence)
    return sentence


def roll_back(context: Context, deployment: str) -> str:
    """Roll every updated node back to the last known-good release, the failed one first; returns a sentence.

    Does nothing if no probe failed. Raises StepFailed if a node can't be rolled back (recovery takes over), and
    GuardRefused if there is no release to roll back to.
    """
    _hold_roll_out(context, deployment)
    found = context.store.deployment(deployment)
    if found.broken is None:
        return "no probe failed, so nothing is rolled back"
    if found.back_to in (None, found.digest):
        raise GuardRefused(
            "no roll-back: there is no other known-good release. Recovery takes over the nodes that are down"
        )
    release = assignment.open_release(context, str(found.back_to))
    while (turn := rollout.next_move(found.steps, broken=True)).move is Move.RETURN:
        _return(context, found, release, str(turn.node))
        found = context.store.deployment(deployment)
    noted = [step.node for step in found.steps if not step.changes and step.state is NodeState.PROVEN]
    context.store.set_node_releases(noted, release.digest)
    return turn.reason


def _return(context: Context, found: Deployment, release: Release, node: str) -> None:
    if found.step(node).state is NodeState.PROVEN:
        _before(context, found, node)  # it serves, so its peers must be able to do without it
    store = context.store
    with _in_hand(context, found.id, node) as token:
        _heed_people(context, found.id, node)
        store.set_node_releases([node], release.digest)
        try:
            _restart(context, release, node, token)
            proof = _proof(context, node)
        except StepFailed as error:
            store.set_deployment_node(found.id, node, NodeState.STUCK, str(error))
            _let_go(context, found.id, node, token)
            raise
        store.set_deployment_node(
            found.id, node, NodeState.RETURNED, f"rolled back to {release.short}: {proof}"
        )
    _let_go(context, found.id, node, token)


def finish(context: Context, deployment: str, *, dry_run: bool = False) -> RolloutRecord:
    """End the deployment by its state in the database, release every node, and write the summary (also to S3)."""
    store = context.store
    found = store.deployment(deployment)
    state, reason = conclude(found, store.release_record(found.digest), dry_run=dry_run)
    for step in found.steps:
        _let_go_of_ours(context, deployment, step.node)
    ended = store.end_deployment(deployment, state, reason)
    context.store.give_back(ROLL_OUT, _holder(deployment))
    _archive(context, ended)
    return RolloutRecord(well=ended.state in ("held", "dry_run"), text=format_rollout(ended))


def conclude(found: Deployment, release: ReleaseRecord, *, dry_run: bool) -> tuple[End, str]:
    """Return how the deployment ended, by its records and those of its release. Pure."""
    if dry_run and found.steps:
        return "dry_run", "dry run: no node was changed"
    broken = found.broken is not None
    turn = rollout.next_move(found.steps, broken=broken)
    if broken:
        done = all(step.state is not NodeState.STUCK for step in found.steps) and turn.move is Move.STOP
        return ("returned" if done else "stuck"), f"{found.broken}; {turn.reason}"
    if found.steps and turn.move is Move.HOLD and release.known_good:
        return "held", "known-good: its probes passed on every node"
    if not found.steps and release.bad_reason:  # no plan was made
        return "stopped", f"no node was changed; the release is marked bad: {release.bad_reason}"
    return "stopped", "it stopped before the end, without a failed probe; see the task that failed"


def format_rollout(found: Deployment) -> str:
    """Format the deployment in a line: the release, how it ended, which nodes were restarted. Pure."""
    names = rollout.updated_nodes(found.steps)
    return (
        f"release {found.digest[:12]} {found.state}: {found.reason} "
        f"(restarted for it: {', '.join(names) or 'no node'})"
    )


def to_json(found: Deployment) -> dict[str, Any]:
    """Return the deployment as JSON types."""
    return {
        "id": found.id,
        "digest": found.digest,
        "back_to": found.back_to,
        "state": found.state,
        "broken": found.broken,
        "reason": found.reason,
        "started_at": found.started_at.isoformat(),
        "ended_at": found.ended_at and found.ended_at.isoformat(),
        "touched": rollout.updated_nodes(found.steps),
        "steps": [
            {"node": step.node, "state": step.state.value, "changes": list(step.changes)}
            for step in found.steps
        ],
        "entries": [
            {"at": entry.at.isoformat(), "node": entry.node, "message": entry.message}
            for entry in found.entries
        ],
    }


# --- shared by the steps ----------------------------------------------------------------------------------


def _holder(deployment: str) -> str:
    """Return the holder of leases and flags, as other runs see it in their messages."""
    return f"{ROLL_OUT}/{deployment}"


def _at(context: Context, deployment: str, node: str) -> tuple[Deployment, NodeRollout]:
    _hold_roll_out(context, deployment)
    found = context.store.deployment(deployment)
    if found.state != "running":
        raise GuardRefused(f"deployment {deployment} has ended ({found.state})")
    return found, found.step(node)


def _hold_roll_out(context: Context, deployment: str) -> None:
    try:
        context.store.acquire_lease(ROLL_OUT, _holder(deployment), LEASE_S + RESTART_S)
    except LeaseHeld as held:
        raise GuardRefused(f"another roll-out is running ({held})") from held


def _before(context: Context, found: Deployment, node: str) -> None:
    """Check that the node may be changed now. If this roll-out changed it before, its own state is ignored."""
    _heed_people(context, found.id, node)
    again = [node] if found.step(node).state is not NodeState.WAITING else []
    ours = rollout.updated_nodes(found.steps)
    try:
        steady_state.await_steady(lambda: steady_state.observe_fleet(context, but=again))
    except GuardRefused as refusal:
        lacks = steady_state.observe_fleet(context, but=again).nodes
        sick = {name: lacks[name] for name in ours if name in lacks}
        if not sick or found.broken is not None:
            raise
        _fall_sick(context, found, sick)
        reason = f"{', '.join(sorted(sick))} failed after it was verified: {refusal}"
        _break(context, found, reason)
        raise StepFailed(reason) from refusal


def _heed_people(context: Context, deployment: str, node: str) -> None:
    """Raise GuardRefused while a maintenance flag of somebody else covers the node."""
    flags = [flag for flag in context.store.maintenance(node) if flag.user != _holder(deployment)]
    if flags:
        raise GuardRefused(" ".join(map(str, flags)))


def _fall_sick(context: Context, found: Deployment, sick: Mapping[str, str]) -> None:
    """Mark verified nodes that don't serve any more as failed: they are rolled back before those that serve."""
    for node, lacks in sick.items():
        context.store.set_deployment_node(found.id, node, NodeState.FAILED, lacks)


@contextmanager
def _in_hand(context: Context, deployment: str, node: str) -> Iterator[int]:
    """Hold the node's lease under a fresh token and a maintenance flag, so that no recovery acts; yields the token.

    Both expire after LEASE_S seconds. If the roll-out dies, recovery takes over then.
    """
    store, ends = context.store, time.monotonic() + LEASE_WAIT_S
    while True:
        try:
            lease = store.acquire_lease(node, _holder(deployment), LEASE_S, fresh_token=True)
            break
        except LeaseHeld:
            if time.monotonic() > ends:
                raise
            time.sleep(1)
    until = datetime.now(UTC) + timedelta(seconds=LEASE_S)
    store.set_maintenance(node, reason="a roll-out restarts it", user=_holder(deployment), until=until)
    yield lease.token


@contextmanager
def _judged(context: Context, deployment: str, node: str) -> Iterator[None]:
    """Treat a StepFailed in the block as the first failed probe: record it for node, deployment and release."""
    try:
        yield
    except StepFailed as error:
        context.store.set_deployment_node(deployment, node, NodeState.FAILED, str(error))
        _stop(context, node)
        _break(context, context.store.deployment(deployment), f"{node}: {error}")
        raise


def _stop(context: Context, node: str) -> None:
    """Stop the service that failed, so that its peers lead and answer until it is rolled back."""
    config = context.settings.node_root(node) / "etc" / "supervisord.conf"
    service = SERVICES[context.fleet.node(node).role]
    try:
        context.platform().run(node, ["supervisorctl", "-c", str(config), "stop", service])
    except StepFailed as error:
        log.warning("%s couldn't be stopped: %s", node, error)  # the roll-back restarts it anyway


def _break(context: Context, found: Deployment, reason: str) -> None:
    context.store.break_deployment(found.id, reason)
    if not context.store.mark_bad(found.digest, reason):
        context.store.note_deployment(found.id, "the release was known-good before and is not marked bad")


def _let_go(context: Context, deployment: str, node: str, token: int) -> None:
    context.store.clear_maintenance(node, user=_holder(deployment))
    context.store.release(node, token)


def _let_go_of_ours(context: Context, deployment: str, node: str) -> None:
    """Release what a killed step of this deployment still holds, but nothing that another run holds."""
    context.store.give_back(node, _holder(deployment))
    context.store.clear_maintenance(node, user=_holder(deployment))


def _restart(context: Context, release: Release, node: str, token: int) -> None:
    context.store.check(node, token)
    _ansible(context, release).run(
        "restart.yml",
        limit=node,
        extra_vars=stream_driver.variables(context),
        timeout_s=RESTART_S,
        give_up=listener_check.watch(context.fleet, context.fleet.node(node)),
    )
    context.store.renew(node, token, LEASE_S)


def _proof(context: Context, node: str) -> str:
    server = context.fleet.node(node)
    readiness.wait_until_ready(context.settings, context.fleet, server, REDUNDANT_S)
    return verification.verify_node(context.settings, context.fleet, server)


def _ansible(context: Context, release: Release) -> Any:
    return Ansible(context.settings, release)


def _archive(context: Context, ended: Deployment) -> None:
    body = json.dumps(to_json(ended), indent=2).encode()
    deliver(context, f"deployments/{ended.id.replace('/', '_')}.json", body)
