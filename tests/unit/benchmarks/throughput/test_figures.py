from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.throughput.figures import (
    compute_percentile,
    compute_percentiles_ms,
    compute_rates,
    compute_ratio,
    compute_spread,
    fit_growth_slope,
)
from kintsugi.core.errors import InputError


def test_a_percentile_is_the_nearest_rank() -> None:
    samples = [15.0, 20.0, 35.0, 40.0, 50.0]
    assert [compute_percentile(samples, p) for p in (5, 30, 40, 50, 100)] == [15, 20, 20, 35, 50]


@settings(deadline=None)
@given(st.lists(st.floats(0, 1e6), min_size=1), st.integers(1, 100))
def test_a_percentile_was_measured_and_enough_samples_do_not_exceed_it(samples: list[float], p: int) -> None:
    found = compute_percentile(samples, p)
    assert found in samples
    assert sum(sample <= found for sample in samples) * 100 >= p * len(samples)


def test_percentiles_come_in_milliseconds() -> None:
    assert compute_percentiles_ms([0.1] * 94 + [0.5] * 4 + [2.0] * 2) == {
        "p50": 100.0,
        "p95": 500.0,
        "p99": 2000.0,
    }


@pytest.mark.parametrize("measure", [compute_spread, lambda none: compute_percentile(none, 50)])
def test_nothing_measured_is_an_error_that_says_so(measure) -> None:
    with pytest.raises(InputError, match="without a measurement"):
        measure([])


def test_a_spread_has_its_width() -> None:
    assert compute_spread([3.0, 1.0, 2.0]).to_json() == {"n": 3, "min": 1.0, "median": 2.0, "max": 3.0}
    assert compute_spread([3.0, 1.0]).width == 2.0


def test_a_ratio_with_something_unmeasured_is_unknown() -> None:
    assert (compute_ratio(1, 3), compute_ratio(None, 3), compute_ratio(3, None), compute_ratio(3, 0)) == (
        0.333,
        None,
        None,
        None,
    )


def test_rates_are_those_of_consecutive_intervals() -> None:
    assert compute_rates([(0.0, 0), (0.5, 10), (1.0, 20), (2.0, 120), (2.5, 150)], 1.0) == [20.0, 100.0]
    assert compute_rates([], 1.0) == []


def test_a_cost_that_stays_lies_within_the_spread() -> None:
    found = fit_growth_slope([(1, 100.0), (1, 110.0), (2, 104.0), (4, 106.0), (8, 107.0)])
    assert found.within_spread
    assert found.spread == 10.0


def test_a_cost_that_grows_with_the_rows_does_not() -> None:
    found = fit_growth_slope([(1, 100.0), (1, 110.0), (2, 130.0), (4, 150.0), (8, 170.0)])
    assert not found.within_spread
    assert found.change == pytest.approx(3 * found.per_doubling)
    assert 60 < found.change < 75


def test_without_a_repeated_size_no_slope_is_judged() -> None:
    with pytest.raises(InputError, match="measured twice"):
        fit_growth_slope([(1, 100.0), (2, 110.0)])
