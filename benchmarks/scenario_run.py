"""Run one or two cells of the fault matrix on the running fleet, from the steady state to the account of the trades.

1. Wait for the steady state; ask the guards of chaos right before the fault is made (`kintsugi.chaos.guard`).
2. Make the fault under the janitor's eyes, hold it, take it back. The switch and the bystanders are watched meanwhile.
3. Wait until every victim serves again and no incident is open.
4. Compare what the recovery did with the designed outcome; ask the recorder for live kills, the outbox for pages.
5. Account for the trades that came in meanwhile.

Every cell ends: each part has a deadline, and whatever fails becomes the outcome in the cell's row.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from benchmarks.demo import live_feed
from benchmarks.harness import (
    await_allowed,
    await_steady_state,
    followed,
    incidents_since,
    pages_since,
)
from benchmarks.kill_recorder import MOST_BLIND_S, RunningRecorder
from benchmarks.live_kills import Announcement, Death
from benchmarks.scenario_report import (
    ACCOUNT_DEADLINE_S,
    NOT_BEGUN,
    Row,
    Seen,
    empty_row,
    pages_about,
    row_of,
    told_by,
)
from benchmarks.scenarios import Cell, Pages, owed
from kintsugi.chaos import guard
from kintsugi.chaos.injection import hold, in_force
from kintsugi.chaos.registry import FAULTS
from kintsugi.chaos.switch import ChaosStopped
from kintsugi.controlplane.control_plane import ControlPlane
from kintsugi.core.errors import KintsugiError, Refused, StepFailed
from kintsugi.core.fleet import watch_of
from kintsugi.core.incident import Incident, Outcome
from kintsugi.core.processes import wait_until
from kintsugi.db.store import StoreUnavailable
from kintsugi.operations import readiness
from kintsugi.operations.context import Runtime
from kintsugi.pipeline.reconcile import summary as account
from kintsugi.pipeline.reconcile.reconcile import reconcile_when_quiet
from kintsugi.recovery.guards import APPROVE

if TYPE_CHECKING:
    from rich.console import Console

FEED_ROWS = 1500  # every five seconds
WATCHED_S = 12.0  # how long a cell that should do nothing is watched
CALM_S = 3.0  # so long nothing is open and all victims serve, then a cell is over
LONGEST_S = 1200.0  # one that goes round in circles is ended too
MAKE_LONGEST_S = 240.0  # beyond the time that the fault is held
REPLAY_DEADLINE_S = 300.0
PAGE_DEADLINE_S = 120.0


@dataclass
class Run:
    """Cells that are made at once, and what is known of them so far."""

    doors: Runtime
    cells: Sequence[Cell]
    console: Console
    recorder: RunningRecorder | None
    t0: datetime = field(default_factory=lambda: datetime.now(UTC))
    announcements: list[Announcement] = field(default_factory=list)
    troubles: list[str] = field(default_factory=list)

    @property
    def victims(self) -> list[str]:
        return [name for cell in self.cells for name in cell.nodes]

    def others(self, cell: Cell) -> set[str]:
        """The victims of the cells that are made at the same time."""
        return {name for one in self.cells if one is not cell for name in one.nodes}

    def announce(self, cell: Cell, names: Sequence[str]) -> None:
        """Note that the experiment is about to end processes of these nodes."""
        if FAULTS[cell.fault].kills:
            at = datetime.now(UTC)
            self.announcements += [Announcement(name, at) for name in names]


def run_cells(
    doors: Runtime, cells: Sequence[Cell], console: Console, recorder: RunningRecorder | None
) -> list[Row]:
    """Run one cell, or two at once, to their rows; what the recovery does wrong is their outcome.

    Raises ChaosStopped when a person stops chaos; every fault has been taken back then.
    """
    try:
        await_steady_state(doors)
        for cell in cells:
            await_allowed(doors, cell.fault, cell.nodes, cell.waives)
    except ChaosStopped:
        raise
    except (
        StepFailed,
        Refused,
        StoreUnavailable,
    ) as failure:  # what an earlier cell left behind may be over soon
        console.print(f"  [red]{failure}")
        return [{**empty_row(cell), "outcome": f"{NOT_BEGUN}: {failure}"} for cell in cells]
    run = Run(doors, cells, console, recorder)
    with live_feed(doors, rows=FEED_ROWS) as fed:
        healed = make_and_heal(run, fed)
        ended_at = datetime.now(UTC)
    counted = taken_account(run, fed)
    incidents = incidents_since(doors, run.t0)
    pages = awaited_pages(run)
    deaths, blind = recorded(run, ended_at)
    rows = []
    for cell in cells:
        others = run.others(cell)
        seen = Seen(
            incidents=[one for one in incidents if one.node not in others],
            healed=healed,
            counted=counted,
            pages=pages,
            deaths=None if deaths is None else [one for one in deaths if one.node not in others],
            announcements=run.announcements,
            troubles=[*([blind] if blind else []), *run.troubles],
        )
        rows.append(row_of(cell, seen))
    return rows


def make_and_heal(run: Run, fed: list[Any]) -> bool:
    """Make every fault at once, and wait for the end; whether all victims serve again with nothing open."""
    doors = run.doors
    run.t0 = datetime.now(UTC)
    for cell in run.cells:
        for name in cell.nodes:
            mode = FAULTS[cell.fault].mode
            doors.store.record_fault(
                name, kind=cell.fault, t0=run.t0, run=f"fault-matrix {run.t0.isoformat()}", mode=mode
            )
    with followed(doors, run.t0, run.console):
        try:
            inject_all(run)
            healed = await_healing(run)
            if healed and any(cell.asks for cell in run.cells):
                run.console.print(f"  the {len(fed)} files that came in meanwhile are sent again")
                keys = [key for key, _ in fed]
                ControlPlane(doors.settings).airflow.replay({"keys": keys}, REPLAY_DEADLINE_S)
        except ChaosStopped:
            raise
        except (KintsugiError, OSError) as error:
            run.console.print(f"  [red]{error}")
            run.troubles.append(str(error))
            return False
    return healed


def inject_all(run: Run) -> None:
    """Make, hold and take back the fault of every cell, all at once; raises the first failure when all have ended."""
    failures: list[Exception] = []

    def one(cell: Cell) -> None:
        try:
            inject(run, cell)
        except Exception as error:  # noqa: BLE001 - raised by the caller's thread
            failures.append(error)

    threads = [threading.Thread(target=one, args=(cell,), name=cell.name, daemon=True) for cell in run.cells]
    for thread in threads:
        thread.start()
    for thread, cell in zip(threads, run.cells, strict=True):
        thread.join(longest_s(cell))
        if thread.is_alive():
            failures.append(
                StepFailed(f"{cell.name}: the fault wasn't made and taken back in {longest_s(cell):.0f} s")
            )
    stopped = [failure for failure in failures if isinstance(failure, ChaosStopped)]
    if failures:
        raise (stopped or failures)[0]


def hold_s(cell: Cell) -> float | None:
    """Seconds for which the cell's fault is in force; None: until the victims have recovered."""
    return cell.hold_s if cell.hold_s is not None else FAULTS[cell.fault].hold_s


def longest_s(cell: Cell) -> float:
    """Seconds after which a fault that isn't over is given up; its janitor takes it back then."""
    fault = FAULTS[cell.fault]
    return (
        MAKE_LONGEST_S + (fault.hold_s or 0.0) + (LONGEST_S if fault.outlasts_repair or cell.again else 0.0)
    )


def inject(run: Run, cell: Cell) -> None:
    """One fault from its making to its taking back. One without ``hold_s`` is taken back when its cell is over."""
    doors, fault = run.doors, FAULTS[cell.fault]
    bystanders = guard.Bystanders(doors, run.victims, run.t0)

    def announce(names: Sequence[str]) -> None:
        run.announce(cell, names)

    def again() -> None:
        announce(cell.nodes)
        fault.make(doors, cell.nodes)

    with in_force(doors, cell.fault, cell.nodes, longest_s=longest_s(cell), announce=announce):
        if cell.again:
            await_configure(run)
            again()
        if (seconds := hold_s(cell)) is not None:
            hold(seconds, bystanders.check, again=again, every_s=fault.every_s)
        elif fault.outlasts_repair:
            await_end(run, cell)
        elif fault.take_back is not None and cell.incident and not await_healing(run, only=cell):
            raise StepFailed(f"{cell.name}: {' and '.join(cell.nodes)} didn't recover")


def await_healing(run: Run, only: Cell | None = None) -> bool:
    """Whether all victims (of the cell ``only``) serve again with nothing open.

    A slow machine may take its time: it is given up when nothing new has stood in a journal for the cells' deadline,
    or after LONGEST_S. Raises ChaosStopped, or Aborted.
    """
    cells = run.cells if only is None else [only]
    deadline_s = max(cell.deadline_s for cell in cells)
    bystanders = guard.Bystanders(run.doors, run.victims, run.t0)
    held = any(hold_s(cell) is not None for cell in cells)
    began = time.monotonic()
    until, noted, calm_since = began + deadline_s, 0, None
    while (now := time.monotonic()) < min(until, began + LONGEST_S):
        bystanders.check()
        if not store_answers(run):
            time.sleep(0.5)
            continue
        if asking := [name for cell in cells if cell.asks for name in cell.nodes]:
            # As a person does who knows that the disks are gone.
            ControlPlane(run.doors.settings).airflow.answer_all([*map(watch_of, asking)], APPROVE)
        incidents = incidents_since(run.doors, run.t0)
        if (entries := sum(len(one.entries) for one in incidents)) > noted:
            until, noted = now + deadline_s, entries
        watched_s = now - began if held else (datetime.now(UTC) - run.t0).total_seconds()
        calm = watched_s >= WATCHED_S and all(is_over(run, cell, incidents) for cell in cells)
        calm_since = (calm_since or now) if calm else None
        if calm_since is not None and now - calm_since >= CALM_S:
            return True
        time.sleep(0.5)
    return False


def store_answers(run: Run) -> bool:
    """Whether Postgres answers; it may be what was killed, and comes back by itself."""
    try:
        run.doors.store.faults(1)
    except StoreUnavailable:
        return False
    return True


def is_over(run: Run, cell: Cell, incidents: Sequence[Incident]) -> bool:
    """Whether nothing is open, what must be done was done, and every victim is redundant at this moment.

    ``incidents``: those that began since the fault.
    """
    incidents = concerning(run, cell, incidents)
    if any(one.closed_at is None for one in incidents):
        return False
    healed = {one.node for one in incidents if one.outcome is Outcome.HEALED}
    if owed(cell, told_by(incidents)) or (cell.must and not set(cell.nodes) <= healed):
        return False  # the first incident may be but the fault's own restart; the one that matters is to come
    fleet = run.doors.fleet
    return all(
        asyncio.run(readiness.missing(fleet, fleet.node(name), stream=True)) is None for name in cell.nodes
    )


def concerning(run: Run, cell: Cell, incidents: Sequence[Incident]) -> list[Incident]:
    """The incidents that a cell answers for: those of its victims and of bystanders, not those of the other cell."""
    others = run.others(cell)
    return [one for one in incidents if one.node not in others]


def await_configure(run: Run, deadline_s: float = 120) -> None:
    """Wait until the recovery configures the new node; raises StepFailed at the deadline."""

    def configures() -> bool:
        found = incidents_since(run.doors, run.t0)
        return any(entry.step == "configure" for one in found for entry in one.entries)

    if not wait_until(configures, deadline_s):
        raise StepFailed(f"no recovery came so far as to configure within {deadline_s:.0f} s")


def await_end(run: Run, cell: Cell) -> None:
    """Wait until every incident of a fault that outlasts its repair is closed."""

    def ended() -> bool:
        incidents = concerning(run, cell, incidents_since(run.doors, run.t0))
        return bool(incidents) and all(one.closed_at for one in incidents)

    if not wait_until(ended, cell.deadline_s, pause=0.5):
        raise StepFailed(f"{cell.name}: the repair didn't end while the fault was in force")


def taken_account(run: Run, fed: Any) -> dict[str, Any]:
    """The account of the trades that came in meanwhile; empty when it can't be taken."""
    try:
        return account.summary(
            reconcile_when_quiet(run.doors.settings, deadline_s=ACCOUNT_DEADLINE_S, files=fed)
        )
    except (KintsugiError, OSError) as error:
        run.console.print(f"  [red]no account: {error}")
        return {}


def awaited_pages(run: Run) -> dict[str, str]:
    """Every page since the fault; one that must come is waited for, because the watchdog gathers them once a minute."""

    def complete() -> bool:
        pages = pages_since(run.doors, run.t0)
        return all(pages_about(cell, pages) for cell in run.cells if cell.pages is Pages.MUST)

    wait_until(complete, PAGE_DEADLINE_S, pause=1.0)
    return pages_since(run.doors, run.t0)


def recorded(run: Run, ended_at: datetime) -> tuple[Sequence[Death] | None, str | None]:
    """The deaths since the fault, None where nothing is recorded; and why they can't be relied on, or None."""
    if run.recorder is None:
        return None, None
    try:
        seen = run.recorder.between(run.t0, ended_at)
    except (StepFailed, OSError, ValueError) as failure:
        return None, str(failure)
    if seen.blind_s > MOST_BLIND_S:
        return seen.deaths, f"the recorder of live kills didn't look for {seen.blind_s:.1f} s"
    return seen.deaths, None
