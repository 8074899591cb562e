"""The figures of a run of rounds by role."""

from __future__ import annotations

from typing import Any

from benchmarks.sequential_recovery import ALL, summarize_by_role


def row(role: str, detected: float, repaired: float | None = 20.0) -> dict[str, Any]:
    return {"role": role, "detected_s": detected, "repaired_s": repaired, "consistent_s": 30.0}


def test_median_and_p95_of_each_role_and_of_all() -> None:
    rows = [row("kafka", seconds) for seconds in (3.0, 4.0, 9.0)] + [row("cassandra", 5.0, None)]
    found = summarize_by_role(rows)
    assert list(found) == ["kafka", "cassandra", ALL]
    assert found["kafka"]["detected_s"] == {"n": 3, "p50": 4.0, "p95": 9.0, "max": 9.0}
    assert found["cassandra"]["repaired_s"] == {"n": 0, "p50": None, "p95": None, "max": None}
    assert found[ALL]["detected_s"]["n"] == 4
    assert summarize_by_role([])[ALL]["detected_s"]["n"] == 0
