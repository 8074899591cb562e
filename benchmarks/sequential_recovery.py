"""``make sequential-recovery``: kill every node with its volume, one after another, twice; nothing may be lost.

The second round, in random order, finds what a first recovery left broken, such as a dead Kafka voter. It runs on the
fleet of ``make demo`` or ``make up``.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.allowed_fault import allow_fault
from benchmarks.demo import LIVE_PERIOD_S, LIVE_ROWS, Demo, live_feed
from benchmarks.harness import (
    await_steady_state,
    describe_machine,
    incidents_since,
    report_path,
    write_report,
)
from benchmarks.mttr_figures import compute_quantiles
from kintsugi.chaos.victim_choice import shuffle_nodes
from kintsugi.core.incident import acted_on_others
from kintsugi.core.settings import Settings
from kintsugi.installation.unpause import unpause_dags
from kintsugi.operations.context import Context
from kintsugi.pipeline.reconcile.installation import reconcile_when_quiet
from kintsugi.pipeline.reconcile.summary import format_summary, summarize_report

if TYPE_CHECKING:
    from rich.console import Console

ALL = "all"
STANDSTILL_S = 600.0  # Cassandra's ranges are repaired before the incident closes: minutes, with much data


def run_rounds(
    settings: Settings, *, rounds: int = 2, seed: int | None = None, report: Path | None = None
) -> int:
    """Run all rounds while trades flow, then the reconciliation.

    0 when every node was recovered, no other node was acted upon, and nothing is lost or doubled.
    """
    from rich.console import Console

    console = Console(soft_wrap=True, highlight=False)
    report = report or report_path(settings, "sequential-recovery", old_command="rounds")
    seed = int(datetime.now(UTC).timestamp()) if seed is None else seed
    context, demo = Context.from_environment(), Demo(settings, console, report)
    unpause_dags(context)
    figures: list[dict[str, Any]] = []
    with live_feed(context):
        for number, names in enumerate(plan_rounds(context, rounds, seed), start=1):
            for name in names:
                await_steady_state(context)
                allow_fault(context, "volume_lost", [name], run="sequential-recovery")
                console.print(f"round {number}")
                began = datetime.now(UTC)
                healed = demo.break_and_recover(context, name, STANDSTILL_S)
                others = acted_on_others(incidents_since(context, began), [name])
                figures.append({**healed, "round": number, "acted_elsewhere": others})
                write_figures(report, seed, figures, None)
    counted = summarize_report(reconcile_when_quiet(settings, deadline_s=180))
    write_figures(report, seed, figures, counted)
    print_figures(console, figures, counted)
    return 0 if counted["complete"] and not any(row["acted_elsewhere"] for row in figures) else 1


def plan_rounds(context: Context, rounds: int, seed: int) -> list[list[str]]:
    """Return the nodes' names in the order of each round: first as in the fleet file, then shuffled by the seed."""
    first = list(context.fleet.nodes)
    return [
        first,
        *([node.name for node in shuffle_nodes(seed + n, context.fleet)] for n in range(1, rounds)),
    ][:rounds]


def write_figures(
    report: Path, seed: int, figures: Sequence[dict[str, Any]], counted: dict[str, Any] | None
) -> None:
    """Write every figure so far, also when a later recovery fails."""
    document = {
        "machine": describe_machine(),
        "seed": seed,
        "trades_per_s": LIVE_ROWS / LIVE_PERIOD_S,
        "recoveries": list(figures),
        "by_role": summarize_by_role(figures),
        "account": counted,
    }
    write_report(report, document)


def summarize_by_role(figures: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return median, p95 and maximum of detection, recovery and consistency, in seconds, by role and for ``all``.

    Quantiles by nearest rank (`benchmarks.mttr_figures.quantiles`).
    """
    roles = [*dict.fromkeys(str(row["role"]) for row in figures), ALL]
    return {
        role: {
            name: compute_quantiles(row[name] for row in figures if role in (ALL, row["role"]))
            for name in ("detected_s", "repaired_s", "consistent_s")
        }
        for role in roles
    }


def print_figures(console: Console, figures: Sequence[dict[str, Any]], counted: dict[str, Any]) -> None:
    """Print a line a recovery, then the spread and the reconciliation."""
    from rich.table import Table

    table = Table("round", "node", "detected s", "serving s", "whole s", "tried", title="Rounds")
    for row in figures:
        table.add_row(
            str(row["round"]), row["node"], str(row["detected_s"]), str(row["repaired_s"]), str(row["consistent_s"]),
            ", ".join(row["attempts"]),
        )  # fmt: skip
    console.print(table)
    for role, of in summarize_by_role(figures).items():
        spread = (
            f"{name} p50 {one['p50']}, p95 {one['p95']}, max {one['max']} (n {one['n']})"
            for name, one in of.items()
        )
        console.print(f"{role}: {'; '.join(spread)}")
    for row in figures:
        if row["acted_elsewhere"]:
            console.print(
                f"[red]while {row['node']} was sick, {', '.join(row['acted_elsewhere'])} was acted upon"
            )
    console.print(format_summary(counted))
