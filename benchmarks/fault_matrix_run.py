"""``make fault-matrix``: run the scenarios of the fault matrix one after another while trades flow.

Each scenario starts in the steady state and ends with a reconciliation of the trades that came in meanwhile. The run
ends with a reconciliation of all trades and of the derived tables. Results are written after each scenario. The same
command continues a run of the whole matrix that was killed. A scenario named on the command line replaces its row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.fault_matrix import NOT_MADE, NOT_MADE_ANYWHERE, SCENARIOS
from benchmarks.harness import (
    describe_machine,
    load_report,
    make_console,
    raised_repair_budget,
    report_path,
    write_report,
)
from benchmarks.kill_recorder import run_recorder
from benchmarks.scenario_report import NOT_BEGUN, Row
from benchmarks.scenario_run import run_scenarios
from benchmarks.scenarios import Scenario
from kintsugi.chaos.registry import FAULTS
from kintsugi.core.errors import InputError
from kintsugi.core.settings import Settings
from kintsugi.installation.unpause import unpause_dags
from kintsugi.operations.context import Context
from kintsugi.pipeline.reconcile.installation import reconcile_when_quiet
from kintsugi.pipeline.reconcile.summary import format_summary, has_faults, summarize_report

if TYPE_CHECKING:
    from rich.console import Console

WHOLE_RECONCILE_DEADLINE_S = 900.0


def run_fault_matrix(settings: Settings, *, scenarios: Sequence[str] = (), report: Path | None = None) -> int:
    """Run the named scenarios, or all; 0 when every one went as designed and nothing is lost or doubled."""
    console = make_console()
    report = report or report_path(settings, "fault-matrix", old_command="faults")
    chosen = choose_scenarios(scenarios)
    context = Context.from_environment()
    unpause_dags(context)
    before = load_report(report)
    rows, goes_on = keep_rows(before, whole=not scenarios)
    left_out = find_unavailable_faults(context)
    chosen = [
        scenario
        for scenario in chosen
        if scenario.fault not in left_out and not (goes_on and scenario.name in rows)
    ]
    if goes_on:
        console.print(
            f"goes on with the run that was ended: {len(rows)} scenarios are in {report}, {len(chosen)} are left "
            "(to begin again, delete it)"
        )
    finished = bool(scenarios) and before.get(
        "finished", True
    )  # a few scenarios don't make an ended run whole
    write_report_so_far(report, rows, left_out, finished=finished)
    with run_recorder(report.with_suffix(".deaths.jsonl"), settings) as recorder:
        for number, scenario in enumerate(chosen, start=1):
            console.rule(f"[bold]{number}/{len(chosen)} {scenario.name}", align="left")
            console.print(f"  {', '.join(scenario.nodes)}: {FAULTS[scenario.fault].what}")
            with raised_repair_budget(context):
                (row,) = run_scenarios(context, [scenario], console, recorder)
            rows[scenario.name] = row
            write_report_so_far(report, rows, left_out, finished=finished)
            print_row(console, row)
    print_matrix(console, rows, left_out)
    counted = summarize_report(reconcile_when_quiet(settings, deadline_s=WHOLE_RECONCILE_DEADLINE_S))
    write_report_so_far(report, rows, left_out, counted, finished=finished or not scenarios)
    console.print(f"All trades: {format_summary(counted)}; see {report}")
    as_designed = all(row["as_designed"] and not row["lost"] and not row["doubled"] for row in rows.values())
    return 0 if as_designed and not has_faults(counted) else 1


def keep_rows(before: Mapping[str, Any], *, whole: bool) -> tuple[dict[str, dict[str, Any]], bool]:
    """Return the rows of the report ``before`` that stay, by scenario, and whether a whole run continues from them.

    A whole run continues one that was killed, without the scenarios that could not begin; otherwise it starts empty.
    """
    rows = {row["fault"]: row for row in before.get("cells", ())}
    if not whole:
        return rows, False
    if before.get("finished", True):
        return {}, False
    begun = {name: row for name, row in rows.items() if not row["outcome"].startswith(NOT_BEGUN)}
    return begun, bool(begun)


def choose_scenarios(names: Sequence[str]) -> list[Scenario]:
    """Return the scenarios of these names (for a fault's name all of its), or all; raises InputError."""
    known = {scenario.name for scenario in SCENARIOS} | {scenario.fault for scenario in SCENARIOS}
    for name in names:
        if name not in known:
            raise InputError(
                f"there is no scenario {name!r} in the fault matrix; there are: {', '.join(sorted(known))}"
            )
    return [
        scenario for scenario in SCENARIOS if not names or scenario.name in names or scenario.fault in names
    ]


def find_unavailable_faults(context: Context) -> dict[str, str]:
    """Return what isn't run, and why: faults that can't be injected here, and faults without a scenario for a role."""
    reasons = {fault.kind: fault.unavailable(context) for fault in FAULTS.values()}
    made_nowhere = {kind: why for kind, why in reasons.items() if why is not None}
    made_nowhere |= NOT_MADE_ANYWHERE
    return made_nowhere | {f"{fault}:{role.value}": why for (fault, role), why in NOT_MADE.items()}


def write_report_so_far(
    report: Path,
    rows: dict[str, dict[str, Any]],
    not_run: Mapping[str, str],
    counted: dict[str, Any] | None = None,
    *,
    finished: bool,
) -> None:
    """Write every scenario so far. ``not_run``: faults that can't be injected here, and why. ``counted``: all trades.

    ``finished``: whether the whole matrix was run.
    """
    document = {
        "machine": describe_machine(),
        "finished": finished,
        "cells": list(rows.values()),
        "not_run": dict(not_run),
        "account": counted,
    }
    write_report(report, document)


def print_row(console: Console, row: dict[str, Any]) -> None:
    """Print one line when a scenario has ended."""
    colour = "green" if row["as_designed"] else "red"
    killed = format_live_kills(row) or "not measured"
    console.print(
        f"  [{colour}]{row['outcome']}[/]; live nodes killed {killed}, lost {row['lost']}, doubled {row['doubled']}"
    )


def format_live_kills(row: Row) -> str:
    """Return how many live nodes were killed; empty for older reports and containers, which did not measure it."""
    return "" if row.get("live_kills") is None else str(len(row["live_kills"]))


def print_matrix(console: Console, rows: dict[str, dict[str, Any]], not_run: Mapping[str, str]) -> None:
    """Print the table."""
    from rich.table import Table

    table = Table(
        "fault",
        "node",
        "verdict",
        "action",
        "serving s",
        "outcome",
        "live kills",
        "lost",
        "doubled",
        title="Faults",
    )
    for row in rows.values():
        times = ", ".join(str(one["repaired_s"]) for one in row["repairs"] if one["repaired_s"] is not None)
        table.add_row(
            row["fault"].partition(":")[0], row["node"], ", ".join(row["verdict"]), ", ".join(row["action"]), times,
            row["outcome"], format_live_kills(row), str(row["lost"]), str(row["doubled"]),
        )  # fmt: skip
    for fault, why in not_run.items():
        table.add_row(fault, "", "", "", "", f"not run: {why}", "", "", "")
    console.print(table)
