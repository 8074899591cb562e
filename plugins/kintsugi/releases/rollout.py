"""Which node next, when to stop, what to bring back: the plan of a roll-out, pure.

1.  Nodes go one at a time, the least risky role first: workers, whose work the others take over; then Kafka
    and Cassandra, of which one of three may be away; the Spark master last, because the stream's driver lives there.
2.  A node whose files the release doesn't change isn't touched; that it runs the release is only noted.
3.  A node is touched only when every node before it is proven. A touched node that nobody proved (its task was
    killed) is touched again before anything else.
4.  After the first bad probe there is only the way back: the node that failed, then every other that was touched,
    the last one first. All return, because a release that is bad on one broker isn't good on its neighbour.
5.  A node that doesn't come back stops the way back too: two sick nodes of a role are an outage.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from kintsugi.core.fleet import Node, Role
from kintsugi.core.rollout_state import NodeRollout, NodeState

RISK = (Role.SPARK_WORKER, Role.KAFKA, Role.CASSANDRA, Role.SPARK_MASTER)
"""Roles, the least risky to restart first."""


class Move(StrEnum):
    """What is to be done next."""

    TOUCH = "touch"
    NOTE = "note"
    HOLD = "hold"
    RETURN = "return"
    STOP = "stop"


@dataclass(frozen=True, slots=True)
class Next:
    """The next move and why; ``node`` None for moves that concern the whole fleet."""

    move: Move
    node: str | None
    reason: str


def order(nodes: Iterable[Node]) -> list[Node]:
    """The nodes in the order of a roll-out: by risk of their role, else as the fleet file has them."""
    return sorted(nodes, key=lambda node: RISK.index(node.role))


def next_move(steps: Sequence[NodeRollout], *, broken: bool = False) -> Next:
    """What to do now. ``steps`` in the order of the roll-out; ``broken``: a probe of the whole fleet was bad."""
    if broken or any(step.state is NodeState.FAILED for step in steps):
        return _way_back(steps)
    for step in steps:
        if step.state in (NodeState.RETURNED, NodeState.STUCK):
            return _way_back(steps)
        if step.state is NodeState.TOUCHED:
            return Next(Move.TOUCH, step.node, f"{step.node} was touched and nobody proved it")
    for step in steps:
        if step.state is not NodeState.WAITING:
            continue
        if not step.changes:
            return Next(Move.NOTE, step.node, f"the release changes nothing on {step.node}")
        return Next(Move.TOUCH, step.node, f"{len(step.changes)} files of {step.node} change")
    return Next(Move.HOLD, None, "every node runs the release and is proven")


def _way_back(steps: Sequence[NodeRollout]) -> Next:
    stuck = [step.node for step in steps if step.state is NodeState.STUCK]
    if stuck:
        return Next(
            Move.STOP,
            None,
            f"{', '.join(stuck)} didn't come back; nothing more is touched until it is healed",
        )
    back = nodes_to_roll_back(steps)
    if back:
        return Next(Move.RETURN, back[0], f"{back[0]} was touched by a release that isn't good")
    return Next(Move.STOP, None, "no node runs the release any more")


def nodes_to_roll_back(steps: Sequence[NodeRollout]) -> list[str]:
    """Names of the nodes that still have to go back: the one that failed first, then the last touched first."""
    due = [step for step in reversed(steps) if step.was_touched and step.state is not NodeState.RETURNED]
    sick_first = sorted(due, key=lambda step: _URGENCY.get(step.state, len(_URGENCY)))
    return [step.node for step in sick_first]


_URGENCY = {NodeState.FAILED: 0, NodeState.TOUCHED: 1}


def updated_nodes(steps: Iterable[NodeRollout]) -> list[str]:
    """Names of the nodes that were restarted for the release, in the order of the roll-out."""
    return [step.node for step in steps if step.was_touched]
