"""The two signals of one trade, on arrays: what is usual is given, what is unusual is found."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest

from kintsugi.pipeline.stream import signals
from kintsugi.pipeline.stream.baselines import Buckets, buckets_from_rows
from kintsugi.pipeline.stream.batch_columns import RETURNED
from kintsugi.pipeline.stream.derived_records import Day
from kintsugi.pipeline.trade_identity import SYNTHETIC_SYMBOL
from tests.unit.pipeline.stream.test_derived_tables import TYPES
from tests.unit.pipeline.test_row_parser import LINE, changed, trade

SCHEMA = pa.schema([(name, TYPES[kind]) for name, kind in (c.split() for c in RETURNED.split(", "))])
# count, mean, median, deviation, log deviation of volume; count, median, deviation, log deviation of iv
KNOWN = (30, 150.0, 100.0, 50.0, 1.0, 30, 0.1, 0.02, 0.1)
BUCKET = ("P", "20-40", "short")
DAY = ("AAPL", "2018-01-08")


def batch(*lines: str, **columns: Any) -> pa.Table:
    rows = []
    for line in lines:
        one = trade(line)
        row = {name: getattr(one, name, None) for name in SCHEMA.names}
        rows.append(
            row
            | {"canceled": 40 <= one.condition <= 44, "delta_bin": "20-40", "expiry_bin": "short", **columns}
        )
    return pa.Table.from_pylist(rows, SCHEMA)


def usual(*known: float | None) -> Mapping[Day, Buckets | None]:
    return {DAY: buckets_from_rows([(*BUCKET, *(known or KNOWN))])}


def scores(table: pa.Table, baselines: Mapping[Day, Buckets | None]) -> list[tuple[Any, Any]]:
    found = signals.with_scores(table, baselines)
    return list(
        zip(found.column("high_volume").to_pylist(), found.column("iv_jump").to_pylist(), strict=True)
    )


def test_a_size_far_above_the_median_is_high_volume() -> None:
    lines = [changed(14, "0", changed(8, size)) for size in ("332", "333", "1000")]
    low, high, higher = (score for score, _ in scores(batch(*lines), usual()))  # e^1.2 * 100 = 332.01
    assert low is None
    assert high == pytest.approx(math.log(3.33))
    assert higher == pytest.approx(math.log(10))


def test_fewer_contracts_than_a_block_are_no_high_volume() -> None:
    lines = [changed(14, "0", changed(8, size)) for size in ("99", "100")]
    found = scores(batch(*lines), usual(30, 1.0, 1.0, 1.0, 1.0, *KNOWN[5:]))
    assert [score is not None for score, _ in found] == [False, True]


def test_volatility_far_above_the_usual_is_a_jump_and_an_unknown_or_fallen_one_is_none() -> None:
    lines = [changed(14, iv) for iv in ("0.1491", "0.1492", "0", "0.0001")]  # e^0.4 * 0.1 = 0.14918
    below, jump, unknown, fallen = (score for _, score in scores(batch(*lines), usual()))
    assert (below, unknown, fallen) == (None, None, None)
    assert jump == pytest.approx(math.log(1.492) / 0.1)


def test_in_a_bucket_of_nearly_equal_volatilities_a_small_rise_is_no_jump() -> None:
    lines = [changed(14, "0.1199"), changed(14, "0.1201")]
    found = scores(batch(*lines), usual(*KNOWN[:5], 30, 0.1, 0.0001, 0.001))
    assert [score is not None for _, score in found] == [False, True]


LOUD = changed(14, "9", changed(8, "100000"))


@pytest.mark.parametrize(
    ("line", "columns"),
    [
        (changed(10, "40", LOUD), {}),
        (changed(0, SYNTHETIC_SYMBOL, LOUD), {}),
        (changed(0, "MSFT", LOUD), {}),
        (changed(6, "C", LOUD), {}),
        (LOUD, {"delta_bin": "0-20"}),
        (LOUD, {"delta_bin": None}),
        (LOUD, {"expiry_bin": None}),
    ],
    ids=["cancel", "synthetic", "no-baseline", "call", "other-delta", "no-delta", "expired"],
)
def test_what_must_not_signal_does_not(line: str, columns: dict[str, Any]) -> None:
    baselines = usual() | {(SYNTHETIC_SYMBOL, DAY[1]): usual()[DAY]}  # type: ignore[operator]
    assert scores(batch(line, **columns), baselines) == [(None, None)]
    assert all(score is not None for score in scores(batch(LOUD), baselines)[0])


@pytest.mark.parametrize("deviation", [0.0, 1e-17, 4.9e-15, None])
def test_a_bucket_of_constant_values_says_nothing_however_its_deviation_is_rounded(
    deviation: float | None,
) -> None:
    known = (30, 100.0, 100.0, 0.0, deviation, 30, 0.1, 0.0, deviation)
    assert scores(batch(LOUD), usual(*known)) == [(None, None)]


def test_the_narrowest_bucket_of_different_values_has_finite_scores() -> None:
    """Five contracts, of a million each but one: the least that whole numbers can differ."""
    deviation = math.log(1_000_001 / 1_000_000) / math.sqrt(5)
    assert deviation > signals.MIN_LOG_STDDEV
    known = (5, 1e6, 1e6, 0.4, deviation, 5, 0.1, 0.0, deviation)
    (found,) = scores(batch(changed(14, "9", changed(8, "2000000"))), usual(*known))
    assert all(math.isfinite(score) for score in found)


def test_a_small_bucket_says_nothing() -> None:
    few = (signals.MIN_BUCKET - 1, 150.0, 100.0, 50.0, 1.0, signals.MIN_BUCKET - 1, 0.1, 0.02, 0.1)
    assert scores(batch(LOUD), usual(*few)) == [(None, None)]


def test_every_trade_comes_out_once_with_what_is_usual_on_its_own_day() -> None:
    one, other = batch(LOUD), batch(changed(1, "2018-01-09 11:11:05.375", LOUD))
    table = pa.concat_tables([one, other, batch(changed(0, "MSFT", LOUD)), one])
    baselines = {
        DAY: buckets_from_rows([(*BUCKET, *KNOWN)]),
        ("AAPL", "2018-01-09"): buckets_from_rows([(*BUCKET, 30, 7.0, *KNOWN[2:])]),
        ("MSFT", "2018-01-08"): None,
    }
    assert signals.days_of(table) == set(baselines)
    found = signals.with_scores(table, baselines)
    assert found.column("usual_volume_mean").to_pylist() == [150.0, 7.0, None, 150.0]
    assert signals.with_scores(table.slice(0, 0), {}).num_rows == 0
    assert replace(trade(LINE)).trade_date == "2018-01-08"
