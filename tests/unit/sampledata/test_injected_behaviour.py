from __future__ import annotations

import ast
from datetime import date
from pathlib import Path

import numpy as np
import pytest

from kintsugi.core.errors import InputError
from kintsugi.sampledata import injected_behaviour, option_chain
from kintsugi.sampledata.injected_behaviour import LEVELS, MIDPOINT, Behaviour, Intent

DAY = date(2024, 10, 8)
STANDARD = LEVELS["standard"]


@pytest.fixture(scope="module")
def market() -> option_chain.Chain:
    return option_chain.build_chain(DAY, 1)


def quiet(market: option_chain.Chain, count: int = 20_000) -> injected_behaviour.Tape:
    rng = np.random.default_rng(1)
    times = np.sort(rng.integers(34_200_000, 58_500_000, count))
    traded = np.flatnonzero(market.volume > 0)
    return injected_behaviour.baseline_tape(times, rng.choice(traded, count), np.ones(count, np.int64))


def with_injected(
    market: option_chain.Chain, *wanted: Intent
) -> tuple[injected_behaviour.Tape, list[injected_behaviour.Order]]:
    return injected_behaviour.inject_behaviour(
        quiet(market), market, STANDARD, list(wanted), np.random.default_rng(2)
    )


def test_who_plants_knows_nothing_of_who_finds() -> None:
    tree = ast.parse(Path(injected_behaviour.__file__).read_text())
    modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name for name in modules if str(name).startswith("kintsugi")} == {
        "kintsugi.core.errors",
        "kintsugi.sampledata.option_chain",
    }
    stream = Path(injected_behaviour.__file__).parents[1] / "pipeline" / "stream"
    for detector in ("signals", "flow_windows", "derived_tables", "columns"):
        assert "injected_behaviour" not in (stream / f"{detector}.py").read_text()


def test_a_block_is_several_usual_days_of_its_contract(market: option_chain.Chain) -> None:
    tape, _ = with_injected(market)
    days = tape.sizes[tape.block] / market.volume[tape.contracts[tape.block]]
    assert tape.block.sum() == 20_000 * STANDARD.blocks // 1_000_000
    assert days.min() >= STANDARD.block_multiple * 0.99
    assert tape.sizes[tape.block].min() >= STANDARD.block_contracts


@pytest.mark.parametrize("behaviour", injected_behaviour.SLICED)
def test_an_order_is_sliced_over_minutes_at_the_aggressive_side(
    market: option_chain.Chain, behaviour: Behaviour
) -> None:
    tape, orders = with_injected(market, Intent(behaviour, 7, 400))
    (order,) = [o for o in orders if o.behaviour is behaviour]
    assert order.symbol == "AAPL"
    assert order.end - order.start <= STANDARD.minutes * injected_behaviour.MINUTE
    mine = tape.sliced
    assert mine.sum() == 400
    assert set(market.underlying[tape.contracts[mine]]) == {7}
    legs = {
        (bool(market.call[c]), int(s))
        for c, s in zip(tape.contracts[mine], tape.aggressor[mine], strict=True)
    }
    legs = {leg for leg in legs if leg[1] != MIDPOINT}
    assert (tape.aggressor[mine] == MIDPOINT).mean() == pytest.approx(1 - STANDARD.aggressive, abs=0.04)
    match behaviour:
        case Behaviour.DIRECTIONAL:
            assert legs in ({(True, 1)}, {(False, 1)})
        case Behaviour.STRADDLE:
            assert legs == {(True, 1), (False, 1)}
            assert len({float(k) for k in market.strike[tape.contracts[mine]]}) == 1
        case _:
            assert legs in ({(True, 1), (False, -1)}, {(True, -1), (False, 1)})


def test_a_shock_moves_the_volatility_of_one_underlying_for_minutes(market: option_chain.Chain) -> None:
    tape, orders = with_injected(market)
    shocks = [order for order in orders if order.behaviour is Behaviour.SHOCK]
    assert shocks
    assert set(tape.iv_factor[tape.shocked]) == {1 + STANDARD.iv_move}
    assert set(tape.iv_factor[~tape.shocked]) == {1.0}
    names = {option_chain.UNDERLYINGS[u].symbol for u in market.underlying[tape.contracts[tape.shocked]]}
    assert names <= {shock.symbol for shock in shocks}


def test_the_tape_stays_in_order_and_no_trade_is_planted_twice(market: option_chain.Chain) -> None:
    tape, _ = with_injected(market, Intent(Behaviour.STRADDLE, 0, 500), Intent(Behaviour.REVERSAL, 1, 500))
    assert (np.diff(tape.times) >= 0).all()
    assert int(tape.injected.sum()) == int(tape.block.sum() + tape.shocked.sum() + tape.sliced.sum())


def test_orders_are_at_most_a_fifth_of_the_day() -> None:
    wanted = injected_behaviour.draw_intents(LEVELS["easy"], 200_000, np.random.default_rng(1))
    assert 0 < sum(intent.slices for intent in wanted) <= 40_000
    assert {intent.behaviour for intent in wanted} == set(injected_behaviour.SLICED)


def test_an_unknown_level_names_those_that_are() -> None:
    with pytest.raises(InputError, match="easy, standard, hard"):
        injected_behaviour.find_level("trivial")
