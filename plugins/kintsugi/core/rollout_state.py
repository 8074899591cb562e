"""The states of nodes in a roll-out, which the database stores and the roll-out's plan uses. No I/O."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class NodeState(StrEnum):
    """The state of a node in a roll-out."""

    WAITING = "waiting"
    TOUCHED = "touched"  # it is being updated (configured and restarted), or its task died meanwhile
    PROVEN = "proven"  # verified: it runs the release, and its probes passed
    FAILED = "failed"  # its probe failed
    RETURNED = "returned"  # rolled back to the earlier release and verified
    STUCK = "stuck"  # it could not be rolled back; recovery takes over


@dataclass(frozen=True, slots=True)
class NodeRollout:
    """One node of a roll-out. ``changes``: paths on the node that differ from the release; empty if nothing to do."""

    node: str
    changes: tuple[str, ...] = ()
    state: NodeState = NodeState.WAITING

    @property
    def was_touched(self) -> bool:
        """Whether its service was, or may have been, restarted for this release."""
        return bool(self.changes) and self.state is not NodeState.WAITING
