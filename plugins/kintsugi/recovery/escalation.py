"""Choose the next action for a failure mode. Pure; each decision has its reason as a sentence.

1.  Nothing is wrong → close without action. If a recovery of the node was begun and not finished → wait for the node,
    rejoin it and verify it. The node is starting, or only unreachable from here → wait and observe it again.
2.  A person requested an action → that action. If it fails, a person decides what comes next.
3.  Otherwise the escalation steps of the failure mode, the cheapest first. Each attempt in this incident uses up one
    step of its kind; the first step that is left is taken. After the last step Kintsugi pages. If a person then
    approves, the last action is tried once more:

    - process down, hung:  restart → rebuild the node on its volume → rebuild both → rebuild both
    - misconfigured:       restart → (roll back) → rebuild the node → rebuild both → rebuild both
    - host lost:           rebuild the node on its volume → once more → rebuild both → rebuild both
    - clock wrong:         restart → (roll back) → rebuild the node
    - disk lost or full, data damaged:  rebuild both → rebuild both

    A rebuild is tried twice, because the new node may also fail while it recovers. A full disk is replaced as a whole.
    Retention limits what a healthy node stores, so a full disk holds files that don't belong there, and Kintsugi does
    not guess which files it may delete. The guards check that the peers have the node's data.
4.  Steps that keep the volume are skipped if the volume is gone. For a lost host they are also skipped if the state
    of the volume is unknown.
5.  Roll back is a step only while the release is suspicious. Then it is also the last step of every other list.

So an incident has at most six attempts, also if the failure mode changes between them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kintsugi.core.fleet import Role
from kintsugi.core.incident import Action
from kintsugi.recovery.diagnosis import FailureMode

_RESTART, _NODE, _BOTH, _BACK = Action.RESTART, Action.REBUILD_NODE, Action.REBUILD, Action.ROLL_BACK

ESCALATION_STEPS: Mapping[FailureMode, tuple[Action, ...]] = {
    FailureMode.PROCESS_DOWN: (_RESTART, _NODE, _BOTH, _BOTH),
    FailureMode.HUNG: (_RESTART, _NODE, _BOTH, _BOTH),
    FailureMode.MISCONFIGURED: (_RESTART, _BACK, _NODE, _BOTH, _BOTH),
    FailureMode.HOST_LOST: (_NODE, _NODE, _BOTH, _BOTH),
    # A node that answers is never destroyed (guards.py). While it answers, a person is asked instead of the last step.
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
    """Return the next action for a node with this failure mode, after these attempts in the same incident.

    ``requested``: the action that a person requested, else ``AUTO``. ``volume_intact``: None if unknown.
    ``suspicious_release``: the node runs a release that isn't known-good. ``unfinished``: its data is not consistent
    yet after an earlier recovery. ``insisted``: no step is left, and a person wants the last action once more.
    """
    if requested is not Action.AUTO:
        return _requested_decision(requested, volume_intact)
    if verdict not in ESCALATION_STEPS:
        return _decide_without_steps(verdict, begun=bool(attempts) or unfinished)
    used = Counter(attempts)
    for step in _possible_steps(verdict, volume_intact, suspicious_release):
        if not used[step]:
            return Decision(step, _reason_for(step, verdict, role, volume_intact, attempts))
        used[step] -= 1
    if insisted and attempts:
        return Decision(attempts[-1], f"A person requested {attempts[-1].value} once more.")
    return Decision(
        Action.PAGE,
        f"No escalation step is left. Tried without success: {_list_actions(attempts)}. "
        "A person has to look at the node; see docs/runbooks/repair-refused.md.",
    )


def _decide_without_steps(verdict: FailureMode, *, begun: bool) -> Decision:
    """Decide for a failure mode without escalation steps. ``begun``: a recovery was begun and is not finished."""
    if verdict is FailureMode.STARTING:
        return Decision(
            Action.WAIT, "No action: the node is starting. It is left alone as long as it makes progress."
        )
    if verdict is FailureMode.PARTITIONED:
        return Decision(
            Action.WAIT,
            "No action: the node is unreachable from here, but nothing proves that it is down "
            "(possible network partition).",
        )
    if begun:
        return Decision(
            Action.WAIT,
            "The node answers, but its recovery is not finished. It is rejoined and verified.",
        )
    return Decision(Action.STAND_DOWN, "No action: nothing is wrong with the node.")


def _possible_steps(verdict: FailureMode, volume_intact: bool | None, suspicious: bool) -> list[Action]:
    steps = list(ESCALATION_STEPS[verdict])
    if volume_intact is False or (verdict is FailureMode.HOST_LOST and volume_intact is None):
        # The volume is gone or its state is unknown. A node on a lost volume would only fail later.
        steps = [step for step in steps if step is not Action.REBUILD_NODE]
    if not suspicious:
        return [step for step in steps if step is not Action.ROLL_BACK]
    return steps if Action.ROLL_BACK in steps else [*steps, Action.ROLL_BACK]


def _requested_decision(requested: Action, volume_intact: bool | None) -> Decision:
    if not requested.changes:
        return Decision(requested, f"A person requested {requested.value}.")
    if requested is Action.REBUILD_NODE and volume_intact is False:
        return Decision(
            Action.REBUILD,
            "A person requested a rebuild of the node. Its volume is gone, so the volume is rebuilt too.",
        )
    return Decision(requested, f"A person requested {requested.value}.")


def _reason_for(
    step: Action, verdict: FailureMode, role: Role, volume_intact: bool | None, attempts: Sequence[Action]
) -> str:
    what = {
        Action.RESTART: "Restart the service: its host is up.",
        Action.ROLL_BACK: "Roll back to the last known-good release: the release of the node is not known-good.",
        Action.REBUILD_NODE: f"Rebuild the {role.value} node and keep its volume.",
        Action.REBUILD: (
            f"Rebuild the {role.value} node and its volume: {_reason_for_new_volume(verdict, volume_intact)}."
        ),
    }[step]
    before = f" Tried before: {_list_actions(attempts)}." if attempts else ""
    return f"{what}{before} (Failure mode: {verdict.value}.)"


def _reason_for_new_volume(verdict: FailureMode, volume_intact: bool | None) -> str:
    if verdict is FailureMode.DISK_FULL:
        return "the old volume is full"
    if verdict is FailureMode.DATA_DAMAGED:
        return "the data on the old volume can't be read"
    if volume_intact is None:
        return "it is unknown whether the old volume is intact"
    return "a rebuild on the old volume failed" if volume_intact else "the old volume is gone"


def _list_actions(attempts: Sequence[Action]) -> str:
    return ", ".join(action.value for action in attempts) or "nothing"
