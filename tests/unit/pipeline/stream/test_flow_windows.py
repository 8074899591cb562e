from __future__ import annotations

import random
from collections.abc import Iterable

import pytest

from kintsugi.pipeline.stream.flow_windows import (
    Sums,
    WindowFlow,
    flow_of,
    window_signals,
    window_start,
)

T0 = 1_728_394_200_000  # 2024-10-08 09:30 in New York


def flows(count: int, side: str, kind: str = "C", delta: float = 0.5, size: int = 1) -> list[WindowFlow]:
    return [flow_of(T0, kind, side, size, 2.0, delta)] * count


def sum_flows(trades: Iterable[WindowFlow]) -> Sums:
    sums = Sums()
    for trade in trades:
        sums.add(trade)
    return sums


def test_a_window_includes_its_start_and_excludes_its_end() -> None:
    assert [window_start(T0 + ms) - T0 for ms in (-1, 0, 59_999, 60_000)] == [-60_000, 0, 0, 60_000]


def test_flow_is_in_shares_and_dollars_and_signed_by_the_bet() -> None:
    found = window_signals(
        sum_flows(
            [
                flow_of(T0, "C", "buy", 10, 1.5, 0.4),  # up by 400 shares
                flow_of(T0, "P", "buy", 5, 2.0, -0.3),  # down by 150
                flow_of(T0, "P", "sell", 2, 1.0, -0.5),  # up by 100
                flow_of(T0, "C", "unknown", 7, 1.0, 0.5),
            ]
        )
    )
    assert (found.trades, found.call_delta, found.put_delta) == (4, 400.0, -50.0)
    assert (found.premium_bought, found.premium_sold, found.premium_unknown) == (2500.0, 200.0, 700.0)
    assert found.imbalance == pytest.approx(350 / 650)
    assert found.signal is None


@pytest.mark.parametrize(
    ("trades", "signal"),
    [
        (flows(21, "buy"), "imbalance,aggressor"),  # 21 / sqrt(21) = 4.58
        (flows(20, "buy"), None),  # 4.47
        (flows(21, "sell"), "imbalance"),  # who sells takes premium: no aggressor's signal
        (flows(21, "buy", "P", -0.5), "imbalance,aggressor"),
        (flows(11, "buy") + flows(11, "buy", "P", -0.5), "aggressor"),  # a straddle
        (flows(11, "buy") + flows(11, "sell", "P", -0.5), "imbalance"),  # a reversal
        (flows(1, "buy", size=100_000), None),  # one block is one vote
        (flows(30, "buy") + flows(1, "sell", size=100_000), None),  # and the flow points the other way
        (flows(500, "unknown"), None),
        ([], None),
    ],
)
def test_what_signals(trades: list[WindowFlow], signal: str | None) -> None:
    assert window_signals(sum_flows(trades)).signal == signal


def test_sums_do_not_depend_on_the_order_and_a_trade_taken_out_leaves_no_trace() -> None:
    rng = random.Random(1)
    made = [
        flow_of(T0, rng.choice("CP"), rng.choice(("buy", "sell", "unknown")), rng.randint(1, 99),
                rng.random() * 9, rng.uniform(-1, 1)) for _ in range(300)
    ]  # fmt: skip
    shuffled = rng.sample(made, len(made))
    assert sum_flows(made) == sum_flows(shuffled)
    sums = sum_flows(made + shuffled[:50])
    for flow in shuffled[:50]:
        sums.add(flow, -1)
    assert sums == sum_flows(made)
    for flow in made:
        sums.add(flow, -1)
    assert sums == Sums()
