"""Run one or two scenarios of the fault matrix on the fleet, from the steady state to the reconciliation.

1. Wait for the steady state; evaluate the guards of chaos right before the fault (`kintsugi.chaos.guard`).
2. Inject the fault, registered with the janitor, hold it, undo it. The switch and the bystanders are checked meanwhile.
3. Wait until every victim serves again and no incident is open.
4. Compare the recovery with the designed outcome; ask the recorder for live kills and the outbox for pages.
5. Reconcile the trades that came in meanwhile.

Every scenario ends: each part has a deadline, and a failure becomes the outcome in the scenario's row.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from benchmarks.allowed_fault import allow_fault
from benchmarks.demo import live_feed
from benchmarks.harness import (
    await_steady_state,
    incidents_since,
    pages_since,
    tail_journal,
)
from benchmarks.kill_recorder import MOST_BLIND_S, RunningRecorder
from benchmarks.live_kills import Announcement, Death
from benchmarks.scenario_report import (
    NOT_BEGUN,
    RECONCILE_DEADLINE_S,
    Row,
    Seen,
    empty_row,
    pages_about,
    row_of,
    summarize_incidents,
)
from benchmarks.scenarios import ExpectedPages, Scenario, victims_without_action
from kintsugi.chaos import guard
from kintsugi.chaos.injection import fault_in_force, hold_fault
from kintsugi.chaos.registry import FAULTS
from kintsugi.chaos.switch import ChaosStopped
from kintsugi.controlplane.control_plane import ControlPlane
from kintsugi.core.errors import GuardRefused, KintsugiError, StepFailed
from kintsugi.core.fleet import watch_dag_id
from kintsugi.core.incident import Incident, Outcome
from kintsugi.core.processes import wait_until
from kintsugi.db.store import StoreUnavailable
from kintsugi.operations import readiness
from kintsugi.operations.context import Context
from kintsugi.pipeline.reconcile.installation import reconcile_when_quiet
from kintsugi.pipeline.reconcile.summary import summarize_report
from kintsugi.recovery.guard_model import APPROVE

if TYPE_CHECKING:
    from rich.console import Console

FEED_ROWS = 1500  # every five seconds
WATCHED_S = 12.0  # how long a scenario without an action is observed
CALM_S = 3.0  # a scenario is over when nothing is open and all victims serve for so long
LONGEST_S = 1200.0  # a scenario that makes progress but does not end is ended too
MAKE_LONGEST_S = 240.0  # beyond the time that the fault is held
REPLAY_DEADLINE_S = 300.0
PAGE_DEADLINE_S = 120.0


@dataclass
class Run:
    """Scenarios that run at once, and what is known of them so far."""

    context: Context
    scenarios: Sequence[Scenario]
    console: Console
    recorder: RunningRecorder | None
    t0: datetime = field(default_factory=lambda: datetime.now(UTC))
    announcements: list[Announcement] = field(default_factory=list)
    troubles: list[str] = field(default_factory=list)

    @property
    def victims(self) -> list[str]:
        return [name for scenario in self.scenarios for name in scenario.nodes]

    def other_victims(self, scenario: Scenario) -> set[str]:
        """The victims of the scenarios that run at the same time."""
        return {name for one in self.scenarios if one is not scenario for name in one.nodes}

    def announce_kills(self, scenario: Scenario, names: Sequence[str]) -> None:
        """Record that the experiment is about to end processes of these nodes."""
        if FAULTS[scenario.fault].kills:
            at = datetime.now(UTC)
            self.announcements += [Announcement(name, at) for name in names]


def run_scenarios(
    context: Context, scenarios: Sequence[Scenario], console: Console, recorder: RunningRecorder | None
) -> list[Row]:
    """Run one scenario, or two at once, and return their rows; a wrong recovery becomes their outcome.

    Raises ChaosStopped when a person stops chaos; every fault is undone before that.
    """
    try:
        await_steady_state(context)
        for scenario in scenarios:
            allow_fault(context, scenario.fault, scenario.nodes, run="fault-matrix", waives=scenario.waives)
    except ChaosStopped:
        raise
    except (
        StepFailed,
        GuardRefused,
        StoreUnavailable,
    ) as failure:  # what an earlier scenario left may be over soon
        console.print(f"  [red]{failure}")
        return [{**empty_row(scenario), "outcome": f"{NOT_BEGUN}: {failure}"} for scenario in scenarios]
    run = Run(context, scenarios, console, recorder)
    with live_feed(context, rows=FEED_ROWS) as fed:
        healed = inject_and_recover(run, fed)
        ended_at = datetime.now(UTC)
    counted = reconciliation_report(run, fed)
    incidents = incidents_since(context, run.t0)
    pages = await_pages(run)
    deaths, blind = read_deaths(run, ended_at)
    rows = []
    for scenario in scenarios:
        others = run.other_victims(scenario)
        seen = Seen(
            incidents=[one for one in incidents if one.node not in others],
            healed=healed,
            counted=counted,
            pages=pages,
            deaths=None if deaths is None else [one for one in deaths if one.node not in others],
            announcements=run.announcements,
            troubles=[*([blind] if blind else []), *run.troubles],
        )
        rows.append(row_of(scenario, seen))
    return rows


def inject_and_recover(run: Run, fed: list[Any]) -> bool:
    """Inject every fault at once and wait for the end; whether all victims serve again with nothing open."""
    context = run.context
    run.t0 = datetime.now(UTC)
    for scenario in run.scenarios:
        for name in scenario.nodes:
            mode = FAULTS[scenario.fault].mode
            context.store.record_fault(
                name, kind=scenario.fault, t0=run.t0, run=f"fault-matrix {run.t0.isoformat()}", mode=mode
            )
    with tail_journal(context, run.t0, run.console):
        try:
            inject_all(run)
            healed = await_recovery(run)
            if healed and any(scenario.asks for scenario in run.scenarios):
                run.console.print(f"  the {len(fed)} files that came in meanwhile are replayed")
                keys = [key for key, _ in fed]
                ControlPlane(context.settings).airflow.replay({"keys": keys}, REPLAY_DEADLINE_S)
        except ChaosStopped:
            raise
        except (KintsugiError, OSError) as error:
            run.console.print(f"  [red]{error}")
            run.troubles.append(str(error))
            return False
    return healed


def inject_all(run: Run) -> None:
    """Inject, hold and undo the fault of every scenario, all at once; raises the first failure at the end."""
    failures: list[Exception] = []

    def inject_one(scenario: Scenario) -> None:
        try:
            inject_fault(run, scenario)
        except Exception as error:  # noqa: BLE001 - raised by the caller's thread
            failures.append(error)

    threads = [
        threading.Thread(target=inject_one, args=(scenario,), name=scenario.name, daemon=True)
        for scenario in run.scenarios
    ]
    for thread in threads:
        thread.start()
    for thread, scenario in zip(threads, run.scenarios, strict=True):
        thread.join(longest_s(scenario))
        if thread.is_alive():
            failures.append(
                StepFailed(
                    f"{scenario.name}: the fault was not injected and undone in {longest_s(scenario):.0f} s"
                )
            )
    stopped = [failure for failure in failures if isinstance(failure, ChaosStopped)]
    if failures:
        raise (stopped or failures)[0]


def hold_s(scenario: Scenario) -> float | None:
    """Return the seconds for which the scenario's fault is in force; None: until the victims have recovered."""
    return scenario.hold_s if scenario.hold_s is not None else FAULTS[scenario.fault].hold_s


def longest_s(scenario: Scenario) -> float:
    """Return the seconds after which the fault is given up, and undone by the janitor."""
    fault = FAULTS[scenario.fault]
    return (
        MAKE_LONGEST_S
        + (fault.hold_s or 0.0)
        + (LONGEST_S if fault.outlasts_repair or scenario.again else 0.0)
    )


def inject_fault(run: Run, scenario: Scenario) -> None:
    """Inject one fault and undo it. A fault without ``hold_s`` is undone when its scenario is over."""
    context, fault = run.context, FAULTS[scenario.fault]
    bystanders = guard.Bystanders(context, run.victims, run.t0)

    def announce_kills(names: Sequence[str]) -> None:
        run.announce_kills(scenario, names)

    def inject_again() -> None:
        announce_kills(scenario.nodes)
        fault.make(context, scenario.nodes)

    with fault_in_force(
        context, scenario.fault, scenario.nodes, longest_s=longest_s(scenario), announce=announce_kills
    ):
        if scenario.again:
            await_configure(run)
            inject_again()
        if (seconds := hold_s(scenario)) is not None:
            hold_fault(seconds, bystanders.check, again=inject_again, every_s=fault.every_s)
        elif fault.outlasts_repair:
            await_end(run, scenario)
        elif fault.take_back is not None and scenario.incident and not await_recovery(run, only=scenario):
            raise StepFailed(f"{scenario.name}: {' and '.join(scenario.nodes)} did not recover")


def await_recovery(run: Run, only: Scenario | None = None) -> bool:
    """Whether all victims (of the scenario ``only``) serve again with nothing open.

    A slow machine gets more time: the wait ends when no journal had a new entry for the scenarios' deadline, or after
    LONGEST_S. Raises ChaosStopped, or Aborted.
    """
    scenarios = run.scenarios if only is None else [only]
    deadline_s = max(scenario.deadline_s for scenario in scenarios)
    bystanders = guard.Bystanders(run.context, run.victims, run.t0)
    held = any(hold_s(scenario) is not None for scenario in scenarios)
    began = time.monotonic()
    until, noted, calm_since = began + deadline_s, 0, None
    while (now := time.monotonic()) < min(until, began + LONGEST_S):
        bystanders.check()
        if not store_answers(run):
            time.sleep(0.5)
            continue
        if asking := [name for scenario in scenarios if scenario.asks for name in scenario.nodes]:
            # A person who knows that the disks are gone approves.
            ControlPlane(run.context.settings).airflow.answer_all([*map(watch_dag_id, asking)], APPROVE)
        incidents = incidents_since(run.context, run.t0)
        if (entries := sum(len(one.entries) for one in incidents)) > noted:
            until, noted = now + deadline_s, entries
        watched_s = now - began if held else (datetime.now(UTC) - run.t0).total_seconds()
        calm = watched_s >= WATCHED_S and all(is_over(run, scenario, incidents) for scenario in scenarios)
        calm_since = (calm_since or now) if calm else None
        if calm_since is not None and now - calm_since >= CALM_S:
            return True
        time.sleep(0.5)
    return False


def store_answers(run: Run) -> bool:
    """Whether Postgres answers; it may be the victim, and comes back by itself."""
    try:
        run.context.store.read_faults(1)
    except StoreUnavailable:
        return False
    return True


def is_over(run: Run, scenario: Scenario, incidents: Sequence[Incident]) -> bool:
    """Whether nothing is open, every required action was done, and every victim is ready now.

    ``incidents``: those that began since the fault.
    """
    incidents = select_incidents(run, scenario, incidents)
    if any(one.closed_at is None for one in incidents):
        return False
    healed = {one.node for one in incidents if one.outcome is Outcome.HEALED}
    if victims_without_action(scenario, summarize_incidents(incidents)) or (
        scenario.must and not set(scenario.nodes) <= healed
    ):
        return (
            False  # the first incident may only be the restart by the init; the expected one is still to come
        )
    fleet = run.context.fleet
    return all(
        asyncio.run(readiness.readiness_gap(fleet, fleet.node(name), stream=True)) is None
        for name in scenario.nodes
    )


def select_incidents(run: Run, scenario: Scenario, incidents: Sequence[Incident]) -> list[Incident]:
    """Return the incidents of a scenario: of its victims and bystanders, not of the other scenario."""
    others = run.other_victims(scenario)
    return [one for one in incidents if one.node not in others]


def await_configure(run: Run, deadline_s: float = 120) -> None:
    """Wait until the recovery configures the new node; raises StepFailed at the deadline."""

    def is_configuring() -> bool:
        found = incidents_since(run.context, run.t0)
        return any(entry.step == "configure" for one in found for entry in one.entries)

    if not wait_until(is_configuring, deadline_s):
        raise StepFailed(f"no recovery configured a node within {deadline_s:.0f} s")


def await_end(run: Run, scenario: Scenario) -> None:
    """Wait until every incident of a fault that outlasts its recovery is closed."""

    def has_ended() -> bool:
        incidents = select_incidents(run, scenario, incidents_since(run.context, run.t0))
        return bool(incidents) and all(one.closed_at for one in incidents)

    if not wait_until(has_ended, scenario.deadline_s, pause=0.5):
        raise StepFailed(f"{scenario.name}: the recovery did not end while the fault was in force")


def reconciliation_report(run: Run, fed: Any) -> dict[str, Any]:
    """Return the reconciliation of the trades that came in meanwhile; empty when it fails."""
    try:
        return summarize_report(
            reconcile_when_quiet(run.context.settings, deadline_s=RECONCILE_DEADLINE_S, files=fed)
        )
    except (KintsugiError, OSError) as error:
        run.console.print(f"  [red]no reconciliation: {error}")
        return {}


def await_pages(run: Run) -> dict[str, str]:
    """Return every page since the fault; waits for required pages, because the watchdog collects them once a minute."""

    def has_required_pages() -> bool:
        pages = pages_since(run.context, run.t0)
        return all(
            pages_about(scenario, pages) for scenario in run.scenarios if scenario.pages is ExpectedPages.MUST
        )

    wait_until(has_required_pages, PAGE_DEADLINE_S, pause=1.0)
    return pages_since(run.context, run.t0)


def read_deaths(run: Run, ended_at: datetime) -> tuple[Sequence[Death] | None, str | None]:
    """Return the deaths since the fault, None without a recorder; and why they can't be relied on, or None."""
    if run.recorder is None:
        return None, None
    try:
        seen = run.recorder.read_period(run.t0, ended_at)
    except (StepFailed, OSError, ValueError) as failure:
        return None, str(failure)
    if seen.blind_s > MOST_BLIND_S:
        return seen.deaths, f"the recorder of live kills observed nothing for {seen.blind_s:.1f} s"
    return seen.deaths, None
