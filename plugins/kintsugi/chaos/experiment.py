"""One chaos experiment: check the steady state, pick a victim, evaluate the guards, kill it, wait for the recovery.

The injector is not the detector: it only kills, and records t0 (its own clock, just before the fault) in the store.
"""

from __future__ import annotations

import asyncio
import logging
import time
from datetime import UTC, datetime, timedelta
from typing import Any

from kintsugi.chaos import guard, switch
from kintsugi.chaos.registry import FAULTS
from kintsugi.chaos.victim_choice import pick_victims, seed_of
from kintsugi.core.errors import GuardRefused, StepFailed
from kintsugi.core.fleet import watch_dag_id
from kintsugi.core.incident import Incident, Outcome
from kintsugi.operations.context import Context
from kintsugi.probes.protocols import silent_nodes
from kintsugi.releases.rollout_claim import ROLL_OUT

NIGHT = timedelta(hours=1)

log = logging.getLogger(__name__)


def check_steady_state(context: Context) -> str:
    """A sentence when every node answers and no incident is open; raises GuardRefused with the reason otherwise."""
    if (lease := context.store.read_lease(ROLL_OUT)) is not None:
        raise GuardRefused(f"Chaos run refused: a release is being rolled out ({lease.holder})")
    open_now = [incident.id for incident in context.store.read_incidents(50, open_only=True)]
    if open_now:
        raise GuardRefused(f"Chaos run refused: incident {', '.join(open_now)} is still open")

    if silent := asyncio.run(silent_nodes(context.fleet)):
        raise GuardRefused(f"Chaos run refused: no answer from {', '.join(silent)}")
    return f"all {len(context.fleet.nodes)} nodes answer and no incident is open"


def night_is_over(run_type: str, due: datetime, now: datetime | None = None) -> str | None:
    """Why a scheduled run that was ``due`` (UTC) is too late; None for a run in time or by hand.

    When a DAG is unpaused, Airflow starts the last missed run at once.
    """
    late = (now or datetime.now(UTC)) - due
    if run_type != "scheduled" or late <= NIGHT:
        return None
    return f"this run was due at {due:%Y-%m-%d %H:%M} UTC; {late.total_seconds() / 3600:.0f} h later it is skipped"


def pick_victim(context: Context, seed: int | None, run: str) -> str:
    """The name of the node to break, never a protected one; raises GuardRefused when all are.

    Without a seed, the seed is made from the run's id. The seed is logged.
    """
    seed = seed_of(run) if seed is None else seed
    node = pick_victims(seed, [node for node in context.fleet if not node.protected])
    log.info("seed %d picks %s", seed, node.name)
    return node.name


def break_server(context: Context, name: str, *, run: str, lose_volume: bool) -> str:
    """Kill a node if the guards of chaos allow it now; returns t0, ISO 8601 UTC.

    Raises GuardRefused with every reason (`kintsugi.chaos.guard.check_guards`).
    """
    guard.check_guards(context, FAULTS[kind_of(lose_volume=lose_volume)], [name])
    return pull_plug(context, name, run=run, lose_volume=lose_volume)


def kind_of(*, lose_volume: bool) -> str:
    """The fault's name in the fault matrix."""
    return "volume_lost" if lose_volume else "power_off"


def pull_plug(context: Context, name: str, *, run: str, lose_volume: bool) -> str:
    """Kill the whole node, with its disk if asked; returns t0, ISO 8601 UTC. Raises ChaosStopped."""
    switch.check_not_stopped(context.store)
    node = context.fleet.node(name)
    kind = kind_of(lose_volume=lose_volume)
    t0 = datetime.now(UTC)
    context.store.record_fault(node.name, kind=kind, t0=t0, run=run, mode="reset")
    platform = context.platform()
    platform.power_off(node.name)
    if lose_volume:
        platform.lose_volume(node.name)
    log.info("killed %s at %s (%s)", node.name, t0.isoformat(), kind)
    return t0.isoformat()


def incident_since(context: Context, name: str, since: datetime) -> Incident | None:
    """The newest incident of the node that was detected after ``since`` (with one second of tolerance for clocks)."""
    for incident in context.store.read_incidents(node=name):
        if incident.detected_at >= since - timedelta(seconds=1):
            return incident
    return None


def wait_for_recovery(context: Context, name: str, t0: str, deadline_s: float) -> dict[str, Any]:
    """Wait for the end of the incident that the fault at ``t0`` caused; returns its figures in seconds.

    Raises StepFailed when the node did not recover within ``deadline_s``, ChaosStopped when a person stops chaos, and
    Aborted when more fails than the fault explains. Before the last two, the fault is undone as far as possible.
    """
    since, until = datetime.fromisoformat(t0), time.monotonic() + deadline_s
    bystanders = guard.Bystanders(context, [name], since)
    while time.monotonic() < until:
        try:
            bystanders.check()
        except (switch.ChaosStopped, guard.Aborted) as ended:
            log.warning("%s; %s", ended, undo_power_cut(context, name))
            raise
        incident = incident_since(context, name, since)
        if incident is not None and incident.closed_at is not None:
            if incident.outcome is not Outcome.HEALED:
                raise StepFailed(f"{incident.id} ended {incident.outcome}: {incident.reason}")
            return night_figures(incident)
        time.sleep(1)
    raise StepFailed(
        f"{name} did not recover within {deadline_s:.0f} s; look at {watch_dag_id(name)} in Airflow"
    )


def undo_power_cut(context: Context, name: str) -> str:
    """Power a node on, unless its disk is lost or its recovery has started; returns what was done, a sentence.

    A running recovery is left to finish: two processes that start one node would conflict.
    """
    platform = context.platform()
    if platform.running(name):
        return f"{name} runs already"
    if not platform.volume_exists(name):
        return f"the disk of {name} is lost, so only its recovery can rebuild it"
    if (
        context.store.read_incidents(1, node=name, open_only=True)
        or context.store.read_lease(name) is not None
    ):
        return f"the recovery of {name} has started and continues"
    platform.power_on(name)
    return f"{name} is powered on again"


def night_figures(incident: Incident) -> dict[str, Any]:
    """The figures of a repair for a report; times in seconds since t0."""
    return {
        "incident": incident.id,
        "node": incident.node,
        "role": incident.role.value,
        "detected_s": round(incident.detect_s, 1),
        "repaired_s": _rounded(incident.repair_s),
        "consistent_s": _rounded(incident.consistent_s),
        "phases": {phase.value: round(seconds, 1) for phase, seconds in incident.phases().items()},
        "attempts": [action.value for action in incident.attempts()],
    }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 1)
