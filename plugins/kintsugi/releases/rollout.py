"""The plan of a roll-out: which node is next, when to stop, what to roll back. Pure.

1.  Nodes are updated one at a time, the role with the least risk first: workers, whose work the others take over;
    then Kafka and Cassandra, of which one node of three may be down; the Spark master last, because it runs the
    stream's driver.
2.  A node whose files the release doesn't change is not restarted. It is only recorded that it runs the release.
3.  A node is updated only after every node before it is verified. If a node was updated but not verified (its task
    was killed), it is updated again before anything else.
4.  After the first failed probe the roll-out is rolled back: first the node that failed, then every other updated
    node, the last one first. A release that fails on one node is trusted on no other.
5.  A node that can't be rolled back stops the roll-back too: two failed nodes of a role are an outage.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from kintsugi.core.fleet import Node, Role
from kintsugi.core.rollout_state import NodeRollout, NodeState

RISK = (Role.SPARK_WORKER, Role.KAFKA, Role.CASSANDRA, Role.SPARK_MASTER)
"""Roles in the order of a roll-out: the role that is least risky to restart comes first."""


class Move(StrEnum):
    """What to do next: update a node, only record its release, bake, roll a node back, or stop."""

    UPDATE = "update"
    RECORD = "record"
    BAKE = "bake"
    ROLL_BACK = "roll_back"
    STOP = "stop"


@dataclass(frozen=True, slots=True)
class Next:
    """The next move and why. ``node``: None for moves that concern the whole fleet."""

    move: Move
    node: str | None
    reason: str


def update_order(nodes: Iterable[Node]) -> list[Node]:
    """Return the nodes in the order of a roll-out: by the risk of their role, then as in the fleet file."""
    return sorted(nodes, key=lambda node: RISK.index(node.role))


def next_move(steps: Sequence[NodeRollout], *, broken: bool = False) -> Next:
    """Return the next move. ``steps``: in the order of the roll-out. ``broken``: a probe of the whole fleet failed."""
    if broken or any(step.state is NodeState.FAILED for step in steps):
        return _way_back(steps)
    for step in steps:
        if step.state in (NodeState.RETURNED, NodeState.STUCK):
            return _way_back(steps)
        if step.state is NodeState.TOUCHED:
            return Next(Move.UPDATE, step.node, f"{step.node} was updated but not verified")
    for step in steps:
        if step.state is not NodeState.WAITING:
            continue
        if not step.changes:
            return Next(Move.RECORD, step.node, f"the release changes nothing on {step.node}")
        return Next(Move.UPDATE, step.node, f"{len(step.changes)} files of {step.node} change")
    return Next(Move.BAKE, None, "every node runs the release and is verified")


def _way_back(steps: Sequence[NodeRollout]) -> Next:
    stuck = [step.node for step in steps if step.state is NodeState.STUCK]
    if stuck:
        return Next(
            Move.STOP,
            None,
            f"{', '.join(stuck)} could not be rolled back; no other node is changed until it is recovered",
        )
    back = nodes_to_roll_back(steps)
    if back:
        return Next(Move.ROLL_BACK, back[0], f"{back[0]} was updated to a release that failed")
    return Next(Move.STOP, None, "no node runs the release any more")


def nodes_to_roll_back(steps: Sequence[NodeRollout]) -> list[str]:
    """Return the nodes that still have to be rolled back: the failed one first, then the last updated first."""
    due = [step for step in reversed(steps) if step.was_touched and step.state is not NodeState.RETURNED]
    sick_first = sorted(due, key=lambda step: _URGENCY.get(step.state, len(_URGENCY)))
    return [step.node for step in sick_first]


_URGENCY = {NodeState.FAILED: 0, NodeState.TOUCHED: 1}


def updated_nodes(steps: Iterable[NodeRollout]) -> list[str]:
    """Return the nodes that were restarted for the release, in the order of the roll-out."""
    return [step.node for step in steps if step.was_touched]
