"""Find a common cause of several silent nodes, such as a stall of the storage or the network. Pure.

The rules, in order; the first that fits decides:

1.  **Starved**: the node's processes waited for the processor, or the control plane did while it probed the node. Then
    the node's silence is no proof that it is down. Nothing that still runs is killed.
2.  **Shared silence**: other nodes became silent within 15 s of this one, and the platform does not say that they are
    dead (a storage stall, the network). Nothing that still runs is killed until 45 s after the last of them became
    silent. After that the guards allow one kill at a time in each role. If all of them are in one zone, the zone is
    named as the cause; of nodes that have one role as well, only if no other node of the zone answers.

Nodes that are dead according to the platform are no sign of a common cause. After a power cut all nodes are dead, and
all are started together.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from kintsugi.core.fleet import Role

WINDOW = timedelta(seconds=15)
"""Nodes that become silent together are noticed within this time: a hang is noticed 8 to 10 s after it began."""

HOLD = timedelta(seconds=45)
"""A shorter shared silence counts as a temporary stall. The longest stall that was seen to end took 24 s."""

RETRY = timedelta(seconds=5)


NAMED = 10
"""So many of the nodes are named in the sentence about them."""


class Cause(StrEnum):
    """What several nodes have in common."""

    STARVED = "starved"  # the node or the control plane lacks processor time
    ZONE = "zone"  # nodes of one zone became silent together
    ROLE = "role"  # nodes of one role did
    FLEET = "fleet"  # nodes of several roles and zones, or without a zone, did


@dataclass(frozen=True, slots=True)
class OtherNode:
    """Another node of the fleet now.

    ``running``: the platform's answer, None if unknown. ``silent_since``: UTC, None if it answers.
    ``zone``: None if the fleet file gives it none.
    """

    name: str
    role: Role
    answers: bool
    running: bool | None = None
    silent_since: datetime | None = None
    zone: str | None = None


@dataclass(frozen=True, slots=True)
class Starvation:
    """A lack of processor time. ``detail``: a sentence. ``until`` (UTC): when the guards are evaluated again."""

    detail: str
    until: datetime


@dataclass(frozen=True, slots=True)
class CommonCause:
    """A likely cause outside the node.

    ``nodes``: those that share it, sorted. ``until`` (UTC): when to evaluate again. ``zone``: set if it is the cause.
    """

    cause: Cause
    nodes: tuple[str, ...]
    until: datetime
    reason: str
    zone: str | None = None


def find_common_cause(
    node: str,
    role: Role,
    *,
    at: datetime,
    silent_since: datetime | None,
    others: Iterable[OtherNode],
    starvation: Starvation | None = None,
    zone: str | None = None,
) -> CommonCause | None:
    """Return the likely common cause at ``at`` (UTC), or None.

    ``silent_since``: of this node, None if unknown. ``zone``: of this node, None if it has none.
    """
    if starvation is not None and at < starvation.until:
        return CommonCause(Cause.STARVED, (node,), starvation.until, starvation.detail)
    since, known = silent_since or at, tuple(others)
    together = [
        other
        for other in known
        if not other.answers
        and other.running is not False
        and other.silent_since is not None
        and abs(other.silent_since - since) <= WINDOW
    ]
    if not together:
        return None
    until = max(since, *(other.silent_since for other in together if other.silent_since)) + HOLD
    if at >= until:
        return None
    nodes = tuple(sorted([node, *(other.name for other in together)]))
    cause, shared_zone = _shared_part(role, zone, together, known)
    return CommonCause(
        cause,
        nodes,
        until,
        f"{_list_nodes(nodes)} became silent together and still run. {_probable_cause(shared_zone)} "
        f"Nothing is killed for another {(until - at).total_seconds():.0f} s.",
        shared_zone,
    )


def _list_nodes(nodes: Sequence[str]) -> str:
    """Name the first nodes, and count the rest: of a large fleet hundreds may share a cause."""
    rest = len(nodes) - NAMED
    return ", ".join(nodes) if rest <= 1 else f"{', '.join(nodes[:NAMED])} and {rest} more nodes"


def _shared_part(
    role: Role, zone: str | None, together: Sequence[OtherNode], others: Sequence[OtherNode]
) -> tuple[Cause, str | None]:
    """Return what this node and the nodes ``together`` with it share, and the zone if it is that.

    Nodes that share both may have failed for either reason: for the role's if another node of the zone answers.
    """
    one_role = all(other.role is role for other in together)
    one_zone = zone is not None and all(other.zone == zone for other in together)
    zone_answers = any(other.answers for other in others if other.zone == zone)
    if one_zone and not (one_role and zone_answers):
        return Cause.ZONE, zone
    return Cause.ROLE if one_role else Cause.FLEET, None


def _probable_cause(zone: str | None) -> str:
    if zone is None:
        return "They probably share a cause, such as storage or network."
    return f"All of them are in zone {zone}, which probably failed as a whole: its power, network or storage."
