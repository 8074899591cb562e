"""Decide whether nodes may be added or removed now.

It is asked before anything is touched, and again before each node is added, removed or cleaned up, before replicas
move, and before the members' files are written: the fleet file may have been edited again. The reasons to refuse:

1. the fleet file itself (`plan`), or a role that would be too small for its data;
2. the file systems of the remaining volumes have not enough space for what moves to them;
3. a release is rolled out by another run, or an injected fault is in force;
4. a node is not ready, an incident is open (a recovery, a replacement), or a data repair is pending. Nodes that leave
   are not asked: they may be stopped already. Nor are those whose removal was reverted: the run starts them;
5. a watch is paused or silent: nobody would take over if something failed.

A fact that is not known refuses.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from kintsugi.chaos.guard import unwatched_reasons
from kintsugi.controlplane.control_plane import ControlPlane
from kintsugi.core.connections import store_dsn
from kintsugi.core.errors import GuardRefused, KintsugiError, StepFailed
from kintsugi.core.fleet import Node, Role
from kintsugi.core.settings import KAFKA_PORT
from kintsugi.db.heartbeats import Heartbeats
from kintsugi.operations.context import Context
from kintsugi.probes.peers import ask_each, query_cassandra
from kintsugi.recovery.guard_facts import KEYSPACES
from kintsugi.releases.rollout_claim import ROLL_OUT
from kintsugi.releases.steady_state import observe_fleet
from kintsugi.replacement.permission import fault_reasons
from kintsugi.scaling.clusters import ring_status
from kintsugi.scaling.plan import ScalingPlan, Space, plan_violations, size_violations, space_violations
from kintsugi.scaling.state import read_plan, required_membership
from kintsugi.wire.kafka import read_partitions

WAIT_S = 300.0  # for a recovery that is under way, or the first heartbeat of a new watch
POLL_S = 3.0
MARGIN = 1.2  # of the bytes that move
COMPACTION = 2  # a compaction of Cassandra writes its tables once more

log = logging.getLogger(__name__)


def refusal_reasons(context: Context, holder: str) -> list[str]:
    """Return every reason against the change of the fleet now, one sentence each (takes about 10 s)."""
    plan = read_plan(context)
    reasons = _file_reasons(context, plan)
    if reasons or not plan:
        return reasons
    reasons += [*_size_reasons(context, plan)[0], *space_reasons(context, plan)]
    return list(dict.fromkeys([*reasons, *passing_reasons(context, holder, plan)]))


def passing_reasons(context: Context, holder: str, plan: ScalingPlan) -> list[str]:
    """The reasons that can go away by themselves: what happens in the fleet now."""
    leaving = [node.name for node in plan.remove]
    away = {*leaving, *plan.unwatched}
    staying = {name: node for name, node in context.fleet.nodes.items() if name not in away}
    seen = observe_fleet(replace(context, fleet=replace(context.fleet, nodes=staying)))
    lease = context.store.read_lease(ROLL_OUT)
    busy = lease is not None and lease.holder != holder
    return [
        *([f"Another run changes the fleet ({lease.holder})."] if lease is not None and busy else []),
        *fault_reasons(context),
        *(f"{name}: {lacks}." for name, lacks in sorted(seen.nodes.items())),
        *(f"{one}." for one in seen.others),
        *_watch_reasons(context, away),
    ]


def _watch_reasons(context: Context, unwatched: Collection[str]) -> list[str]:
    try:
        beats, now = Heartbeats(store_dsn(context.settings)).last()
        dags = ControlPlane(context.settings).airflow.dags()
    except (KintsugiError, OSError) as error:
        return [f"It is not known whether the nodes are watched: {error}."]
    return unwatched_reasons(
        [name for name in context.fleet.nodes if name not in unwatched], beats, now, dags
    )


def await_permission(context: Context, holder: str) -> ScalingPlan:
    """Wait up to WAIT_S until nothing is against the next change; returns the plan that may be carried out.

    Raises GuardRefused with every reason, at once for what the fleet file itself gives: that doesn't pass.
    """
    ends = time.monotonic() + WAIT_S
    while True:
        plan = read_plan(context)
        sizes, known = _size_reasons(context, plan)
        if lasting := [*_file_reasons(context, plan), *(sizes if known else [])]:
            raise GuardRefused(f"The change is stopped: {' '.join(lasting)}")
        reasons = [*sizes, *space_reasons(context, plan), *passing_reasons(context, holder, plan)]
        if not reasons:
            return plan
        log.info("waiting: %s", " ".join(reasons))
        if time.monotonic() > ends:
            raise GuardRefused(f"The change is stopped: {' '.join(reasons)}")
        time.sleep(POLL_S)


def _file_reasons(context: Context, plan: ScalingPlan) -> list[str]:
    reasons = plan_violations(context.settings.declared_fleet, required_membership(context), plan)
    return [*reasons, *_departed_reasons(context, plan)]


def _departed_reasons(context: Context, plan: ScalingPlan) -> list[str]:
    """The Cassandra nodes that are to stay after all, but have left the ring: such a node does not start again."""
    returning = [context.fleet.nodes[name] for name in plan.unwatched if name in context.fleet.nodes]
    return [
        f"{node.name} has left Cassandra's ring already. Delete its line again, run `make scale-fleet`, then add it."
        for node in returning
        if node.role is Role.CASSANDRA and asyncio.run(ring_status(context.fleet, node)) == "LEFT"
    ]


def _size_reasons(context: Context, plan: ScalingPlan) -> tuple[list[str], bool]:
    """Return the roles that would be too small, and whether that is known: it is not if nobody answers just now."""
    if not plan.remove:
        return [], True
    replication = asyncio.run(replication_of(context))
    return size_violations(
        plan, context.settings.declared_fleet, replication
    ), None not in replication.values()


async def replication_of(context: Context) -> dict[Role, int | None]:
    """Return the largest replication factor of topics and of keyspaces; None if nobody says."""
    topics, keyspaces = await asyncio.gather(
        ask_each(context.fleet.of(Role.KAFKA), KAFKA_PORT, read_partitions),
        asyncio.gather(*(query_cassandra(node, KEYSPACES) for node in context.fleet.of(Role.CASSANDRA))),
    )
    replicas = [len(one.assigned) for answer in topics.values() for one in answer.values()]
    factors = [
        factor for rows in keyspaces if not isinstance(rows, str) for factor in replication_factors(rows)
    ]
    return {Role.KAFKA: max(replicas, default=None), Role.CASSANDRA: max(factors, default=None)}


def replication_factors(rows: Sequence[Mapping[str, Any]]) -> list[int]:
    """Return the replication factors of our keyspaces and of the roles, from ``system_schema.keyspaces``. Pure."""
    return [
        int(str(factor).partition("/")[0])
        for row in rows
        if not str(row["keyspace_name"]).startswith("system") or row["keyspace_name"] == "system_auth"
        for key, factor in row["replication"].items()
        if key != "class"
    ]


def space_reasons(context: Context, plan: ScalingPlan) -> list[str]:
    """The file systems of the volumes that remain which have not enough space for what moves to them."""
    reasons = []
    for role, factor in ((Role.KAFKA, MARGIN), (Role.CASSANDRA, COMPACTION)):
        staying = [
            node for node in context.settings.declared_fleet.of(role) if node.name in context.fleet.nodes
        ]
        if not plan.added(role) and not plan.removed(role):
            continue
        try:
            incoming = sum(_used_bytes(context, node) for node in plan.removed(role) if _is_up(context, node))
            # A new node gets at most as much as the fullest one has; it is made on the same machine.
            fullest = max((_used_bytes(context, node) for node in staying), default=0)
            incoming += fullest * len(plan.added(role))
            systems = _file_systems(context, staying)
        except StepFailed as error:
            reasons.append(f"The space of the volumes of {role.value} is unknown: {error}.")
            continue
        reasons += space_violations(
            [Space(tuple(names), free, int(incoming * factor)) for names, free in systems.values()]
        )
    return reasons


def _is_up(context: Context, node: Node) -> bool:
    return context.platform().running(node.name)


def _used_bytes(context: Context, node: Node) -> int:
    data = context.settings.node_volume(node.name) / "data"
    return int(context.platform().run(node.name, ["du", "-sb", str(data)]).split()[0])


def _file_systems(context: Context, nodes: Sequence[Node]) -> dict[str, tuple[list[str], int]]:
    """Return the nodes and the free bytes of each file system with volumes, by its id."""
    systems: dict[str, tuple[list[str], int]] = {}
    for node in nodes:
        data = context.settings.node_volume(node.name) / "data"
        answer = context.platform().run(node.name, ["stat", "-f", "-c", "%i %a %S", str(data)]).split()
        names, _ = systems.setdefault(answer[0], ([], 0))
        systems[answer[0]] = ([*names, node.name], int(answer[1]) * int(answer[2]))
    return systems


def format_refusal(reasons: Sequence[str]) -> str:
    """Format why the fleet is not changed, and what to do. Pure."""
    return (
        f"The fleet is not changed. {' '.join(reasons)} Remove the cause (`make status`), or revert the edit of the "
        "fleet file, then run `make scale-fleet` again."
    )
