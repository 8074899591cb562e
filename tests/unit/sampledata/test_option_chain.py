from __future__ import annotations

from datetime import date

import numpy as np
import pytest

from kintsugi.sampledata import option_chain


def test_black_scholes_matches_the_textbook() -> None:
    """Hull, Options, Futures and Other Derivatives: S = K = 100, one year, 20 %, no interest."""
    one = np.array([100.0, 100.0])
    price, delta = option_chain.black_scholes(one, one, np.ones(2), np.full(2, 0.2), np.array([True, False]))
    assert price == pytest.approx([7.9656, 7.9656], abs=1e-4)
    assert delta == pytest.approx([0.5398, -0.4602], abs=1e-4)


def test_the_previous_trading_day_skips_the_weekend() -> None:
    assert option_chain.previous_trading_day(date(2024, 10, 7)) == date(2024, 10, 4)
    assert option_chain.previous_trading_day(date(2024, 10, 8)) == date(2024, 10, 7)


@pytest.mark.parametrize("weekday", range(5))
def test_no_contract_has_expired_when_the_next_session_trades_it(weekday: int) -> None:
    day = date(2026, 10, 5 + weekday)
    market = option_chain.build_chain(option_chain.previous_trading_day(day), 1)
    assert min(market.expiration) >= day.isoformat()
    assert min(market.days) >= 1
