"""The second opinion on a node: observe it, diagnose it, and write the failure mode into the journal."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from kintsugi.core.errors import LeaseHeld
from kintsugi.core.fleet import Node, Role
from kintsugi.core.incident import Action, Incident, JournalEntry
from kintsugi.core.observation import Observation, ProbeResult, Symptom
from kintsugi.operations.context import LEASE_S, Context, FencedStep, RecoveryRef
from kintsugi.probes.observe import MARKS, gather_observation
from kintsugi.probes.protocols import probe_node
from kintsugi.recovery import data_loss
from kintsugi.recovery.diagnosis import FailureMode, diagnose_node
from kintsugi.recovery.fact_gathering import is_running

if TYPE_CHECKING:
    from kintsugi.db.leases import Lease
    from kintsugi.db.store import Store

# An injected fault counts as the cause of a failure that is noticed within this time after it.
FAULT_WINDOW = timedelta(minutes=2)
LEASE_POLL_S = 2.0

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ConfirmedFinding:
    """What ``confirm`` wrote into the journal: the failure mode, and what later steps need of the observation."""

    verdict: FailureMode
    requested: Action
    dry_run: bool
    volume_intact: bool | None
    last_seen_at: datetime | None
    watch_late_s: float
    first_failed_at: (
        datetime  # of the watch's last finding: the node may have answered since the incident was opened
    )
    silent: bool  # the watch got no answer at all, not even a refusal

    @classmethod
    def of(cls, incident: Incident, run: str | None = None) -> ConfirmedFinding:
        """Return the newest confirmation of the incident, or the newest one of ``run`` (the holder of a lease).

        A run that acts uses its own. A dry run in between must not turn an approved recovery into a dry run.
        """
        data = latest_entry(incident, "confirm", "verdict", run).data
        heard = data["heard_at"]
        return cls(
            verdict=FailureMode(data["verdict"]),
            requested=Action(data["requested"]),
            dry_run=data["dry_run"],
            volume_intact=data["volume_intact"],
            last_seen_at=datetime.fromisoformat(heard) if heard else None,
            # An older release wrote none of these.
            watch_late_s=data.get("watch_late_s", 0.0),
            first_failed_at=max(
                incident.first_failed_at, _time_or_first_failure(data.get("first_failed_at"), incident)
            ),
            silent=data.get("silent", False),
        )

    @property
    def planned(self) -> bool:
        """Whether a service that serves may be stopped: its clock is wrong, or a person requested it."""
        return self.verdict is FailureMode.CLOCK_WRONG or self.requested is not Action.AUTO


def _time_or_first_failure(text: str | None, incident: Incident) -> datetime:
    return datetime.fromisoformat(text) if text else incident.first_failed_at


def latest_entry(incident: Incident, step: str, field: str, run: str | None = None) -> JournalEntry:
    """Return the newest journal entry of ``step`` that has ``field``; raises KeyError if there is none.

    ``run``: only entries of this run count.
    """
    for entry in reversed(incident.entries):
        if entry.step == step and field in entry.data and run in (None, entry.data.get("run")):
            return entry
    raise KeyError(f"incident {incident.id} has no {step} entry with {field}")


def confirm_finding(
    context: Context,
    *,
    node: str,
    holder: str,
    finding: Mapping[str, Any] | None,
    requested: str,
    dry_run: bool,
    started_by: str | None = None,
    lease_wait_s: float = 0.0,
) -> RecoveryRef:
    """Take the lease, open or continue the incident, observe the node, and write the failure mode into the journal.

    ``started_by``: who started a recovery that no watch did; the journal names them.

    ``lease_wait_s``: how long to wait for the lease of another run, in seconds.

    Raises LeaseHeld if another run is recovering this node.
    """
    server = context.fleet.node(node)
    lease = _await_lease(context.store, node, holder, lease_wait_s)
    now = datetime.now(UTC)
    first_failed = datetime.fromisoformat(finding["first_failed_at"]) if finding else now
    detected = datetime.fromisoformat(finding["detected_at"]) if finding else now
    fault = context.store.last_fault(node, detected, after=first_failed - FAULT_WINDOW) if finding else None
    incident = context.store.open_incident(
        node,
        lease.token,
        role=server.role,
        holder=holder,
        first_failed_at=first_failed,
        detected_at=detected,
        t0=fault.t0 if fault else None,
    )
    ref = RecoveryRef(incident.id, node, holder)
    with context.step(ref, "confirm") as step:
        for line in finding["evidence"] if finding else ():
            step.note(line, finding=True)
        if finding is None and started_by:
            step.note(f"{started_by} started this recovery", started_by=started_by)
        silent = finding is not None and finding["symptom"] == Symptom.HUNG
        seen = observe_node(context, server)
        write_failure_mode(
            step,
            replace(seen, unanswered_since=first_failed if silent else None),
            requested=requested,
            dry_run=dry_run,
            watch_late_s=finding.get("late_s", 0.0) if finding else 0.0,
            first_failed_at=first_failed.isoformat(),
            silent=silent,
        )
        if server.role is Role.CASSANDRA and seen.service is ProbeResult.OK and not dry_run:
            data_loss.record_left_out(context, incident, step)
    return ref


def _await_lease(store: Store, node: str, holder: str, wait_s: float) -> Lease:
    """Take the lease, for which it waits up to ``wait_s`` seconds; raises the last LeaseHeld."""
    until = time.monotonic() + wait_s
    while True:
        try:
            return store.acquire_lease(node, holder, LEASE_S, fresh_token=True)
        except LeaseHeld:
            if time.monotonic() >= until:
                raise
        time.sleep(LEASE_POLL_S)


def observe_node(context: Context, node: Node) -> Observation:
    """Observe the node, its peers and its disk, and ask the platform. A peer may hear a node that is silent to us."""
    platform = context.platform()
    seen = asyncio.run(gather_observation(context.settings, node, is_running(platform, node.name)))
    if seen.volume_intact is None:
        # From outside only a missing disk is certain. Only the node itself can tell whether a disk is readable.
        return replace(seen, volume_intact=platform.volume_exists(node.name))
    if (
        seen.volume_intact is False
        and platform.volume_formatted(node.name, MARKS.get(node.role)) is not False
    ):
        # The disk holds data, but the node does not have it mounted. A new empty disk would lose that data.
        return replace(seen, volume_intact=None)
    return seen


def write_failure_mode(step: FencedStep, seen: Observation, **data: Any) -> None:
    diagnosis = diagnose_node(seen)
    step.note_as(
        "confirm",
        diagnosis.reason,
        verdict=diagnosis.verdict.value,
        run=step.ref.holder,
        volume_intact=seen.volume_intact,
        disk_free=seen.room and seen.room.free,
        clock_ahead_s=seen.clock_ahead_s,
        heard_at=seen.last_seen_at.isoformat() if seen.last_seen_at else None,
        service=seen.service.value,
        ssh=seen.ssh.value,
        init_state=seen.init_state,
        peers={peer: opinion.value for peer, opinion in seen.peers.items()},
        running=seen.running,
        **data,
    )


def close_without_action(context: Context, ref: RecoveryRef) -> str:
    """Close the run without action: nothing to do, or not yet. The watch observes the node again."""
    with context.step(ref, "stand_down") as step:
        confirmed = ConfirmedFinding.of(context.store.read_incident(ref.incident), ref.holder)
        sentence = f"no action on {ref.node} (failure mode: {confirmed.verdict.value})"
        step.note(sentence)
    return sentence


def is_responding(node: Node) -> bool:
    """Whether the node answers its own protocol now."""
    return asyncio.run(probe_node(node)).answer is ProbeResult.OK
