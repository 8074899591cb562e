"""A scenario of the fault matrix: which fault on which nodes, and what is expected of the recovery. Pure.

A scenario is passed when its victims serve again with no incident left open, the verdicts and actions in their
incidents are among the expected, no other node was acted upon, no live node was killed, a person was paged where that
is designed and nowhere else, and no trade is lost or doubled. The table is `benchmarks.fault_matrix`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from kintsugi.core.incident import Action
from kintsugi.recovery.diagnosis import FailureMode
from kintsugi.recovery.guard_model import Guard

_V, _A = FailureMode, Action
# An init that starts a killed service is often faster than the second observation.
BACK_BY_ITSELF = frozenset({_V.STARTING, _V.PROCESS_DOWN, _V.FALSE_ALARM})
DEAD = frozenset({_V.HOST_LOST})
REBUILT = frozenset({_A.REBUILD})
ON_ITS_DISK = frozenset({_A.REBUILD_NODE})


class ExpectedPages(StrEnum):
    """Whether a person is paged about a fault."""

    NONE = "none"
    MAY = "may"
    MUST = "must"


@dataclass(frozen=True, slots=True)
class Scenario:
    """One experiment.

    ``verdicts``, ``actions``: what the incidents of the victims may contain. ``must``: actions of which each victim's
    incident has at least one, unless empty. ``says``: words that each victim's journal must contain, unless empty.
    ``incident``: False when the fault must not be acted upon at all.
    ``asks``: most disks of the role are gone, so each recovery must ask a person, who approves and replays from S3.
    ``pages``: whether a person is paged about the victims. ``may_kill_serving``: the designed action ends a service
    that answers somebody. ``hold_s``: seconds for which the fault is in force, if not its usual time.
    ``waives``: the guards that the experiment itself violates on purpose.
    ``again``: the same node is hit once more while it recovers. ``deadline_s``: how long the journals may have no new
    entry before all victims serve again.
    """

    fault: str
    nodes: tuple[str, ...]
    verdicts: frozenset[FailureMode]
    actions: frozenset[Action] = frozenset()
    must: frozenset[Action] = frozenset()
    says: str = ""
    incident: bool = True
    asks: bool = False
    again: bool = False
    pages: ExpectedPages = ExpectedPages.NONE
    may_kill_serving: bool = False
    hold_s: float | None = None
    waives: frozenset[Guard] = frozenset()
    deadline_s: float = 240.0

    @property
    def name(self) -> str:
        """The scenario's name on the command line and in the report."""
        held = "" if self.hold_s is None else f"@{self.hold_s:g}s"
        return f"{self.fault}{'_twice' if self.again else ''}{held}:{'+'.join(self.nodes)}"


def build_for_each(
    fault: str, names: Iterable[str], verdicts: frozenset[FailureMode], **more: object
) -> list[Scenario]:
    return [Scenario(fault, (name,), verdicts, **more) for name in names]  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class IncidentContent:
    """What an incident contains: its node, its failure modes, its actions, its messages."""

    node: str
    verdicts: Sequence[str]
    actions: Sequence[str]
    words: str = ""


def judge_scenario(scenario: Scenario, incidents: Sequence[IncidentContent], healed: bool) -> str | None:
    """Return why the scenario isn't as designed, None when it is.

    ``incidents``: the content of each incident that began since the fault.
    """
    if not healed:
        return f"not healed; its journals stood still for {scenario.deadline_s:.0f} s, or went on for far too long"
    for one in incidents:
        if (why := _find_unexpected(scenario, one.node, set(one.verdicts), set(one.actions))) is not None:
            return why
    for node in victims_without_action(scenario, incidents):
        return f"{node} should have got {' or '.join(sorted(scenario.must))}"
    for node in scenario.nodes:
        if scenario.says and not any(scenario.says in one.words for one in incidents if one.node == node):
            return f"nothing in the journal of {node} says: {scenario.says}"
    return None


def victims_without_action(scenario: Scenario, incidents: Sequence[IncidentContent]) -> list[str]:
    """Return the victims without an action that they must have; ``incidents`` as for ``judge_scenario``."""
    if not scenario.must:
        return []
    had = {one.node for one in incidents if scenario.must & set(one.actions)}
    return [node for node in scenario.nodes if node not in had]


def _find_unexpected(scenario: Scenario, node: str, verdicts: set[str], actions: set[str]) -> str | None:
    """Return a failure mode or an action of the node that the scenario doesn't expect."""
    if actions and (node not in scenario.nodes or not scenario.incident):
        return f"{node} was acted upon ({', '.join(sorted(actions))}), though it should have been left alone"
    if node not in scenario.nodes:
        return None
    if strange := verdicts - scenario.verdicts - BACK_BY_ITSELF:
        return f"{node} was taken for {', '.join(sorted(strange))}"
    if strange := actions - scenario.actions:
        return f"{node} got {', '.join(sorted(strange))}"
    return None


def judge_pages(scenario: Scenario, pages: Collection[str]) -> str | None:
    """Return why pages aren't as designed, None when they are. ``pages``: titles of those about its victims."""
    if scenario.pages is ExpectedPages.MUST and not pages:
        return f"no person was paged about {', '.join(scenario.nodes)}"
    if scenario.pages is ExpectedPages.NONE and pages:
        return f"a person was paged: {'; '.join(sorted(pages))}"
    return None


def judge_kills(scenario: Scenario, killed: Collection[str]) -> str | None:
    """Return why the deaths aren't as designed, None when they are. ``killed``: nodes with a killed process."""
    if not scenario.incident and killed:
        return f"{', '.join(sorted(set(killed)))} was killed, though it should have been left alone"
    return None
