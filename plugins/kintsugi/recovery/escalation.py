"""From what is wrong with a node to what is done about it: pure, with a sentence as the reason.

1.  Nothing wrong → stand down; but where a repair of the node was begun and not finished → wait for it, rejoin it and
    prove it. Starting, or partitioned from us only → wait and look again.
2.  A person asked for an action → that one; what to do after it failed is for a person to say.
3.  Otherwise the ladder of the verdict, cheapest rung first. Each attempt made in this incident uses up one
    rung of its kind; the first rung that is left is climbed. Above the last one a human is paged, and a person who
    approves gets the last action once more:

    - process down, hung:  restart → rebuild the node on its volume → rebuild both → rebuild both
    - misconfigured:       restart → (roll back) → rebuild the node → rebuild both → rebuild both
    - host lost:           rebuild the node on its volume → once more → rebuild both → rebuild both
    - clock wrong:         restart → (roll back) → rebuild the node
    - disk lost or full, data damaged:  rebuild both → rebuild both

    Rebuilding comes twice, because the new node may die too, while it recovers. A full disk is given up as a whole:
    retention bounds what a healthy node keeps, so something is on it that doesn't belong, and nothing on a server may
    be deleted by guesswork. The peers have its data, and the guards see to that.
4.  Rungs that keep the volume are left out where it is gone, and for a lost host where nobody knows.
5.  Rolling back is a rung only while the release is suspicious; then it also ends every other ladder.

So an incident has at most six attempts, and no verdict that changes to and fro can make it more.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kintsugi.core.fleet import Role
from kintsugi.core.incident import Action
from kintsugi.recovery.diagnosis import FailureMode

_RESTART, _NODE, _BOTH, _BACK = Action.RESTART, Action.REBUILD_NODE, Action.REBUILD, Action.ROLL_BACK

LADDERS: Mapping[FailureMode, tuple[Action, ...]] = {
    FailureMode.PROCESS_DOWN: (_RESTART, _NODE, _BOTH, _BOTH),
    FailureMode.HUNG: (_RESTART, _NODE, _BOTH, _BOTH),
    FailureMode.MISCONFIGURED: (_RESTART, _BACK, _NODE, _BOTH, _BOTH),
    FailureMode.HOST_LOST: (_NODE, _NODE, _BOTH, _BOTH),
    # A node that answers is never destroyed (guards.py), so as long as it does, the last rung asks a person.
    FailureMode.CLOCK_WRONG: (_RESTART, _BACK, _NODE),
    FailureMode.DISK_LOST: (_BOTH, _BOTH),
    FailureMode.DISK_FULL: (_BOTH, _BOTH),
    FailureMode.DATA_DAMAGED: (_BOTH, _BOTH),
}

MOST_ATTEMPTS = 6


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do next, and why."""

    action: Action
    reason: str


def decide_action(
    verdict: FailureMode,
    attempts: Sequence[Action],
    *,
    role: Role,
    requested: Action = Action.AUTO,
    volume_intact: bool | None = None,
    suspicious_release: bool = False,
    unfinished: bool = False,
    insisted: bool = False,
) -> Decision:
    """The next action for a node with this verdict, after these attempts in the same incident.

    ``requested``: what a person asked for by hand, else ``AUTO``. ``volume_intact``: None when unknown.
    ``suspicious_release``: the node runs a release that isn't known-good. ``unfinished``: its data isn't whole again
    since an earlier repair. ``insisted``: a person was told that nothing is left to try, and wants it tried again.
    """
    if requested is not Action.AUTO:
        return _by_hand(requested, volume_intact)
    if verdict not in LADDERS:
        return _untouched(verdict, begun=bool(attempts) or unfinished)
    used = Counter(attempts)
    for rung in _ladder(verdict, volume_intact, suspicious_release):
        if not used[rung]:
            return Decision(rung, _reason(rung, verdict, role, volume_intact, attempts))
        used[rung] -= 1
    if insisted and attempts:
        return Decision(attempts[-1], f"A person asked for {attempts[-1].value} once more.")
    return Decision(
        Action.PAGE,
        f"Tried without success: {_said(attempts)}. A person has to look; see docs/runbooks/repair-refused.md.",
    )


def _untouched(verdict: FailureMode, *, begun: bool) -> Decision:
    """What is done about a node that isn't to be touched; ``begun``: a repair of it was, and isn't finished."""
    if verdict is FailureMode.STARTING:
        return Decision(Action.WAIT, "The node is on its way up; it is left alone while it advances.")
    if verdict is FailureMode.PARTITIONED:
        return Decision(
            Action.WAIT,
            "The node may be well and only out of our sight; nothing is touched on silence alone.",
        )
    if begun:
        return Decision(
            Action.WAIT, "The node answers, but its repair isn't finished: it is rejoined and proven."
        )
    return Decision(Action.STAND_DOWN, "Nothing is wrong with the node.")


def _ladder(verdict: FailureMode, volume_intact: bool | None, suspicious: bool) -> list[Action]:
    rungs = list(LADDERS[verdict])
    if volume_intact is False or (verdict is FailureMode.HOST_LOST and volume_intact is None):
        # Nothing to keep, or nobody knows: a node on a lost volume would only fail later.
        rungs = [rung for rung in rungs if rung is not Action.REBUILD_NODE]
    if not suspicious:
        return [rung for rung in rungs if rung is not Action.ROLL_BACK]
    return rungs if Action.ROLL_BACK in rungs else [*rungs, Action.ROLL_BACK]


def _by_hand(requested: Action, volume_intact: bool | None) -> Decision:
    if not requested.changes:
        return Decision(requested, "As asked for by hand.")
    if requested is Action.REBUILD_NODE and volume_intact is False:
        return Decision(
            Action.REBUILD,
            "Asked for by hand to rebuild the node; its volume is gone, so that is rebuilt too.",
        )
    return Decision(requested, f"{requested.value} was asked for by hand.")


def _reason(
    rung: Action, verdict: FailureMode, role: Role, volume_intact: bool | None, attempts: Sequence[Action]
) -> str:
    what = {
        Action.RESTART: "The host is there, so the service is started again where it is.",
        Action.ROLL_BACK: "The release isn't known-good, so it is suspect: back to the last that is.",
        Action.REBUILD_NODE: f"A new {role.value} node on the volume it had.",
        Action.REBUILD: f"A new {role.value} node and a new volume: {_why_new(verdict, volume_intact)}.",
    }[rung]
    before = f" Tried before: {_said(attempts)}." if attempts else ""
    return f"{what}{before} (Verdict: {verdict.value}.)"


def _why_new(verdict: FailureMode, volume_intact: bool | None) -> str:
    if verdict is FailureMode.DISK_FULL:
        return "the old one is full"
    if verdict is FailureMode.DATA_DAMAGED:
        return "what the old one holds can't be read"
    if volume_intact is None:
        return "whether the old one is intact is unknown"
    return "the old one didn't do" if volume_intact else "the old one is gone"


def _said(attempts: Sequence[Action]) -> str:
    return ", ".join(action.value for action in attempts) or "nothing"
