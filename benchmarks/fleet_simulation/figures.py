"""Count and spread of measured values."""

from __future__ import annotations

import math
from collections.abc import Sequence


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return ``n``, and of the values the least, the percentiles 50 and 99, and the most; only ``n`` if there are none.

    A percentile is a value that was measured (nearest rank). Four significant digits.
    """
    if not values:
        return {"n": 0}
    ordered = sorted(values)

    def percentile(share: float) -> float:
        return ordered[max(0, math.ceil(share * len(ordered)) - 1)]

    return {
        "n": len(ordered),
        **{
            name: float(f"{value:.4g}")
            for name, value in (
                ("min", ordered[0]),
                ("p50", percentile(0.5)),
                ("p99", percentile(0.99)),
                ("max", ordered[-1]),
            )
        },
    }
