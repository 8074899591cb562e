"""The steps that add and remove nodes, as the DAG ``scale_fleet`` runs them.

1. ``check``     every reason against it is asked (`permission`); nothing is touched. A dry run ends here.
2. ``begin``     take the lease of the whole fleet (no roll-out, replacement or injected fault starts then), and set a
                 maintenance flag on each node that leaves, so that no recovery starts for it. A node whose removal was
                 reverted is started and watched again.
3. for Spark's workers, Kafka and Cassandra in turn:

   * ``add``     for each new node: Terraform makes it, Ansible configures it from the members' release with the new
                 fleet file, and it joins. Once it is ready and has proven itself it becomes a member and is watched.
   * ``spread``  Kafka only: replicas move to and from brokers at a bounded rate; the quorum's voters follow.
   * ``remove``  for each node that leaves: hand over what it holds (Cassandra: decommission), check that nothing is
                 left on it, stop it, end its watch, and let Terraform destroy it.
   * ``clean_up`` Cassandra only: the members drop the rows whose ranges moved to a new node.

4. ``settle``    write the members' files from the new release, without a restart. When the steady state holds and a
                 synthetic trade has arrived, the release is known-good.
5. ``finish``    always: end flags and lease, and say what came of it.

Before each node the guards are asked again. Before each act that can't be undone a step checks that it still holds the
lease of the fleet. What is left to do is computed from the fleet file and from the clusters at each step, so each step
may be killed at any moment and run again, and so may the whole run: the next one goes on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial

from kintsugi.controlplane.control_plane import ControlPlane
from kintsugi.core.fleet import Node, Role, watch_dag_id
from kintsugi.core.membership import Membership
from kintsugi.db.heartbeats import FLOW
from kintsugi.operations import readiness, verification
from kintsugi.operations.context import Context
from kintsugi.releases import steady_state
from kintsugi.releases.rollout_claim import ROLL_OUT
from kintsugi.scaling import clusters, permission, provisioning
from kintsugi.scaling.plan import SCALED_ROLES, ScalingPlan
from kintsugi.scaling.progress import begin_progress, end_progress
from kintsugi.scaling.state import (
    Check,
    change_membership,
    clear_flags,
    fresh,
    hold_fleet,
    hold_nodes,
    note,
    read_plan,
)

READY_S = {Role.SPARK_WORKER: 240.0, Role.KAFKA: 240.0, Role.CASSANDRA: 600.0}
PARSE_S = 180.0
NOTHING = "nothing to do"
FORMS = ("recover_node", "replace_node", "maintenance", "deploy_release", "anti_entropy")
"""The DAGs whose files list the nodes, beside the watches."""

log = logging.getLogger(__name__)


class ScalingState(StrEnum):
    """How a change of the fleet ended."""

    DONE = "done"
    REFUSED = "refused"
    FAILED = "failed"
    DRY_RUN = "dry_run"


@dataclass(frozen=True, slots=True)
class ScalingResult:
    """How a change of the fleet ended, and a sentence for people."""

    state: ScalingState
    text: str


def check_scaling(context: Context, holder: str) -> tuple[str, list[str]]:
    """Return the plan in words and every reason against it; nothing is touched."""
    return str(read_plan(context)), permission.refusal_reasons(context, holder)


def begin_scaling(context: Context, holder: str, started_by: str) -> str:
    """Take the lease of the fleet and set the flags; returns the plan. Raises GuardRefused with every reason."""
    with hold_fleet(context, holder):
        plan = read_plan(context)
        provisioning.release_of_declared(context, plan)  # refuses before anything is touched
        begin_progress(context.store, holder, str(plan), started_by)
        clear_flags(context)
        _start_again(context, holder, plan)
        start_watches(context)
        for node in plan.remove:
            note(context, holder, f"{node.name} is to be removed (asked by {started_by})", node.name)
    return str(plan)


def _start_again(context: Context, holder: str, plan: ScalingPlan) -> None:
    """Start the nodes whose removal was reverted, before they are watched. Raises StepFailed.

    A node that is away altogether is left to its watch, whose recovery makes it again.
    """
    for node in (context.fleet.node(name) for name in plan.unwatched):
        if clusters.start_service(context, node):
            ready = readiness.wait_until_ready(context.settings, context.fleet, node, READY_S[node.role])
            note(context, holder, ready)


def add_nodes(context: Context, holder: str, role: Role) -> str:
    """Add every declared node of the role that is no member; returns a sentence. Raises GuardRefused, StepFailed."""
    added = _change_each(context, holder, lambda plan: plan.added(role), _add_node)
    return f"added {', '.join(added)}" if added else NOTHING


def _change_each(
    context: Context,
    holder: str,
    due: Callable[[ScalingPlan], list[Node]],
    change: Callable[[Context, str, Node, Check], None],
) -> list[str]:
    """Change one node after another while the plan has one that is ``due``, with the guards' permission for each.

    Returns their names.
    """
    changed = []
    with hold_fleet(context, holder) as check:
        while due(read_plan(context)):
            context = fresh(context)
            if not (waiting := due(permission.await_permission(context, holder))):
                break  # the fleet file was edited meanwhile
            change(context, holder, waiting[0], check)
            changed.append(waiting[0].name)
    return changed


def _add_node(context: Context, holder: str, node: Node, check: Check) -> None:
    say = _teller(context, holder)
    release = provisioning.release_of_declared(context, read_plan(context))
    change_membership(context, lambda record: record.with_joining(node))
    say(f"{node.name}: Terraform makes the node and its volume")
    provisioning.create_node(context, node, check)
    say(f"{node.name}: Ansible configures and starts it from release {release.short}")
    provisioning.configure_node(context, node, release, check)
    fleet = replace(context.fleet, nodes={**context.fleet.nodes, node.name: node})
    say(readiness.wait_until_ready(context.settings, fleet, node, READY_S[node.role]))
    say(verification.verify_node(context.settings, fleet, node))
    # From here on it counts: it is watched, and its peers' guards ask it. The flag keeps a recovery away until the end.
    note(context, holder, f"{node.name} has joined; it is being added", node.name)
    change_membership(context, lambda record: record.with_member(node))
    start_watches(context)


def start_watches(context: Context) -> None:
    """Unpause the watches of new members. Raises StepFailed if Airflow doesn't know one in time."""
    airflow = ControlPlane(context.settings).airflow
    for name in read_plan(context).unwatched:
        airflow.parse_again(watch_dag_id(FLOW))  # the file of all watches
        airflow.await_dag(watch_dag_id(name), PARSE_S)
        airflow.unpause(watch_dag_id(name))
        change_membership(context, partial(Membership.with_watch, name=name))


def spread_partitions(context: Context, holder: str, rate: int) -> str:
    """Move the replicas of Kafka to the brokers that the fleet file declares; returns a sentence.

    ``rate``: bytes a second for each broker. Raises GuardRefused, StepFailed.
    """
    with hold_fleet(context, holder) as check:
        plan = read_plan(context)
        if not plan.spread and not plan.removed(Role.KAFKA):
            return NOTHING
        leaving = permission.await_permission(context, holder).removed(Role.KAFKA)
        say = _teller(context, holder, *(node.name for node in leaving))
        # If the removal of a broker is reverted half way, its replicas have to move back to it.
        change_membership(context, lambda record: replace(record, spread=True))
        sentence = clusters.spread_partitions(context, leaving, rate, say, check)
        change_membership(context, lambda record: replace(record, spread=False))
        say(sentence)
    return sentence


def remove_nodes(context: Context, holder: str, role: Role) -> str:
    """Remove every node of the role that is no longer declared; returns a sentence. Raises GuardRefused, StepFailed."""
    removed = _change_each(context, holder, lambda plan: plan.removed(role), _remove_node)
    return f"removed {', '.join(removed)}" if removed else NOTHING


_RELEASE: dict[Role, Callable[[Context, Node, clusters.Say, Check], None]] = {
    Role.SPARK_WORKER: clusters.stop_worker,
    Role.KAFKA: clusters.stop_broker,
    Role.CASSANDRA: clusters.decommission,
}


def _remove_node(context: Context, holder: str, node: Node, check: Check) -> None:
    say = _teller(context, holder, node.name)
    end_watch(context, node)
    _RELEASE[node.role](context, node, say, check)
    say(f"{node.name}: Terraform destroys it; its volume goes to the quarantine")
    provisioning.destroy_node(context, node, check)
    provisioning.forget_node(context, node)
    change_membership(context, lambda record: record.without(node.name))
    clear_flags(context, node.name)
    note(context, holder, f"{node.name} is removed")


def end_watch(context: Context, node: Node) -> None:
    """Pause the watch of the node and end its run, else it would find the node dead once it is stopped.

    It is started again if the edit of the fleet file is reverted. Raises StepFailed.
    """
    change_membership(context, lambda record: record.without_watch(node.name))
    ControlPlane(context.settings).airflow.end_dag(watch_dag_id(node.name))


def clean_up(context: Context, holder: str) -> str:
    """Let each Cassandra node drop the rows that moved to a new one; returns a sentence.

    Raises GuardRefused, StepFailed.
    """
    cleaned = []
    with hold_fleet(context, holder) as check:
        while read_plan(context).cleanup:
            if not (waiting := permission.await_permission(context, holder).cleanup):
                break
            name = waiting[0]
            note(context, holder, f"{name} drops the rows that moved to a new node (nodetool cleanup)")
            clusters.clean_up(context, context.fleet.node(name), check)
            change_membership(context, partial(Membership.with_cleanup_done, name=name))
            cleaned.append(name)
    return f"cleaned up {', '.join(cleaned)}" if cleaned else NOTHING


def settle(context: Context, holder: str) -> str:
    """Bring the new fleet file to every member, and prove the pipeline; returns a sentence.

    Raises GuardRefused, also if the steady state doesn't hold, StepFailed if the synthetic trade doesn't arrive.
    """
    with hold_fleet(context, holder):
        if not read_plan(context).settle:
            return NOTHING
        context = fresh(context)
        permission.await_permission(context, holder)
        release = provisioning.release_of_declared(context, ScalingPlan())
        note(
            context, holder, f"the members' files are written from release {release.short}, without a restart"
        )
        with hold_nodes(context, holder, context.fleet.nodes):
            provisioning.write_files(context, list(context.fleet.nodes), release)
        ControlPlane(context.settings).renew_collector()
        steady_state.await_steady(lambda: steady_state.observe_fleet(context))
        proof = steady_state.verify_synthetic_trade(context)
        context.store.mark_known_good(release.digest)
        change_membership(context, lambda record: replace(record, settle=False))
        for dag_id in (watch_dag_id(FLOW), *FORMS):
            ControlPlane(context.settings).airflow.parse_again(dag_id)
        note(context, holder, proof)
    return f"release {release.short} is known-good; {proof}"


def finish_scaling(context: Context, holder: str, *, dry_run: bool, refusal: str | None) -> ScalingResult:
    """End flags and lease in every outcome; returns how it ended. ``refusal``: why it ended before it began."""
    plan = read_plan(context)
    if dry_run:
        text = f"Dry run, nothing was changed. Plan: {plan}. {f'It would be refused now: {refusal}' if refusal else ''}"
        return ScalingResult(ScalingState.DRY_RUN, text.strip())
    clear_flags(context)
    for name in (ROLL_OUT, *context.fleet.nodes):  # those of nodes: a killed task may have left some
        context.store.give_back(name, holder)
    result = _conclude(context, holder, plan, refusal)
    end_progress(context.store, holder, result.state.value, result.text)
    return result


def _conclude(context: Context, holder: str, plan: ScalingPlan, refusal: str | None) -> ScalingResult:
    if refusal is not None:
        return ScalingResult(ScalingState.REFUSED, refusal)
    if plan:
        return ScalingResult(
            ScalingState.FAILED,
            f"The change is not finished. Left to do: {plan}. See the task that failed, remove the cause, and run "
            "`make scale-fleet` again: it goes on from there. To undo it, revert the edit of the fleet file first.",
        )
    counts = ", ".join(f"{len(context.fleet.of(role))} {role.value}" for role in SCALED_ROLES)
    return ScalingResult(ScalingState.DONE, f"The fleet is as the fleet file declares it: {counts}.")


def _teller(context: Context, holder: str, *nodes: str) -> Callable[[str], None]:
    return lambda message: note(context, holder, message, *nodes)
