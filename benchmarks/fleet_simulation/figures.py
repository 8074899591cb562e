"""Count and spread of measured values."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.throughput.figures import compute_percentile


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return ``n``, and of the values the least, the percentiles 50 and 99, and the most; only ``n`` if there are none.

    A percentile is a value that was measured (nearest rank). Four significant digits.
    """
    if not values:
        return {"n": 0}
    ordered = sorted(values)

    return {
        "n": len(ordered),
        **{
            name: float(f"{value:.4g}")
            for name, value in (
                ("min", ordered[0]),
                ("p50", compute_percentile(ordered, 50)),
                ("p99", compute_percentile(ordered, 99)),
                ("max", ordered[-1]),
            )
        },
    }
