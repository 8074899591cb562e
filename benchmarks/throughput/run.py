"""``make bench``: every section in order on the running fleet, bounded in time and resumable.

The results are kept in ``build/bench/state.json`` until the run is complete. The next call continues with the missing
sections, unless the run is older than ``RESUME_S`` or other sections are requested.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.throughput import document
from benchmarks.throughput.ceiling import measure_ceiling, measure_naive
from benchmarks.throughput.context import RIVAL_MESSAGES, Bench, Result, await_quiet
from benchmarks.throughput.end_to_end import measure_end_to_end
from benchmarks.throughput.feed import day_of
from benchmarks.throughput.growth import measure_growth
from benchmarks.throughput.ingest import measure_ingest
from benchmarks.throughput.latency import measure_latency
from benchmarks.throughput.plot import draw_report
from benchmarks.throughput.rival.measure import measure_rival
from benchmarks.throughput.spike import measure_spike
from kintsugi.core.errors import InputError
from kintsugi.core.settings import Settings
from kintsugi.installation.unpause import unpause_dags
from kintsugi.operations.context import Context

if TYPE_CHECKING:
    from rich.console import Console

BUDGET_S = 2_400.0
RESUME_S = 3_600.0
SECONDS = 185.0


@dataclass(frozen=True, slots=True)
class Section:
    """One measurement; ``at_most_s``: it isn't started when less than this is left of the budget."""

    run: Callable[[Bench], Result]
    at_most_s: float


SECTIONS: dict[str, Section] = {
    "ingest": Section(measure_ingest, 90),
    "end_to_end": Section(measure_end_to_end, 540),
    "ceiling": Section(lambda bench: measure_ceiling(bench, bench.folder / "rows.pickle"), 220),
    "naive": Section(lambda bench: measure_naive(bench, bench.folder / "rows.pickle"), 120),
    "latency": Section(measure_latency, 150),
    "spike": Section(measure_spike, 200),
    "growth": Section(measure_growth, 240),
    "rival": Section(measure_rival, 900),
}


def run_sections(
    settings: Settings, *, only: Sequence[str] = (), seconds: float = SECONDS, seed: int | None = None,
    report: Path | None = None, rival_messages: int = RIVAL_MESSAGES,
) -> int:  # fmt: skip
    """The bench from the command line; 0 when every section was measured and no trade was lost or doubled.

    Raises InputError for a section that doesn't exist, StepFailed when one can't be measured: what was
    measured before it stands in the report, and the next call goes on.
    """
    from rich.console import Console

    wanted = choose_sections(only)
    report = report or settings.repository / "build" / "bench.json"
    folder = report.parent / "bench"
    console = Console(soft_wrap=True, highlight=False)
    state = BenchState.load(folder / "state.json", wanted, seed, seconds)
    bench = Bench(Context.from_environment(), console, state.data_seed, seconds, folder, rival_messages)
    console.print(f"seed {state.seed}; data of the fortnight around {_format_week(bench.seed)}")
    if state.results:
        console.print(f"going on with a run that has measured {', '.join(state.results)}")
    unpause_dags(bench.context)  # what is measured is the pipeline as it lives
    began, skipped = time.monotonic(), []
    for name in wanted:
        if name in state.results:
            continue
        if time.monotonic() - began + SECTIONS[name].at_most_s > BUDGET_S:
            skipped.append(name)
            console.print(
                f"[yellow]{name}: left out, the {BUDGET_S / 60:.0f} minutes are used up; run it again[/]"
            )
            continue
        state.add_result(name, _measure_section(bench, name))
        _write_report(report, state, skipped, time.monotonic() - began)
    shown = _write_report(report, state, skipped, time.monotonic() - began)
    if not skipped:
        state.path.unlink(missing_ok=True)
    print_sections(console, shown, report)
    return 0 if not skipped and not shown["lost"] and not shown["doubled"] else 1


def choose_sections(only: Sequence[str]) -> list[str]:
    """The sections to run, in their order; raises InputError for a name that is none."""
    unknown = [name for name in only if name not in SECTIONS]
    if unknown:
        raise InputError(f"no section is called {', '.join(unknown)}; there are {', '.join(SECTIONS)}")
    return [name for name in SECTIONS if not only or name in only]


@dataclass(slots=True)
class BenchState:
    """The results of an unfinished run; written after each section.

    ``calls``: how often it was started or continued.
    """

    path: Path
    seed: int
    began_at: float
    wanted: list[str]
    results: dict[str, Any]
    calls: int = 1

    @property
    def data_seed(self) -> int:
        """Of the trades: others at each call, for what a killed one has sent counts as ingested."""
        return self.seed + self.calls - 1

    @classmethod
    def load(cls, path: Path, wanted: list[str], seed: int | None, seconds: float) -> BenchState:
        """The run that ``path`` holds if it is the same and young enough, else a new one."""
        now = time.time()
        try:
            plain = json.loads(path.read_text())
            same = plain["wanted"] == wanted and plain["seconds"] == seconds and seed in (None, plain["seed"])
            if same and now - plain["began_at"] < RESUME_S:
                state = cls(
                    path, plain["seed"], plain["began_at"], wanted, plain["results"], plain["calls"] + 1
                )
                state._save_state(seconds)
                return state
        except (FileNotFoundError, ValueError, KeyError):
            pass
        state = cls(path, int(now) if seed is None else seed, now, wanted, {})
        state._save_state(seconds)
        return state

    def add_result(self, name: str, result: Result) -> None:
        """Keep what a section found."""
        self.results[name] = result
        self._save_state(json.loads(self.path.read_text())["seconds"])

    def _save_state(self, seconds: float) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        fresh = self.path.with_suffix(".fresh")
        plain = {
            "seed": self.seed, "began_at": self.began_at, "wanted": self.wanted, "seconds": seconds,
            "results": self.results, "calls": self.calls,
        }  # fmt: skip
        fresh.write_text(json.dumps(plain))
        fresh.replace(self.path)


def _measure_section(bench: Bench, name: str) -> Result:
    bench.console.rule(f"[bold]{name}", align="left")
    await_quiet(bench)
    began = time.monotonic()
    result = SECTIONS[name].run(bench)
    took = round(time.monotonic() - began, 1)
    bench.console.print(f"[green]✓[/] {name} [dim]{took} s")
    return {**result, "took_s": took}


def _write_report(report: Path, state: BenchState, skipped: list[str], seconds: float) -> dict[str, Any]:
    run = {
        "seed": state.seed, "began_at": datetime.fromtimestamp(state.began_at, UTC).isoformat(timespec="seconds"),
        "seconds": round(seconds, 1), "skipped": skipped, "missing": [n for n in SECTIONS if n not in state.results],
    }  # fmt: skip
    shown = document.build_document(state.results, describe_machine(), run)
    report.parent.mkdir(parents=True, exist_ok=True)
    report.write_text(json.dumps(shown, indent=1) + "\n")
    return shown


def describe_machine() -> dict[str, Any]:
    """What it was measured on; ``load`` is the mean number of runnable processes in the last minute."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "cores": os.cpu_count(), "architecture": platform.machine(), "memory_gib": round(memory, 1),
        "kernel": platform.release(), "load": round(os.getloadavg()[0], 1),
    }  # fmt: skip


def print_sections(console: Console, shown: dict[str, Any], report: Path) -> None:
    """Print the table, the aims, and where the files are."""
    from rich.table import Table

    table = Table("figure", "value", "", title="Bench")
    for row in document.format_rows(shown):
        table.add_row(*row)
    console.print(table)
    for name, aim in shown["aims"].items():
        if aim["measured"] is not None:
            mark = "[green]met[/]" if aim["met"] else "[red]missed[/]"
            console.print(f"aim {name} ≥ {aim['wanted']}: {aim['measured']} {mark}")
    picture = report.with_suffix(".png")
    draw_report(shown, picture)
    console.print(f"lost {shown['lost']}, doubled {shown['doubled']}; {report} and {picture}")


def _format_week(seed: int) -> str:
    return day_of("end_to_end", seed).isoformat()
