"""Decide whether a node that serves may be drained and replaced now.

It is asked before anything is touched, and again right before the service is stopped. The reasons to refuse:

1. a release is rolled out, or an injected fault is in force;
2. another node is not ready, another incident is open (a recovery, a replacement), a data repair is pending;
3. the node itself is not ready: that is a case for a recovery;
4. a watch is paused or silent: nobody would take over if the replacement failed;
5. another replica of one of its Kafka partitions is out of sync;
6. the guards of a recovery (`kintsugi.recovery.guards`) refuse to stop it now, or to rebuild it on an empty volume
   afterwards. A replacement that keeps the volume is judged in the same way.

A fact that is not known refuses. Whether a protected node was approved is not asked here (`steps`).
"""

from __future__ import annotations

import asyncio
from dataclasses import replace

from kintsugi.chaos.guard import fault_violations, ledger_of, rollout_reasons, watch_reasons
from kintsugi.chaos.janitor import fault_records
from kintsugi.core.fleet import Node, Role
from kintsugi.core.incident import Action, RepairBudget
from kintsugi.operations.context import Context
from kintsugi.operations.readiness import readiness_gap, stream_should_run
from kintsugi.recovery.guard_evaluation import limits_in_force
from kintsugi.recovery.guard_facts import guard_facts
from kintsugi.recovery.guard_model import Guard
from kintsugi.releases.steady_state import observe_fleet
from kintsugi.replacement.leaderships import describe_partitions_of, out_of_sync_without


def refusal_reasons(
    context: Context, node: Node, holder: str, budget: RepairBudget | None = None
) -> list[str]:
    """Return every reason against the replacement, one sentence each; empty if it is allowed (takes about 10 s).

    ``holder``: the run that asks; its own incident and flag are no reason. ``budget``: the database's facts of its
    incident; None before there is one.
    """
    reasons = [
        *rollout_reasons(context),
        *fault_reasons(context),
        *fleet_reasons(context, node, holder),
        *watch_reasons(context),
        *replica_reasons(context, node),
        *guard_reasons(context, node, budget or _budget_without_incident(context, node, holder)),
    ]
    return list(dict.fromkeys(reasons))


def fault_reasons(context: Context) -> list[str]:
    """The reasons to refuse while injected faults are in force."""
    return [
        f"An injected fault is in force ({record.kind} on {', '.join(record.nodes)}). `make chaos-stop` undoes it."
        for record in fault_records(context.settings)
    ]


def fleet_reasons(context: Context, node: Node, holder: str) -> list[str]:
    """Violations of the steady state, by the node itself too; the incident of ``holder`` is none."""
    seen = observe_fleet(context, but=[node.name])
    reasons = [f"{name}: {lacks}." for name, lacks in sorted(seen.nodes.items())]
    reasons += [f"{one}." for one in seen.others]
    gap = asyncio.run(readiness_gap(context.fleet, node, stream_should_run(context.settings)))
    if gap is not None:
        reasons.append(f"{node.name} is not ready: {gap}. A node that fails is recovered, not replaced.")
    own = context.store.read_incidents(5, node=node.name, open_only=True)
    return reasons + [f"incident {incident.id} is open." for incident in own if incident.holder != holder]


def replica_reasons(context: Context, node: Node) -> list[str]:
    """The Kafka partitions of the node that would have too few replicas in sync without it."""
    if node.role is not Role.KAFKA:
        return []
    answers = asyncio.run(describe_partitions_of(context.fleet, node))
    if not answers:
        return [f"It is unknown which replicas of the partitions of {node.name} are in sync."]
    behind = out_of_sync_without(node.index, answers)
    more = f" and {len(behind) - 3} more" if len(behind) > 3 else ""
    return [f"Another replica of {', '.join(behind[:3])}{more} is out of sync."] if behind else []


def guard_reasons(context: Context, node: Node, budget: RepairBudget) -> list[str]:
    """The guards' reasons against the stop of the node now, and against its rebuild afterwards."""
    facts = asyncio.run(guard_facts(context.fleet, node, volume_intact=True))
    return fault_violations(
        Action.REBUILD, facts.with_ledger(budget), [], limits_in_force(context), waives={Guard.PROTECTED}
    )


def _budget_without_incident(context: Context, node: Node, holder: str) -> RepairBudget:
    flags = [flag for flag in context.store.read_maintenance(node.name) if flag.user != holder]
    return replace(ledger_of(context, node), maintenance=tuple(map(str, flags)))


def format_refusal(node: str, reasons: list[str]) -> str:
    """Format why a node is not replaced, and what to do. Pure."""
    return (
        f"{node} is not replaced, and nothing was changed. {' '.join(reasons)} "
        f"Remove the cause (`make status`), then run `make replace-node NODE={node}` again."
    )
