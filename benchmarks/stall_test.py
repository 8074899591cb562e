"""``make stall-test``: stall every service of a role, and of the whole fleet, for 6, 12, 17, 24 and 60 seconds.

A stall that many nodes share is caused by storage or the host, and ends by itself. All but the longest must end
without a kill. After the longest the services may have been restarted, and all must serve again. The report is written
after each stall. The same command continues a test that was killed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.fault_matrix import ANY, BEYOND_SPARE, ESCALATION
from benchmarks.fault_matrix_run import format_live_kills
from benchmarks.harness import describe_machine, load_report, make_console, raised_repair_budget, write_report
from benchmarks.kill_recorder import run_recorder
from benchmarks.scenario_report import NOT_BEGUN, Row, empty_row
from benchmarks.scenario_run import run_scenarios
from benchmarks.scenarios import ExpectedPages, Scenario
from kintsugi.chaos.registry import FAULTS
from kintsugi.chaos.switch import ChaosStopped
from kintsugi.core.errors import KintsugiError
from kintsugi.core.fleet import Fleet, Role
from kintsugi.core.settings import Settings
from kintsugi.installation.unpause import unpause_dags
from kintsugi.operations.context import Context
from kintsugi.pipeline.reconcile.installation import reconcile_when_quiet
from kintsugi.pipeline.reconcile.summary import format_summary, has_faults, summarize_report

if TYPE_CHECKING:
    from rich.console import Console

SECONDS = (6.0, 12.0, 17.0, 24.0, 60.0)
LEFT_ALONE_S = 24.0  # a stall of at most so long must end without a kill
RECONCILE_DEADLINE_S = 900.0


def plan_stalls(fleet: Fleet, seconds: Sequence[float] = SECONDS) -> list[Scenario]:
    """Return a scenario for each role and for the fleet, for each time; the shortest come first."""
    groups = [tuple(node.name for node in fleet.of(role)) for role in Role]
    groups = [*(group for group in groups if group), tuple(fleet.nodes)]
    return [build_stall(group, length) for length in sorted(seconds) for group in groups]


def build_stall(nodes: tuple[str, ...], seconds: float) -> Scenario:
    """Return the scenario of one stall."""
    if seconds <= LEFT_ALONE_S:
        return Scenario(
            "stalled",
            nodes,
            ANY,
            incident=False,
            pages=ExpectedPages.MAY,
            hold_s=seconds,
            waives=BEYOND_SPARE,
        )
    return Scenario(
        "stalled",
        nodes,
        ANY,
        actions=ESCALATION,
        pages=ExpectedPages.MAY,
        hold_s=seconds,
        waives=BEYOND_SPARE,
        deadline_s=300,
    )


def run_stall_test(settings: Settings, *, seconds: Sequence[float] = (), report: Path | None = None) -> int:
    """Run all stalls, then the reconciliation; 0 when each went as designed and nothing is lost or doubled.

    Raises KintsugiError where services can't be stopped from outside, and ChaosStopped when a person stops chaos.
    """
    console, path = make_console(), report or settings.repository / "build" / "stall-test.json"
    context = Context.from_environment()
    if (why := FAULTS["stalled"].unavailable(context)) is not None:
        raise KintsugiError(f"no service can be stopped from outside here: {why}")
    unpause_dags(context)
    planned = plan_stalls(context.fleet, seconds or SECONDS)
    rows = keep_rows(load_report(path), planned)
    console.print(f"{len(rows)} of {len(planned)} stalls are in {path}")
    with run_recorder(path.with_suffix(".deaths.jsonl"), settings) as recorder:
        for number, scenario in enumerate(planned, start=1):
            if scenario.name in rows:
                continue
            console.rule(f"[bold]{number}/{len(planned)} {scenario.name}", align="left")
            try:
                with raised_repair_budget(context):
                    (row,) = run_scenarios(context, [scenario], console, recorder)
            except ChaosStopped:
                raise
            except (KintsugiError, OSError) as error:
                row = {**empty_row(scenario), "outcome": f"not judged: {error}"}
            rows[scenario.name] = {**row, "seconds": scenario.hold_s}
            write_rows(path, planned, rows, None)
            print_row(console, rows[scenario.name])
    counted = summarize_report(reconcile_when_quiet(settings, deadline_s=RECONCILE_DEADLINE_S))
    write_rows(path, planned, rows, counted)
    wrong = [row for row in rows.values() if not row["as_designed"]]
    for row in wrong:
        console.print(f"[red]{row['fault']}: {row['outcome']}")
    console.print(
        f"{len(rows) - len(wrong)} of {len(rows)} as designed; {format_summary(counted)}; see {path}"
    )
    return 1 if wrong or has_faults(counted) else 0


def keep_rows(before: Mapping[str, Any], planned: Sequence[Scenario]) -> dict[str, Row]:
    """Return the rows of a killed test of the same stalls, by name, without those that could not begin."""
    if before.get("finished", True) or before.get("planned") != [scenario.name for scenario in planned]:
        return {}
    return {row["fault"]: row for row in before["stalls"] if not row["outcome"].startswith(NOT_BEGUN)}


def write_rows(
    path: Path, planned: Sequence[Scenario], rows: Mapping[str, Row], counted: dict[str, Any] | None
) -> None:
    """Write every stall so far; ``counted``: all trades, at the end."""
    document = {
        "machine": describe_machine(),
        "planned": [scenario.name for scenario in planned],
        "finished": counted is not None,
        "stalls": list(rows.values()),
        "account": counted,
    }
    write_report(path, document)


def print_row(console: Console, row: Row) -> None:
    """Print one line when a stall has ended."""
    colour = "green" if row["as_designed"] else "red"
    console.print(
        f"  [{colour}]{row['fault']}: {row['outcome']}[/]; "
        f"live nodes killed {format_live_kills(row) or 'not measured'}, deaths {len(row['deaths'])}"
    )
