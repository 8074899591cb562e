"""``make chaos-campaign``: many injections in seeded random order, a quarter of them two faults at once.

Every scenario of the fault matrix that can be injected here comes at least once, if there are enough injections.
Trades flow all the time. The report is written after each injection. The same command continues a campaign that was
killed. The seed decides the order, so the same campaign can be run again.
"""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.fault_matrix import SCENARIOS
from benchmarks.fault_matrix_run import find_unavailable_faults, format_live_kills
from benchmarks.harness import describe_machine, load_report, make_console, raised_repair_budget, write_report
from benchmarks.kill_recorder import run_recorder
from benchmarks.scenario_report import NOT_BEGUN, Row, empty_row
from benchmarks.scenario_run import run_scenarios
from benchmarks.scenarios import Scenario
from kintsugi.chaos.switch import ChaosStopped
from kintsugi.core.errors import KintsugiError, StepFailed
from kintsugi.core.fleet import Fleet, Role
from kintsugi.core.settings import Settings
from kintsugi.installation.unpause import unpause_dags
from kintsugi.operations.context import Context
from kintsugi.pipeline.reconcile.installation import reconcile_when_quiet
from kintsugi.pipeline.reconcile.summary import format_summary, has_faults, summarize_report

if TYPE_CHECKING:
    from rich.console import Console

INJECTIONS = 100
PAIRED = 4  # one injection in so many has two faults
RECONCILE_DEADLINE_S = 900.0
GIVEN_UP_AFTER = (
    3  # injections that could not begin, each until its deadline: a person must look at the fleet
)
# They affect the whole machine or the control plane, or last for many minutes.
ALONE = frozenset(
    {
        "starved",
        "control_disk_full",
        "postgres_killed",
        "s3_hangs",
        "storage_away",
        "crash_loop",
        "driver_killed",
    }
)


@dataclass(frozen=True, slots=True)
class Injection:
    """One or two scenarios that run at once; ``number`` counts from 1."""

    number: int
    scenarios: tuple[Scenario, ...]

    @property
    def name(self) -> str:
        return " + ".join(scenario.name for scenario in self.scenarios)


def plan_injections(
    scenarios: Sequence[Scenario], fleet: Fleet, seed: int, count: int = INJECTIONS
) -> list[Injection]:
    """Return what is injected in which order; the same arguments give the same plan.

    ``count`` injections, of which a PAIRED-th has two scenarios. All ``scenarios`` come once before one comes twice, as
    far as the injections suffice.
    """
    chance = random.Random(seed)  # noqa: S311 - repeatable, not secret
    wanted = count + count // PAIRED
    pool = chance.sample(list(scenarios), min(len(scenarios), wanted))
    again = [scenario for scenario in scenarios if can_be_paired(scenario)]
    while len(pool) < wanted and again:
        pool += chance.sample(again, min(len(again), wanted - len(pool)))
    pairs, left = _pair_scenarios(pool, fleet, count // PAIRED)
    slots: list[tuple[Scenario, ...]] = [*pairs, *((scenario,) for scenario in left)]
    chance.shuffle(slots)
    return [Injection(number, slot) for number, slot in enumerate(slots[:count], start=1)]


def _pair_scenarios(
    pool: Sequence[Scenario], fleet: Fleet, count: int
) -> tuple[list[tuple[Scenario, ...]], list[Scenario]]:
    """Return up to ``count`` pairs of scenarios that go together, and the scenarios that are left."""
    left, pairs = list(pool), list[tuple[Scenario, ...]]()
    for scenario in pool:
        if len(pairs) == count:
            break
        if scenario not in left or not can_be_paired(scenario):
            continue
        other = next((one for one in left if can_run_together(scenario, one, fleet)), None)
        if other is not None:
            pairs.append((scenario, other))
            left.remove(scenario)
            left.remove(other)
    return pairs, left


def can_be_paired(scenario: Scenario) -> bool:
    """Whether a scenario may be one of two: a single node that recovers without a person."""
    return len(scenario.nodes) == 1 and scenario.fault not in ALONE and not (scenario.asks or scenario.again)


def can_run_together(scenario: Scenario, other: Scenario, fleet: Fleet) -> bool:
    """Whether two scenarios may run at once: they share no cluster, so each keeps its designed outcome."""
    if not (can_be_paired(scenario) and can_be_paired(other)):
        return False
    return _clusters_of(scenario, fleet).isdisjoint(_clusters_of(other, fleet))


def _clusters_of(scenario: Scenario, fleet: Fleet) -> set[str]:
    spark = (Role.SPARK_MASTER, Role.SPARK_WORKER)
    roles = {fleet.node(name).role for name in scenario.nodes}
    return {"spark" if role in spark else role.value for role in roles}


def run_campaign(
    settings: Settings,
    *,
    injections: int = INJECTIONS,
    seed: int | None = None,
    report: Path | None = None,
) -> int:
    """Run the campaign, then the reconciliation; 0 when all went as designed and nothing is lost or doubled.

    Continues a campaign that was killed. Raises ChaosStopped when a person stops chaos.
    """
    console, path = make_console(), report or settings.repository / "build" / "chaos-campaign.json"
    context = Context.from_environment()
    unpause_dags(context)
    left_out = find_unavailable_faults(context)
    scenarios = [scenario for scenario in SCENARIOS if scenario.fault not in left_out]
    document = begin_report(load_report(path), injections, seed)
    planned = plan_injections(scenarios, context.fleet, document["seed"], injections)
    document |= {"machine": describe_machine(), "planned": [one.name for one in planned], "not_run": left_out}
    document["injections"] = done = keep_rows(document["injections"], planned)
    console.print(f"seed {document['seed']}: {len(done)} of {len(planned)} injections are in {path}")
    with run_recorder(path.with_suffix(".deaths.jsonl"), settings) as recorder:
        for injection in planned:
            if any(row["number"] == injection.number for row in done):
                continue
            console.rule(f"[bold]{injection.number}/{len(planned)} {injection.name}", align="left")
            began, at = time.monotonic(), datetime.now(UTC)
            try:
                with raised_repair_budget(context):
                    rows = run_scenarios(context, injection.scenarios, console, recorder)
            except ChaosStopped:
                raise
            except (
                KintsugiError,
                OSError,
            ) as error:  # an injection without a result does not end the campaign
                rows = [
                    {**empty_row(scenario), "outcome": f"no result: {error}"}
                    for scenario in injection.scenarios
                ]
            done.append(injection_row(injection, rows, at, time.monotonic() - began))
            document["summary"] = summarize_injections(done, scenarios)
            write_report(path, document)
            print_row(console, done[-1])
            if all(row["not_begun"] for row in done[-GIVEN_UP_AFTER:]) and len(done) >= GIVEN_UP_AFTER:
                raise StepFailed(
                    f"{GIVEN_UP_AFTER} injections in a row could not begin; see `make status`, then run this again"
                )
    document["account"] = counted = summarize_report(
        reconcile_when_quiet(settings, deadline_s=RECONCILE_DEADLINE_S)
    )
    document |= {"finished": True, "summary": summarize_injections(done, scenarios)}
    write_report(path, document)
    print_campaign(console, document, path)
    return 0 if has_passed(document["summary"]) and not has_faults(counted) else 1


def begin_report(before: Mapping[str, Any], injections: int, seed: int | None) -> dict[str, Any]:
    """Return the report to write into: that of a killed campaign of the same size and seed, else a new one."""
    goes_on = (
        not before.get("finished", True)
        and before.get("count") == injections
        and seed in (None, before.get("seed"))
    )
    if goes_on:
        return dict(before)
    seed = int(datetime.now(UTC).timestamp()) if seed is None else seed
    return {
        "seed": seed,
        "count": injections,
        "finished": False,
        "injections": [],
        "summary": {},
        "account": None,
    }


def keep_rows(rows: Sequence[Mapping[str, Any]], planned: Sequence[Injection]) -> list[dict[str, Any]]:
    """Return the rows that stay: those of the current plan whose injection could begin."""
    names = {one.number: one.name for one in planned}
    return [dict(row) for row in rows if names.get(row["number"]) == row["name"] and not row["not_begun"]]


def injection_row(injection: Injection, rows: Sequence[Row], at: datetime, seconds: float) -> dict[str, Any]:
    """Return the report's row of one injection."""
    return {
        "number": injection.number,
        "name": injection.name,
        "at": at.isoformat(),
        "seconds": round(seconds, 1),
        "as_designed": all(row["as_designed"] for row in rows),
        "not_begun": any(row["outcome"].startswith(NOT_BEGUN) for row in rows),
        "cells": list(rows),
    }


def summarize_injections(done: Sequence[Mapping[str, Any]], scenarios: Sequence[Scenario]) -> dict[str, Any]:
    """Return the figures of the campaign so far. ``scenarios``: all that can be injected here.

    ``live_nodes_killed`` counts a death once, also when both scenarios of an injection name it; None when some
    injection wasn't measured.
    """
    begun = [row for row in done if not row["not_begun"]]
    rows = [scenario for row in begun for scenario in row["cells"]]
    covered = {row["fault"] for row in rows}
    measured = all(row["live_kills"] is not None for row in rows)
    return {
        "injections": len(begun),
        "faults": len(rows),
        "two_at_once": sum(len(row["cells"]) > 1 for row in begun),
        "cells_covered": len(covered),
        "cells_missing": sorted({scenario.name for scenario in scenarios} - covered),
        "live_nodes_killed": len({death for row in rows for death in row["live_kills"]})
        if measured
        else None,
        "unrecovered": sum(not row["healed"] for row in rows),
        "incidents_left_open": len({one for row in rows for one in row["open"]}),
        "lost": sum(max((scenario["lost"] or 0 for scenario in row["cells"]), default=0) for row in begun),
        "doubled": sum(
            max((scenario["doubled"] or 0 for scenario in row["cells"]), default=0) for row in begun
        ),
        "not_as_designed": [f"{row['fault']}: {row['outcome']}" for row in rows if not row["as_designed"]],
        "not_begun": len(done) - len(begun),
    }


def has_passed(figures: Mapping[str, Any]) -> bool:
    """Whether every bar of the summary is met."""
    zero = ("unrecovered", "incidents_left_open", "lost", "doubled", "not_begun")
    killed = figures["live_nodes_killed"]
    return not any(figures[name] for name in zero) and not killed and not figures["not_as_designed"]


def print_row(console: Console, row: Mapping[str, Any]) -> None:
    """Print one line when an injection has ended."""
    for scenario in row["cells"]:
        colour = "green" if scenario["as_designed"] else "red"
        killed = format_live_kills(scenario) or "not measured"
        console.print(
            f"  [{colour}]{row['number']} {scenario['fault']}: {scenario['outcome']}[/]; live nodes killed {killed}, "
            f"lost {scenario['lost']}, doubled {scenario['doubled']}, {row['seconds']} s"
        )


def print_campaign(console: Console, document: Mapping[str, Any], path: Path) -> None:
    """Print the figures of the whole campaign."""
    figures = document["summary"]
    for line in figures["not_as_designed"]:
        console.print(f"[red]{line}")
    names = (
        "injections",
        "two_at_once",
        "cells_covered",
        "live_nodes_killed",
        "unrecovered",
        "incidents_left_open",
    )
    console.print(", ".join(f"{name.replace('_', ' ')} {figures[name]}" for name in names))
    console.print(f"All trades: {format_summary(document['account'])}; see {path}")
