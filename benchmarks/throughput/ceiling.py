"""What Cassandra takes of the same rows from a bare driver: the ceiling, and the naive design.

Both write what the pipeline has just stored: the same rows, table, consistency and running processes. The ceiling is
the best of a sweep, one setting after another: batch size, then statements in flight, then client processes, each from
the best so far. The naive design is one asynchronous prepared insert a row, with its concurrency tuned the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from benchmarks.throughput.context import Bench, Result
from benchmarks.throughput.figures import compute_spread
from benchmarks.throughput.writers import Load, measure_rate
from kintsugi.core.errors import StepFailed

SECONDS = 6.0
REPEATS = 3
BATCHES = (10, 30, 60, 120, 250)
IN_FLIGHT = (4, 8, 16, 32, 64)
PROCESSES = (1, 2, 3)
NAIVE_IN_FLIGHT = (32, 64, 128, 256, 512)
NAIVE_PROCESSES = (1, 2)
ROWS = 60_000

Measure = Callable[[Load], float]
Tried = TypeVar("Tried")


def sweep_loads(
    loads: Iterable[Tried], rate_of: Callable[[Tried], float], tried: dict[Tried, float]
) -> Tried:
    """Measure the loads that ``tried`` lacks, add them to it, and return the fastest of all in it.

    A load under which a write failed counts as 0.
    """
    for load in loads:
        if load not in tried:
            try:
                tried[load] = rate_of(load)
            except StepFailed:  # more than Cassandra takes: no rate at which every write is acknowledged
                tried[load] = 0.0
    return max(tried, key=lambda load: tried[load])


def measure_ceiling(bench: Bench, rows: Path) -> Result:
    """``ceiling_trades_per_s``: the best of the sweep, measured again; its median is the figure."""
    tried: dict[Load, float] = {}
    rate_of = _build_measure(bench, rows)
    best = sweep_loads((Load(size, 16, 1) for size in BATCHES), rate_of, tried)
    best = sweep_loads((replace(best, in_flight=number) for number in IN_FLIGHT), rate_of, tried)
    best = sweep_loads((replace(best, processes=number) for number in PROCESSES), rate_of, tried)
    sweep_loads(
        (replace(best, in_flight=best.in_flight // 2) for _ in range(best.processes > 1)), rate_of, tried
    )
    return _build_result("ceiling_trades_per_s", tried, rate_of)


def measure_naive(bench: Bench, rows: Path) -> Result:
    """``naive_trades_per_s``: the same for one insert a row."""
    tried: dict[Load, float] = {}
    rate_of = _build_measure(bench, rows)
    best = sweep_loads((Load(1, number, 1) for number in NAIVE_IN_FLIGHT), rate_of, tried)
    sweep_loads((replace(best, processes=number) for number in NAIVE_PROCESSES), rate_of, tried)
    return _build_result("naive_trades_per_s", tried, rate_of)


def _build_measure(bench: Bench, rows: Path) -> Measure:
    if not rows.exists():
        raise StepFailed(f"{rows} is missing: run the section end_to_end first, it stores the rows to write")

    def measure_load(load: Load) -> float:
        try:
            rate = measure_rate(bench.contact_points, rows, load, SECONDS)
        except StepFailed as failure:
            bench.print_line(f"[yellow]{failure}[/]")
            raise
        bench.print_line(f"{load}: {rate:,.0f} rows/s")
        return rate

    return measure_load


def repeat_best(tried: dict[Load, float], rate_of: Measure) -> tuple[Load, list[float]]:
    """Measure the fastest load of ``tried`` REPEATS times again; returns it with all its rates.

    A load under which a write fails now counts as 0 from then on, and the next fastest one is repeated. Raises
    StepFailed if none is left.
    """
    while any(tried.values()):
        best = max(tried, key=lambda load: tried[load])
        try:
            return best, [tried[best], *(rate_of(best) for _ in range(REPEATS))]
        except StepFailed:
            tried[best] = 0.0
    raise StepFailed("writes failed under every load; see the Cassandra nodes in `make status`")


def _build_result(name: str, tried: dict[Load, float], rate_of: Measure) -> Result:
    best, rates = repeat_best(tried, rate_of)
    sample = compute_spread(rates)
    # The best of a sweep is the best by luck too: a ceiling may keep the luck, so the maximum counts.
    swept: list[dict[str, Any]] = [{**load.to_json(), "rows_per_s": round(r)} for load, r in tried.items()]
    return {name: round(sample.max), "best": best.to_json(), "spread": sample.to_json(), "sweep": swept}
