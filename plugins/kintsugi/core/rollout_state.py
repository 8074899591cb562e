"""Where the nodes of a roll-out are: what the store keeps and what the plan of a roll-out decides by. No I/O."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class NodeState(StrEnum):
    """Where a node is in a roll-out."""

    WAITING = "waiting"
    TOUCHED = "touched"  # being configured and restarted, or was when its task died
    PROVEN = "proven"  # it runs the release, and its probes held
    FAILED = "failed"  # the first bad probe
    RETURNED = "returned"  # back on the release that it had to return to, and proven there
    STUCK = "stuck"  # it didn't come back either; recovery's business now


@dataclass(frozen=True, slots=True)
class NodeRollout:
    """One node of a roll-out. ``changes``: paths on the node that differ from the release; empty: nothing to do."""

    node: str
    changes: tuple[str, ...] = ()
    state: NodeState = NodeState.WAITING

    @property
    def was_touched(self) -> bool:
        """Whether its service was, or may have been, restarted for this release."""
        return bool(self.changes) and self.state is not NodeState.WAITING
