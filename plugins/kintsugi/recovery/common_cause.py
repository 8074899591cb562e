"""Do several nodes suffer from one cause? Pure: from what was seen of the fleet to a cause that is not the node.

The rules, in order; the first that fits decides:

1.  **Starved**: the node's processes wait for the processor, or we ourselves did while the node was probed. Then its
    silence says nothing of the node. Nothing that still runs is killed.
2.  **Shared silence**: other nodes, which their platform does not know to be dead, fell silent within 15 s of this one
    (a storage stall, a network). Nothing that still runs is killed before 45 s have passed since the last of them
    fell silent. Of a longer silence the guards let one node of a role be killed at a time.

A node that its platform knows to be dead is no sign of a common cause: after a power cut all are dead, and all are
started together.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from kintsugi.core.fleet import Role

WINDOW = timedelta(seconds=15)
"""Nodes that fall silent together are noticed within this time: a hang is noticed 8 to 10 s after it began."""

HOLD = timedelta(seconds=45)
"""For so long a shared silence is taken for a stall that passes: twice the longest that was seen to pass (24 s)."""

RETRY = timedelta(seconds=5)


class Cause(StrEnum):
    """What several nodes have in common."""

    STARVED = "starved"  # of processor time: the node, or we who ask
    ROLE = "role"  # nodes of one role fell silent together
    FLEET = "fleet"  # nodes of several roles did


@dataclass(frozen=True, slots=True)
class OtherNode:
    """Another node of the fleet at this moment.

    ``running``: its platform's answer, None when unknown. ``silent_since``: UTC, None where it answers.
    """

    name: str
    role: Role
    answers: bool
    running: bool | None = None
    silent_since: datetime | None = None


@dataclass(frozen=True, slots=True)
class Starvation:
    """That processor time was missing: ``detail`` is a sentence, ``until`` (UTC) when to judge again."""

    detail: str
    until: datetime


@dataclass(frozen=True, slots=True)
class CommonCause:
    """A likely cause that is not the node alone. ``nodes``: who shares it, sorted; ``until``: when to judge again."""

    cause: Cause
    nodes: tuple[str, ...]
    until: datetime
    reason: str


def find_common_cause(
    node: str,
    role: Role,
    *,
    at: datetime,
    silent_since: datetime | None,
    others: Iterable[OtherNode],
    starvation: Starvation | None = None,
) -> CommonCause | None:
    """The common cause that is likely at ``at`` (UTC), or None. ``silent_since``: of this node, None when unknown."""
    if starvation is not None and at < starvation.until:
        return CommonCause(Cause.STARVED, (node,), starvation.until, starvation.detail)
    since = silent_since or at
    together = [
        other
        for other in others
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
    one_role = all(other.role is role for other in together)
    return CommonCause(
        Cause.ROLE if one_role else Cause.FLEET,
        nodes,
        until,
        f"{', '.join(nodes)} fell silent together and still run: the cause is probably none of them alone. "
        f"Nothing is killed for {(until - at).total_seconds():.0f} s more.",
    )
