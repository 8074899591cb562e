"""Decide whether a fault may be injected now. Evaluated right before it, with the guards of a recovery and more.

`check_guards` refuses, with every reason, unless

1. chaos is not stopped (`kintsugi.chaos.switch`) and no release is being rolled out;
2. the steady state holds: every node is ready, no incident is open, no repair is pending;
3. no victim is protected, and neither a victim nor the fleet is in maintenance;
4. every node is watched: its DAG is not paused and its sensor sends heartbeats, else the victim is not recovered;
5. the guards (`kintsugi.recovery.guards`) allow to stop each victim as it is now, and allow the repair that the fault
   makes necessary, with the facts as they will be after the fault.

A fact that is not known refuses. An experiment that needs a violation names its guard (``waives``).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from kintsugi.chaos import switch
from kintsugi.chaos.faults import Fault
from kintsugi.controlplane.control_plane import ControlPlane
from kintsugi.core.connections import store_dsn
from kintsugi.core.dag_ids import is_scaling
from kintsugi.core.errors import GuardRefused, KintsugiError, StepFailed
from kintsugi.core.fleet import Node, watch_dag_id
from kintsugi.core.incident import ATTEMPT, Action, RepairBudget, acted_on_others
from kintsugi.core.observation import ProbeResult
from kintsugi.db.heartbeats import Heartbeats
from kintsugi.db.store import StoreUnavailable
from kintsugi.notify.dead_mans_switch import SILENT
from kintsugi.operations.context import Context
from kintsugi.probes.protocols import silent_nodes
from kintsugi.recovery import guard_evaluation
from kintsugi.recovery.guard_facts import guard_facts
from kintsugi.recovery.guard_model import CassandraFacts, Guard, GuardFacts, KafkaFacts, Limits
from kintsugi.recovery.guards import evaluate_action
from kintsugi.releases.rollout_claim import ROLL_OUT
from kintsugi.releases.steady_state import observe_fleet

LOOK_EVERY_S = 3.0
GRACE_S = 20.0  # a shorter silence is a pause


class Aborted(StepFailed):
    """More failed than the fault explains; the fault was undone."""


def check_guards(
    context: Context, fault: Fault, names: Sequence[str], waives: Collection[Guard] = frozenset()
) -> None:
    """Raise GuardRefused, with every reason, unless this fault may be injected into these nodes now (about 10 s)."""
    switch.check_not_stopped(context.store)
    reasons = [
        *rollout_reasons(context),
        *steady_reasons(context),
        *protection_reasons(context, names),
        *watch_reasons(context),
        *guard_reasons(context, fault, names, waives),
    ]
    if reasons:
        raise GuardRefused(
            f"Chaos run refused ({fault.kind} on {', '.join(names)}): {' '.join(dict.fromkeys(reasons))}"
        )
    switch.check_not_stopped(context.store)  # the checks above took some time


def rollout_reasons(context: Context) -> list[str]:
    """The reason to refuse while a release is being rolled out or nodes are added or removed; empty otherwise."""
    lease = context.store.read_lease(ROLL_OUT)
    if lease is None:
        return []
    what = "Nodes are being added or removed" if is_scaling(lease.holder) else "A release is being rolled out"
    return [f"{what} ({lease.holder})."]


def steady_reasons(context: Context) -> list[str]:
    """Violations of the steady state: nodes that are not ready, open incidents, pending repairs."""
    seen = observe_fleet(context)
    return [
        *(f"{name}: {lacks}." for name, lacks in sorted(seen.nodes.items())),
        *(f"{one}." for one in seen.others),
    ]


def protection_reasons(context: Context, names: Iterable[str]) -> list[str]:
    """The reasons to refuse for victims that are protected or in maintenance."""
    reasons: list[str] = []
    for name in names:
        if context.fleet.node(name).protected:
            reasons.append(f"{name} is protected.")
        reasons += [f"{name} would not be recovered: {flag}" for flag in context.store.read_maintenance(name)]
    return reasons


def watch_reasons(context: Context) -> list[str]:
    """The reasons to refuse for unwatched nodes: a paused DAG, or a sensor without heartbeats."""
    try:
        beats, now = Heartbeats(store_dsn(context.settings)).last()
        dags = ControlPlane(context.settings).airflow.dags()
    except (KintsugiError, OSError) as error:
        return [f"It is not known whether the nodes are watched: {error}."]
    return unwatched_reasons(list(context.fleet.nodes), beats, now, dags)


def unwatched_reasons(
    names: Iterable[str], beats: Mapping[str, datetime], now: datetime, dags: Iterable[Mapping[str, Any]]
) -> list[str]:
    """A sentence for each node that would not be recovered. ``beats``: last heartbeat by node; all times UTC."""
    active = {str(dag["dag_id"]) for dag in dags if not dag["is_paused"]}
    reasons = []
    for name in names:
        if watch_dag_id(name) not in active:
            reasons.append(f"{watch_dag_id(name)} is paused or unknown to Airflow.")
        elif name not in beats or now - beats[name] > SILENT:
            reasons.append(f"The sensor of {watch_dag_id(name)} sends no heartbeat.")
    return reasons


def guard_reasons(
    context: Context, fault: Fault, names: Sequence[str], waives: Collection[Guard] = frozenset()
) -> list[str]:
    """The guards' reasons against stopping each victim now, and against the repair that it will need."""
    nodes = [context.fleet.node(name) for name in names]

    async def gather_facts() -> list[GuardFacts]:
        return await asyncio.gather(*(guard_facts(context.fleet, node, volume_intact=True) for node in nodes))

    allowed, reasons = guard_evaluation.limits_in_force(context), list[str]()
    for node, facts in zip(nodes, asyncio.run(gather_facts()), strict=True):
        known = facts.with_ledger(ledger_of(context, node))
        reasons += fault_violations(fault.cost, known, [one for one in nodes if one != node], allowed, waives)
    return reasons


def fault_violations(
    cost: Action,
    facts: GuardFacts,
    others: Sequence[Node],
    limits: Limits,
    waives: Collection[Guard] = frozenset(),
) -> list[str]:
    """The guards' reasons against a fault that needs a repair of ``cost``. ``others``: victims that fail with it."""
    together = facts_without_others(facts, others)
    now = evaluate_action(Action.RESTART, replace(together, planned=True), limits, approved=waives)
    if not cost.destroys:
        return list(now.reasons)
    then = evaluate_action(cost, facts_after_fault(together, limits), limits, approved=waives)
    return [*now.reasons, *then.reasons]


def facts_after_fault(facts: GuardFacts, limits: Limits) -> GuardFacts:
    """The facts as they will be after the fault: the node is silent, and its volume was intact until then."""
    silent_since = facts.at - limits.silence - timedelta(seconds=1)
    return replace(
        facts,
        service=ProbeResult.REFUSED,
        ssh=ProbeResult.REFUSED,
        running=False,
        observed_at=facts.at,
        last_seen_at=silent_since,
        volume_intact=True,
    )


def facts_without_others(facts: GuardFacts, others: Sequence[Node]) -> GuardFacts:
    """The facts as they will be when the other victims are down too."""
    peers = [node for node in others if node.role is facts.role]
    kafka, cassandra = facts.kafka, facts.cassandra
    if kafka is not None:
        kafka = _kafka_without(kafka, frozenset(node.index for node in peers))
    if cassandra is not None and cassandra.others_down is not None:
        cassandra = CassandraFacts(cassandra.replication, cassandra.others_down + len(peers))
    sick = None if facts.sick is None else facts.sick + len(others)
    return replace(facts, kafka=kafka, cassandra=cassandra, sick=sick)


def _kafka_without(kafka: KafkaFacts, gone: frozenset[int]) -> KafkaFacts:
    live = None if kafka.live is None else kafka.live - gone
    current = None if kafka.current is None else max(0, kafka.current - len(gone))
    return replace(kafka, live=live, current=current)


def ledger_of(context: Context, node: Node) -> RepairBudget:
    """The store's data on a node without an incident: maintenance, repairs of the last hour, pending repairs."""
    hour_ago = datetime.now(UTC) - timedelta(hours=1)
    repaired = [
        one.node
        for one in context.store.read_current_incidents(hour_ago)
        for entry in one.entries
        if entry.kind == ATTEMPT and entry.at > hour_ago
    ]
    pending = {name for name in context.store.pending_repairs() if _role_is(context, name, node)}
    return RepairBudget(
        maintenance=tuple(str(flag) for flag in context.store.read_maintenance(node.name)),
        repairs_of_node=repaired.count(node.name),
        repairs_of_fleet=len(repaired),
        pending=frozenset(pending - {node.name}),
    )


def _role_is(context: Context, name: str, node: Node) -> bool:
    known = context.fleet.nodes.get(name)
    return known is None or known.role is node.role


@dataclass
class Bystanders:
    """Watches the nodes that are not victims, and the switch, while the fault is active.

    ``check`` is cheap and may be called often. It raises ChaosStopped, or Aborted when a bystander has not answered for
    more than GRACE_S, or when a recovery acted on one.
    """

    context: Context
    victims: Collection[str]
    since: datetime
    _looked_s: float = field(default_factory=time.monotonic)
    _silent_since_s: dict[str, float] = field(default_factory=dict)

    def check(self) -> None:
        if time.monotonic() - self._looked_s < LOOK_EVERY_S:
            return
        self._look_at_the_store()
        silent = self._silent()
        self._looked_s = now = time.monotonic()
        self._silent_since_s = {name: self._silent_since_s.get(name, now) for name in silent}
        long = sorted(name for name, since in self._silent_since_s.items() if now - since > GRACE_S)
        if long:
            raise Aborted(
                f"{', '.join(long)} has not answered for {GRACE_S:.0f} s, which a fault on "
                f"{', '.join(self.victims)} does not explain"
            )

    def _look_at_the_store(self) -> None:
        try:
            switch.check_not_stopped(self.context.store)
            incidents = [
                one
                for one in self.context.store.read_current_incidents(self.since)
                if one.detected_at >= self.since
            ]
        except StoreUnavailable:
            return  # Postgres may be the victim
        if others := acted_on_others(incidents, self.victims):
            raise Aborted(
                f"{', '.join(others)} was repaired, which a fault on {', '.join(self.victims)} does not explain"
            )

    def _silent(self) -> list[str]:
        bystanders = [node for node in self.context.fleet if node.name not in self.victims]
        return asyncio.run(silent_nodes(bystanders))
