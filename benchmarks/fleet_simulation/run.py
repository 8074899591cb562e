"""``make fleet-simulation``: watches, guards and Airflow for fleets of 10, 100 and 1,000 nodes on one machine.

Nothing of a running installation is touched: the stand-in nodes have addresses of their own (127.96.*), and Airflow and
Postgres run in a temporary directory.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.fleet_simulation.dags import measure_dags
from benchmarks.fleet_simulation.guards import measure_guards
from benchmarks.fleet_simulation.probes import ProbeRun, measure_probes
from benchmarks.harness import describe_machine, make_console, write_report
from kintsugi.core.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console

PARTS = ("probes", "guards", "dags")
SIZES = (10, 100, 1000)
SEED = 7
REPORT = Path("build/fleet-simulation.json")
SECONDS = 50.0
"""How long a fleet is watched. Each clock of Cassandra is compared several times meanwhile, most of Kafka's once."""


def run_fleet_simulation(
    *, only: Sequence[str] = (), sizes: Sequence[int] = (), seed: int = SEED, report: Path = REPORT
) -> int:
    """Measure the parts, print and write them. Exit code 1 if a failure was lost or late, or a guard was wrong."""
    unknown = set(only) - set(PARTS)
    if unknown:
        raise InputError(f"there is no part {', '.join(sorted(unknown))}; there are: {', '.join(PARTS)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends our servers too, as after Ctrl-C
    parts, sizes, console = only or PARTS, sizes or SIZES, make_console()
    document: dict[str, Any] = {
        "machine": describe_machine(),
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "seed": seed,
    }
    if "probes" in parts:
        document["probes"] = _measure_all_probes(sizes, seed, console)
    if "guards" in parts:
        document["guards"] = measure_guards(sizes, seed)
        _print_guards(document["guards"], console)
    if "dags" in parts:
        document["dags"] = measure_dags(sizes)
        _print_dags(document["dags"], console)
    write_report(report, document)
    misses = [*_missed_detections(document.get("probes", ())), *_wrong_guards(document.get("guards", ()))]
    for miss in misses:
        console.print(f"[red]{miss}[/]")
    console.print(f"report: {report}")
    return 1 if misses else 0


def _measure_all_probes(sizes: Sequence[int], seed: int, console: Console) -> list[dict[str, Any]]:
    """Measure every size with certificates, and the largest without them too."""
    largest = max(sizes)
    runs = [ProbeRun(size, SECONDS, mutual_tls=True, seed=seed) for size in sizes]
    runs.append(ProbeRun(largest, SECONDS, mutual_tls=False, seed=seed))
    measured = []
    for run in runs:
        figures = measure_probes(run)
        measured.append(figures)
        _print_probes(figures, console)
    return measured


def _print_probes(figures: Mapping[str, Any], console: Console) -> None:
    interval, lag = figures["interval_s"], figures["loop_lag_ms"]
    console.print(
        f"probes, {figures['nodes']} nodes, {'with' if figures['mutual_tls'] else 'without'} certificates: "
        f"{figures['probes_a_second']} a second; period {_percentiles(interval)} s; loop late {_percentiles(lag)} ms; "
        f"{figures['triggerer_us_a_probe']} µs a probe, {figures['triggerer_cores']} cores, and waited for "
        f"{figures['triggerer_waited_cores']} more"
    )
    for fault, delays in figures["detected_s"].items():
        console.print(f"  {fault}: found after {_percentiles(delays)} s")
    for answer in figures["judgements"]:
        console.print(
            f"  a judgement asks the fleet in {answer['s']} s ({answer['cpu_s']} s of processor time): "
            f"{answer['silent']} silent, {answer['false']} of them falsely"
        )
    console.print(
        f"  lost {len(figures['lost'])}, late {len(figures['late'])}, false {len(figures['false'])}"
    )


def _print_guards(rows: Sequence[Mapping[str, Any]], console: Console) -> None:
    for row in rows:
        console.print(
            f"guards, {row['nodes']} nodes, {row['scenario']}: {row['failed']} failed, {row['allowed']} repaired, "
            f"waited {_percentiles(row['wait_s'])} s; at most {row['most_at_once']} at once and "
            f"{row['most_in_an_hour']} an hour; kills of live nodes {row['live_kills']}; "
            f"{_percentiles(row['judgement_us'])} µs a judgement"
        )


def _print_dags(rows: Sequence[Mapping[str, Any]], console: Console) -> None:
    for row in rows:
        console.print(
            f"dags, {row['nodes']} nodes: parsed in {row['parse']['s']} s, "
            f"written in {row['write_to_database']['s']} s; "
            f"{row['runs_a_second_at_most']} runs started a second; a loop over all runs "
            f"{_percentiles(row['loop_over_all_runs_s'])} s"
        )


def _percentiles(values: Mapping[str, float]) -> str:
    if not values["n"]:
        return "-"
    return f"{values['p50']:g} (p99 {values['p99']:g}, most {values['max']:g}, n {values['n']})"


def _missed_detections(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return [
        f"probes, {row['nodes']} nodes, {'with' if row['mutual_tls'] else 'without'} certificates: "
        f"{len(row[kind])} detections {kind}"
        for row in rows
        for kind in ("lost", "late", "false")
        if row[kind]
    ]


def _wrong_guards(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return [
        f"guards, {row['nodes']} nodes, {row['scenario']}: {row['live_kills']} kills of live nodes, "
        f"{row['most_in_an_hour']} attempts in an hour (budget {row['budget_an_hour']})"
        for row in rows
        if row["live_kills"] or row["most_in_an_hour"] > row["budget_an_hour"]
    ]
