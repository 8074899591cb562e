"""What `make crash-test` kills at which step, and what an incident must look like after it. Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import cycle

from kintsugi.core.incident import Action, Incident, Outcome, acted_on_others

# The steps of a rebuild as the journal calls them, in their order; "record" is its last.
STEPS = (
    "confirm", "guard", "decide", "archive", "plan", "fence", "provision", "configure", "rejoin", "verify", "canary",
    "record",
)  # fmt: skip
# Stateless nodes come more often: their repair is the quickest.
NODES = ("spark-worker-1", "kafka-3", "spark-worker-2", "cassandra-3")


class Victim(StrEnum):
    """What is killed."""

    WORKER = "worker"  # every process that runs a task at that moment
    SCHEDULER = "scheduler"
    TRIGGERER = "triggerer"
    DAG_PROCESSOR = "dag-processor"
    AIRFLOW = "airflow"  # all four components and the tasks
    EVERYTHING = "everything"  # the control plane and every node, as when the power goes


COMPONENTS = (Victim.SCHEDULER, Victim.TRIGGERER, Victim.DAG_PROCESSOR)
AT_EVERY_STEP = (Victim.WORKER, Victim.AIRFLOW)
REBOOTS_AT = ("fence", "provision", "rejoin")


@dataclass(frozen=True, slots=True)
class Killing:
    """One experiment: ``node`` loses its power, and ``victim`` is killed when ``step`` has begun."""

    step: str
    victim: Victim
    node: str

    @property
    def name(self) -> str:
        """Its name on the screen and in the report."""
        return f"{self.victim.value} at {self.step} ({self.node})"


def plan_killings(
    *, steps: Collection[str] = STEPS, victims: Collection[Victim] = tuple(Victim), all_: bool = False
) -> list[Killing]:
    """Return the killings, step by step; ``all_``: every victim at every step.

    By default the worker and all of Airflow at every step, one other component in turn, and the reboot at REBOOTS_AT.
    """
    nodes, turns = cycle(NODES), cycle(COMPONENTS)
    found = []
    for step in STEPS:
        chosen = tuple(Victim) if all_ else (*AT_EVERY_STEP, next(turns))
        if not all_ and step in REBOOTS_AT:
            chosen = (*chosen, Victim.EVERYTHING)
        for victim in chosen:
            node = next(nodes)
            if step in steps and victim in victims:
                found.append(Killing(step, victim, node))
    return found


def judge_killing(killing: Killing, incidents: Sequence[Incident]) -> str | None:
    """Return why the incidents since the fault aren't as designed, None when they are.

    The victim has one incident, healed, with one rebuild. Another node has no incident with an action, except after a
    reboot, which every node notices.
    """
    own = [one for one in incidents if one.node == killing.node]
    healed = [one for one in own if one.outcome is Outcome.HEALED]
    if killing.victim is Victim.EVERYTHING:
        unhealed = [one.id for one in incidents if one.outcome not in (Outcome.HEALED, Outcome.FALSE_ALARM)]
        return f"not healed: {', '.join(unhealed)}" if unhealed else None
    if len(own) != 1 or not healed:
        ends = ", ".join(f"{one.id} {one.outcome}" for one in own) or "none"
        return f"{killing.node} should have one incident, healed; it has: {ends}"
    acts = [action for action in healed[0].attempts() if action.changes]
    if acts != [Action.REBUILD_NODE]:
        return f"{killing.node} should have been rebuilt once on its disk; it got: {', '.join(acts) or 'nothing'}"
    if others := acted_on_others(incidents, [killing.node]):
        return f"{', '.join(others)} was acted upon, though nothing was wrong with it"
    return None
