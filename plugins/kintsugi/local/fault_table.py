"""``make faults``: run the table of faults on the running fleet, one cell after another, with trades flowing.

Each cell begins in the steady state and ends with an account of the trades that came in meanwhile; the run ends with
that of all trades there are, whenever they came, and of what is added up from them. Results are written after each
cell: a run of the whole table that was killed goes on with the same command, and a cell named on the command line
replaces its own row.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kintsugi.chaos.cells import Cell, Told, judge, owed
from kintsugi.chaos.experiment import figures
from kintsugi.chaos.fault_matrix import CELLS, NOT_MADE
from kintsugi.chaos.registry import FAULTS
from kintsugi.errors import InputError, KintsugiError, StepFailed
from kintsugi.fleet import watch_of
from kintsugi.incident import Incident, Outcome
from kintsugi.local import account
from kintsugi.local.control_plane import ControlPlane
from kintsugi.local.demo import live_feed
from kintsugi.local.processes import wait_until
from kintsugi.local.series import (
    await_steady_state,
    followed,
    generous,
    incidents_since,
    known,
    machine,
    screen,
    set_going,
    write_report,
)
from kintsugi.recovery import redundant
from kintsugi.recovery.case import Runtime, runtime
from kintsugi.recovery.guards import APPROVE
from kintsugi.settings import Settings

if TYPE_CHECKING:
    from rich.console import Console

FEED_ROWS = 500  # every five seconds
WATCHED_S = 12.0  # how long a cell that should do nothing is watched
CALM_S = 3.0  # so long nothing is open and all victims serve, then a cell is over
LONGEST_S = 1200.0  # one that goes round in circles is ended too
ACCOUNT_DEADLINE_S = 150.0
WHOLE_ACCOUNT_DEADLINE_S = 900.0
REPLAY_DEADLINE_S = 300.0
NOT_BEGUN = "not begun"


def run(settings: Settings, *, cells: Sequence[str] = (), report: Path | None = None) -> int:
    """Run the named cells, or all; 0 when every one went as designed and nothing is lost or doubled."""
    from kintsugi.trades.reconcile import reconcile_when_quiet

    console = screen()
    report = report or settings.repository / "build" / "faults.json"
    chosen = chosen_cells(cells)
    doors = runtime()
    set_going(doors)
    before = known(report)
    rows, goes_on = kept(before, whole=not cells)
    left_out = unavailable(doors)
    chosen = [cell for cell in chosen if cell.fault not in left_out and not (goes_on and cell.name in rows)]
    if goes_on:
        console.print(
            f"goes on with the run that was ended: {len(rows)} cells are in {report}, {len(chosen)} are to come "
            "(to begin again, delete it)"
        )
    finished = bool(cells) and before.get("finished", True)  # a few cells don't make an ended run whole
    write(report, rows, left_out, finished=finished)
    with generous(doors):
        for number, cell in enumerate(chosen, start=1):
            console.rule(f"[bold]{number}/{len(chosen)} {cell.name}", align="left")
            console.print(f"  {', '.join(cell.nodes)}: {FAULTS[cell.fault].what}")
            rows[cell.name] = row = run_cell(doors, cell, console)
            write(report, rows, left_out, finished=finished)
            say(console, row)
    show(console, rows, left_out)
    counted = account.summary(reconcile_when_quiet(settings, deadline_s=WHOLE_ACCOUNT_DEADLINE_S))
    write(report, rows, left_out, counted, finished=finished or not cells)
    console.print(f"All trades: {account.said(counted)}; see {report}")
    as_designed = all(row["as_designed"] and not row["lost"] and not row["doubled"] for row in rows.values())
    return 0 if as_designed and not account.at_fault(counted) else 1


def kept(before: Mapping[str, Any], *, whole: bool) -> tuple[dict[str, dict[str, Any]], bool]:
    """The rows of the report ``before`` that stay, by cell, and whether a run of the whole table goes on from them.

    It goes on from one that was ended, but for cells that couldn't be begun, and else begins with none.
    """
    rows = {row["fault"]: row for row in before.get("cells", ())}
    if not whole:
        return rows, False
    if before.get("finished", True):
        return {}, False
    begun = {name: row for name, row in rows.items() if not row["outcome"].startswith(NOT_BEGUN)}
    return begun, bool(begun)


def chosen_cells(names: Sequence[str]) -> list[Cell]:
    """The cells of these names (a fault's name stands for all its cells), all without names; raises InputError."""
    known = {cell.name for cell in CELLS} | {cell.fault for cell in CELLS}
    for name in names:
        if name not in known:
            raise InputError(
                f"there is no cell {name!r} in the table of faults; there are: {', '.join(sorted(known))}"
            )
    return [cell for cell in CELLS if not names or cell.name in names or cell.fault in names]


def unavailable(doors: Runtime) -> dict[str, str]:
    """What isn't run, and why: faults that can't be made on this machine, and those that have no cell for a role."""
    reasons = {fault.kind: fault.unavailable(doors) for fault in FAULTS.values()}
    made_nowhere = {kind: why for kind, why in reasons.items() if why is not None}
    return made_nowhere | {f"{fault}:{role.value}": why for (fault, role), why in NOT_MADE.items()}


def run_cell(doors: Runtime, cell: Cell, console: Console) -> dict[str, Any]:
    """One experiment, from the steady state to the account; never raises for what the recovery did wrong."""
    from kintsugi.trades.reconcile import reconcile_when_quiet

    fault = FAULTS[cell.fault]
    counted: dict[str, Any] = {}
    try:
        await_steady_state(doors)
    except StepFailed as failure:  # what an earlier cell left behind; the next one may find it over
        console.print(f"  [red]{failure}")
        return row_of(cell, [], False, counted) | {"outcome": f"{NOT_BEGUN}: {failure}"}
    with live_feed(doors, rows=FEED_ROWS) as fed:
        t0 = datetime.now(UTC)
        for name in cell.nodes:
            doors.store.record_fault(
                name, kind=cell.fault, t0=t0, run=f"faults {t0.isoformat()}", mode=fault.mode
            )
        with followed(doors, t0, console):
            try:
                fault.make(doors, cell.nodes)
                if cell.again:
                    hit_again(doors, cell, t0)
                if fault.outlasts_repair:
                    await_end(doors, cell, t0)
                    take_back(doors, cell)
                healed = await_healing(doors, cell, t0)
                if healed and cell.asks:
                    console.print(f"  the {len(fed)} files that came in meanwhile are sent again")
                    keys = [key for key, _ in fed]
                    ControlPlane(doors.settings).airflow.replay({"keys": keys}, REPLAY_DEADLINE_S)
            except KintsugiError as error:
                console.print(f"  [red]{error}")
                healed = False
            finally:
                take_back(doors, cell)
    try:
        counted = account.summary(
            reconcile_when_quiet(doors.settings, deadline_s=ACCOUNT_DEADLINE_S, files=fed)
        )
    except KintsugiError as error:
        console.print(f"  [red]no account: {error}")
    return row_of(cell, incidents_since(doors, t0), healed, counted)


def take_back(doors: Runtime, cell: Cell) -> None:
    """Undo what of the fault may still be in force; harmless when nothing is."""
    undo = FAULTS[cell.fault].take_back
    if undo is not None:
        undo(doors, cell.nodes)


def await_healing(doors: Runtime, cell: Cell, t0: datetime) -> bool:
    """Whether all victims serve again with nothing open.

    A slow machine may take its time: it is given up when nothing new has stood in a journal for the cell's deadline,
    or after LONGEST_S.
    """
    began = time.monotonic()
    until, noted, calm_since = began + cell.deadline_s, 0, None
    while (now := time.monotonic()) < min(until, began + LONGEST_S):
        if cell.asks:
            # As a person does who knows that the disks are gone.
            ControlPlane(doors.settings).airflow.answer_all([*map(watch_of, cell.nodes)], APPROVE)
        incidents = incidents_since(doors, t0)
        if (entries := sum(len(one.entries) for one in incidents)) > noted:
            until, noted = now + cell.deadline_s, entries
        calm = all_well(doors, cell, incidents) and now - began >= WATCHED_S
        calm_since = (calm_since or now) if calm else None
        if calm_since is not None and now - calm_since >= CALM_S:
            return True
        time.sleep(0.5)
    return False


def all_well(doors: Runtime, cell: Cell, incidents: Sequence[Incident]) -> bool:
    """Whether nothing is open, what must be done was done, and every victim is redundant at this moment.

    ``incidents``: those that began since the fault.
    """
    if any(one.closed_at is None for one in incidents):
        return False
    healed = {one.node for one in incidents if one.outcome is Outcome.HEALED}
    if owed(cell, judged(incidents)) or (cell.must and not set(cell.nodes) <= healed):
        return False  # the first incident may be but the fault's own restart; the one that matters is to come
    return all(
        asyncio.run(redundant.missing(doors.fleet, doors.fleet.node(name), stream=True)) is None
        for name in cell.nodes
    )


def hit_again(doors: Runtime, cell: Cell, t0: datetime, deadline_s: float = 120) -> None:
    """Wait until the recovery configures the new node, then make the same fault on it once more."""

    def configures() -> bool:
        return any(entry.step == "configure" for one in incidents_since(doors, t0) for entry in one.entries)

    if not wait_until(configures, deadline_s):
        raise StepFailed(f"{cell.name}: no recovery came so far as to configure within {deadline_s:.0f} s")
    FAULTS[cell.fault].make(doors, cell.nodes)


def await_end(doors: Runtime, cell: Cell, t0: datetime) -> None:
    """Wait until every incident of a fault that outlasts its repair is closed."""

    def ended() -> bool:
        incidents = incidents_since(doors, t0)
        return bool(incidents) and all(one.closed_at for one in incidents)

    if not wait_until(ended, cell.deadline_s, pause=0.5):
        raise StepFailed(f"{cell.name}: the repair didn't end while the fault was in force")


def row_of(
    cell: Cell, incidents: Sequence[Incident], healed: bool, counted: dict[str, Any]
) -> dict[str, Any]:
    """What the report says of a cell; times in seconds since the fault."""
    told = judged(incidents)
    why = judge(cell, told, healed)
    if why is None:
        why = unaccounted(counted)
    own = [one for one in incidents if one.node in cell.nodes]
    return {
        "fault": cell.name,
        "what": FAULTS[cell.fault].what,
        "node": ", ".join(cell.nodes),
        "verdict": sorted({verdict for one in told for verdict in one.verdicts}),
        "action": [action for one in told for action in one.actions],
        "phases": _slowest(own).get("phases", {}),
        "repairs": [figures(one) for one in own],
        "outcome": "as designed" if why is None else why,
        "as_designed": why is None,
        "healed": healed,
        "lost": counted.get("lost"),
        "doubled": counted.get("doubled"),
        "stored": counted.get("stored"),
    }


def unaccounted(counted: Mapping[str, Any]) -> str | None:
    """Why the account doesn't show that the pipeline healed, None when it does: one that stands still loses nothing."""
    if not counted:
        return "the account could not be taken"
    if waiting := counted["in_flight"]:
        return f"{waiting:,} trades had not come through {ACCOUNT_DEADLINE_S:.0f} s after all was well"
    return None


def judged(incidents: Sequence[Incident]) -> list[Told]:
    """What each incident says, as ``kintsugi.chaos.cells.judge`` takes it."""
    return [
        Told(
            one.node,
            verdicts(one),
            [str(action) for action in one.attempts()],
            "\n".join(entry.message for entry in one.entries),
        )
        for one in incidents
    ]


def verdicts(incident: Incident) -> list[str]:
    """Every verdict that the confirmations of an incident came to."""
    return [str(entry.data["verdict"]) for entry in incident.entries if "verdict" in entry.data]


def _slowest(incidents: Sequence[Incident]) -> dict[str, Any]:
    rows = [figures(one) for one in incidents]
    return max(rows, key=lambda row: row["repaired_s"] or 0.0, default={})


def write(
    report: Path,
    rows: dict[str, dict[str, Any]],
    not_run: Mapping[str, str],
    counted: dict[str, Any] | None = None,
    *,
    finished: bool,
) -> None:
    """Every cell so far; ``not_run``: the faults that can't be made here, and why; ``counted``: all trades.

    ``finished``: whether the whole table was run.
    """
    document = {
        "machine": machine(),
        "finished": finished,
        "cells": list(rows.values()),
        "not_run": dict(not_run),
        "account": counted,
    }
    write_report(report, document)


def say(console: Console, row: dict[str, Any]) -> None:
    """One line when a cell is over."""
    colour = "green" if row["as_designed"] else "red"
    console.print(f"  [{colour}]{row['outcome']}[/]; lost {row['lost']}, doubled {row['doubled']}")


def show(console: Console, rows: dict[str, dict[str, Any]], not_run: Mapping[str, str]) -> None:
    """The table, for people."""
    from rich.table import Table

    table = Table(
        "fault", "node", "verdict", "action", "serving s", "outcome", "lost", "doubled", title="Faults"
    )
    for row in rows.values():
        times = ", ".join(str(one["repaired_s"]) for one in row["repairs"] if one["repaired_s"] is not None)
        table.add_row(
            row["fault"].partition(":")[0], row["node"], ", ".join(row["verdict"]), ", ".join(row["action"]), times,
            row["outcome"], str(row["lost"]), str(row["doubled"]),
        )  # fmt: skip
    for fault, why in not_run.items():
        table.add_row(fault, "", "", "", "", f"not run: {why}", "", "")
    console.print(table)
