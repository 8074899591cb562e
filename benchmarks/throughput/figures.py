"""Figures from samples: percentiles, spread, slope. Pure functions, no I/O."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import linear_regression, median
from typing import Any

from kintsugi.core.errors import InputError


@dataclass(frozen=True, slots=True)
class Spread:
    """How far ``n`` measurements of the same thing lie apart, in the unit of the measurements."""

    n: int
    min: float
    median: float
    max: float

    @property
    def width(self) -> float:
        return self.max - self.min

    def to_json(self) -> dict[str, Any]:
        return {name: round(value, 6) for name, value in asdict(self).items()}


def compute_spread(samples: Sequence[float]) -> Spread:
    """The spread of at least one measurement; raises InputError without any."""
    if not samples:
        raise InputError("there is no spread without a measurement; did the section measure nothing?")
    return Spread(len(samples), min(samples), median(samples), max(samples))


def compute_percentile(samples: Sequence[float], percent: float) -> float:
    """The smallest sample that at least ``percent`` (0 < percent <= 100) of all samples don't exceed.

    This is the nearest rank: always a value that was measured. Raises InputError without any sample.
    """
    if not samples:
        raise InputError("there is no percentile without a measurement; did the section measure nothing?")
    rank = math.ceil(percent / 100 * len(samples))
    return sorted(samples)[max(0, rank - 1)]


def compute_percentiles_ms(seconds: Sequence[float]) -> dict[str, float]:
    """p50, p95 and p99 in milliseconds, of samples in seconds."""
    return {f"p{percent}": round(compute_percentile(seconds, percent) * 1000, 1) for percent in (50, 95, 99)}


def compute_ratio(ours: float | None, other: float | None) -> float | None:
    """The quotient ours ÷ other, rounded; None where one of them was not measured."""
    return round(ours / other, 3) if ours is not None and other else None


def compute_rates(samples: Sequence[tuple[float, int]], every_s: float) -> list[float]:
    """Counts a second in consecutive intervals of about ``every_s``, from (time in s, running total) pairs."""
    found: list[float] = []
    if not samples:
        return found
    began, count = samples[0]
    for at, total in samples[1:]:
        if at - began >= every_s:
            found.append((total - count) / (at - began))
            began, count = at, total
    return found


@dataclass(frozen=True, slots=True)
class Slope:
    """What a trade costs as the rows grow.

    ``change``: what the fitted line adds between the smallest and the largest size, in the unit of the costs.
    ``spread``: the widest difference between repeated measurements of one size.
    """

    per_doubling: float
    change: float
    spread: float

    @property
    def within_spread(self) -> bool:
        """No more expensive than the spread of repeated measurements explains; cheaper is no fault."""
        return self.change <= self.spread

    def to_json(self) -> dict[str, Any]:
        plain = {name: float(f"{value:.4g}") for name, value in asdict(self).items()}
        return {**plain, "within_spread": self.within_spread}


def fit_growth_slope(points: Sequence[tuple[float, float]]) -> Slope:
    """Fit cost (any unit) against the logarithm of size, from (size, cost) pairs; sizes are positive.

    Raises InputError when the sizes are all the same, or no size was measured twice: then no slope is known,
    or nothing to compare it with.
    """
    by_size: dict[float, list[float]] = {}
    for size, cost in points:
        by_size.setdefault(size, []).append(cost)
    repeated = [compute_spread(costs).width for costs in by_size.values() if len(costs) > 1]
    if len(by_size) < 2 or not repeated:
        raise InputError("a slope needs two sizes at least, and one of them measured twice")
    per_doubling = linear_regression([math.log2(size) for size, _ in points], [c for _, c in points]).slope
    doublings = math.log2(max(by_size) / min(by_size))
    return Slope(per_doubling, per_doubling * doublings, max(repeated))
