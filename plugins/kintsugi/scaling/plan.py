"""The plan of a change of the fleet's size: which nodes to add and to remove, and why not. Pure.

The plan is always computed from what the fleet file declares and from what is there now. So a run that was killed at
any point is continued by the next run, and an edit that is reverted is undone by it:

1.  A declared node that is no member is added. It may be half made.
2.  A member, or a node that is joining, that is no longer declared is removed. It may be half removed.
3.  Nothing else about a node may differ: its role, address, port and zone can't change while it is there.

`size_violations` refuses a plan that would leave a role below what its data needs, whatever the servers say:

| role      | never fewer nodes than                                                                        |
|-----------|-----------------------------------------------------------------------------------------------|
| Kafka     | the largest replication factor of a topic, and three, so that a quorum outlives one broker     |
| Cassandra | the largest replication factor of a keyspace; and no fewer racks than that, if there were so many |
| Spark     | one master, and two workers, so that the stream goes on without one                            |
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from kintsugi.core.fleet import Fleet, Node, Role
from kintsugi.core.membership import Membership, moved_nodes

SCALED_ROLES = (Role.SPARK_WORKER, Role.KAFKA, Role.CASSANDRA)
"""The roles whose number can change, the least risky first."""
LEAST_NODES = {Role.SPARK_WORKER: 2, Role.KAFKA: 3, Role.CASSANDRA: 3}
ENVIRONMENT = "local"


@dataclass(frozen=True, slots=True)
class ScalingPlan:
    """The nodes to add and to remove, in the order of the fleet file, and what is left to do for earlier ones.

    ``cleanup``, ``unwatched``, ``spread``, ``settle``: see `kintsugi.core.membership.Membership`.
    """

    add: tuple[Node, ...] = ()
    remove: tuple[Node, ...] = ()
    cleanup: tuple[str, ...] = ()
    unwatched: tuple[str, ...] = ()
    spread: bool = False
    settle: bool = False

    def __bool__(self) -> bool:
        """Whether there is anything to do."""
        return any((self.add, self.remove, self.cleanup, self.unwatched, self.spread, self.settle))

    def added(self, role: Role) -> list[Node]:
        return [node for node in self.add if node.role is role]

    def removed(self, role: Role) -> list[Node]:
        return [node for node in self.remove if node.role is role]

    def __str__(self) -> str:
        parts = [f"add {_named(self.add)}"] if self.add else []
        parts += [f"remove {_named(self.remove)}"] if self.remove else []
        parts += ["spread Kafka's replicas"] if self.spread else []
        parts += [f"clean up {', '.join(self.cleanup)}"] if self.cleanup else []
        parts += [f"start the watch of {', '.join(self.unwatched)}"] if self.unwatched else []
        parts += ["write the members' files"] if self.settle else []
        return "; ".join(parts) or "the fleet has the nodes that the fleet file declares"


def _named(nodes: Sequence[Node]) -> str:
    return ", ".join(f"{node.name} ({node.address})" for node in nodes)


def plan_scaling(declared: Fleet, membership: Membership) -> ScalingPlan:
    """Return what to add and what to remove."""
    return ScalingPlan(
        add=tuple(node for node in declared if node.name not in membership.members),
        remove=tuple(node for name, node in membership.present.items() if name not in declared.nodes),
        cleanup=tuple(name for name in membership.cleanup if name in declared.nodes),
        unwatched=tuple(
            name for name in membership.unwatched if name in declared.nodes and name in membership.members
        ),
        spread=membership.spread,
        settle=membership.settle,
    )


def plan_violations(declared: Fleet, membership: Membership, plan: ScalingPlan) -> list[str]:
    """Return every reason against the plan that the fleet file itself gives, one sentence each."""
    reasons = []
    if declared.environment != ENVIRONMENT:
        reasons.append(f"Nodes are added and removed only in the environment {ENVIRONMENT}.")
    there = membership.present
    reasons += [
        f"{name} exists with another role, address, port or zone. Set it back, or give the new node another name. The "
        "zone of a Kafka or Spark node changes by a roll-out (deploy_release)."
        for name in moved_nodes(declared, membership)
    ]
    reasons += [
        f"{node.name} is a {node.role.value}: only the numbers of {', '.join(SCALED_ROLES)} can change."
        for node in (*plan.add, *plan.remove)
        if node.role not in SCALED_ROLES
    ]
    gone = {node.address: node.name for node in plan.remove}
    reasons += [
        f"{node.name} has the address of {gone[node.address]}, which is removed. Remove it in a run of its own first."
        for node in plan.add
        if node.address in gone
    ]
    indices = {(node.role, node.index): node.name for node in there.values()}
    reasons += [
        f"{node.name} has the number of {indices[node.role, node.index]}. Give it another one."
        for node in plan.add
        if indices.get((node.role, node.index), node.name) != node.name
    ]
    return reasons


def size_violations(plan: ScalingPlan, declared: Fleet, replication: Mapping[Role, int | None]) -> list[str]:
    """Return every reason why a role would have too few nodes, one sentence each.

    ``replication``: the largest replication factor of the role's data; None if it is unknown, which refuses.
    """
    reasons = []
    for role in SCALED_ROLES:
        if not plan.removed(role):
            continue
        remaining, least = declared.of(role), LEAST_NODES[role]
        if role is not Role.SPARK_WORKER:
            factor = replication.get(role)
            if factor is None:
                reasons.append(f"The replication factor of the data on {role.value} is unknown.")
                continue
            least = max(least, factor)
        if len(remaining) < least:
            reasons.append(
                f"{len(remaining)} nodes of {role.value} would remain, and at least {least} are needed."
            )
    return [*reasons, *_rack_violations(plan, declared, replication.get(Role.CASSANDRA))]


def _rack_violations(plan: ScalingPlan, declared: Fleet, factor: int | None) -> list[str]:
    """A rack may not vanish if each replica has a rack of its own: else one zone would hold two of three replicas."""
    remaining = {node.zone for node in declared.of(Role.CASSANDRA)}
    before = remaining | {node.zone for node in plan.removed(Role.CASSANDRA)}
    if factor is None or len(before) < factor or len(remaining) >= factor:
        return []
    return [
        f"Only {len(remaining)} zones of Cassandra would remain, and {factor} replicas are kept in {factor} zones."
    ]


@dataclass(frozen=True, slots=True)
class Space:
    """A file system with volumes of nodes. ``free``: bytes. ``incoming``: bytes that would move to them."""

    nodes: tuple[str, ...]
    free: int
    incoming: int


RESERVE = 2 * 2**30
"""Bytes that must stay free on each file system, for what arrives meanwhile."""


def space_violations(spaces: Collection[Space]) -> list[str]:
    """Return a sentence for each file system that has not enough space for what would move to it."""
    return [
        f"{', '.join(space.nodes)}: {space.incoming >> 20} MiB would arrive, and {space.free >> 20} MiB are free. "
        f"{RESERVE >> 20} MiB have to stay free."
        for space in spaces
        if space.free - space.incoming < RESERVE
    ]
