"""A synthetic options market on one day: underlyings, option chains, and their end-of-day file.

Prices and deltas follow Black and Scholes (1973) with a volatility smile. Volumes are log-normal, and highest near the
money and near expiration. Most contracts don't trade at all, as in real end-of-day files.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

EOD_HEADER = (
    "underlying_symbol,quote_date,root,expiration,strike,option_type,open,high,low,close,trade_volume,bid_size_1545,"
    "bid_1545,ask_size_1545,ask_1545,underlying_bid_1545,underlying_ask_1545,implied_underlying_price_1545,"
    "active_underlying_price_1545,implied_volatility_1545,delta_1545,gamma_1545,theta_1545,vega_1545,rho_1545,"
    "bid_size_eod,bid_eod,ask_size_eod,ask_eod,underlying_bid_eod,underlying_ask_eod,vwap,open_interest,delivery_code"
)


class Underlying(NamedTuple):
    """``spot``: dollars; ``volatility``: a year's, as a fraction; ``activity``: share of all trades."""

    symbol: str
    root: str
    spot: float
    volatility: float
    activity: float


UNDERLYINGS = (
    Underlying("^SPX", "SPXW", 5692.0, 0.18, 0.16), Underlying("SPY", "SPY", 567.8, 0.17, 0.17),
    Underlying("QQQ", "QQQ", 482.1, 0.22, 0.11), Underlying("IWM", "IWM", 217.4, 0.24, 0.04),
    Underlying("^VIX", "VIX", 22.6, 0.95, 0.03), Underlying("TSLA", "TSLA", 240.8, 0.58, 0.09),
    Underlying("NVDA", "NVDA", 127.7, 0.52, 0.10), Underlying("AAPL", "AAPL", 221.7, 0.27, 0.07),
    Underlying("AMZN", "AMZN", 180.8, 0.32, 0.04), Underlying("META", "META", 584.8, 0.35, 0.03),
    Underlying("MSFT", "MSFT", 409.5, 0.24, 0.03), Underlying("AMD", "AMD", 171.0, 0.48, 0.03),
    Underlying("GOOGL", "GOOGL", 162.9, 0.30, 0.02), Underlying("NFLX", "NFLX", 701.6, 0.38, 0.01),
    Underlying("INTC", "INTC", 22.8, 0.55, 0.02), Underlying("JPM", "JPM", 210.5, 0.25, 0.01),
    Underlying("BAC", "BAC", 40.1, 0.27, 0.01), Underlying("XOM", "XOM", 124.9, 0.22, 0.01),
    Underlying("BA", "BA", 155.9, 0.40, 0.01), Underlying("BRK/B", "BRKB", 459.0, 0.16, 0.01),
)  # fmt: skip
EXPIRY_WEEKS = (0, 1, 2, 3, 4, 6, 8, 10, 14, 23, 36, 60)
STRIKES_EACH_SIDE = 30
YEAR = 365.0


@dataclass(frozen=True, slots=True)
class Chain:
    """Every contract of the market on one day, with one array element for each contract.

    ``underlying``: index into UNDERLYINGS. ``expiration``: text by contract. ``call``: whether it is a call. ``mid``:
    dollars a share. ``volume``: contracts traded that day. ``spot``: dollars, by underlying.
    """

    day: date
    spot: Floats
    underlying: Integers
    expiration: list[str]
    days: Integers
    strike: Floats
    call: NDArray[np.bool_]
    mid: Floats
    spread: Floats
    iv: Floats
    delta: Floats
    volume: Integers

    def __len__(self) -> int:
        return len(self.strike)


def build_chain(day: date, seed: int) -> Chain:
    """Build the market of ``day``; the same seed and day make the same market."""
    rng = np.random.default_rng([seed, day.toordinal()])
    spot = np.array([u.spot for u in UNDERLYINGS]) * np.exp(rng.normal(0, 0.01, len(UNDERLYINGS)))
    # After ``day``: the next session trades on these prices, and options that expired on ``day`` are gone then.
    friday = day + timedelta(days=(3 - day.weekday()) % 7 + 1)
    expirations = [friday + timedelta(weeks=week) for week in EXPIRY_WEEKS]
    u, e, k, c = (
        a.ravel()
        for a in np.meshgrid(
            np.arange(len(UNDERLYINGS)), np.arange(len(expirations)),
            np.arange(-STRIKES_EACH_SIDE, STRIKES_EACH_SIDE + 1), np.arange(2), indexing="ij",
        )
    )  # fmt: skip
    days = np.array([(x - day).days for x in expirations])[e]
    sigma = np.array([x.volatility for x in UNDERLYINGS])[u]
    strike = _strike_grid(spot)[u, k + STRIKES_EACH_SIDE]
    moneyness = np.log(strike / spot[u])
    iv = np.round(sigma * (1 - 0.6 * moneyness + 1.5 * moneyness**2) * rng.lognormal(0, 0.02, len(u)), 4)
    call = c == 0
    mid, delta = black_scholes(spot[u], strike, np.maximum(days, 0.3) / YEAR, iv, call)
    spread = np.maximum(0.01, np.round(0.01 + 0.02 * mid * rng.uniform(0.3, 1.5, len(u)), 2))
    return Chain(
        day, spot, u, [expirations[i].isoformat() for i in e], days, strike, call,
        np.maximum(0.01, np.round(mid, 2)), spread, iv, delta, _draw_volumes(rng, u, days, moneyness, sigma),
    )  # fmt: skip


def black_scholes(
    spot: Floats, strike: Floats, years: Floats, sigma: Floats, call: NDArray[np.bool_]
) -> tuple[Floats, Floats]:
    """Return price (dollars a share) and delta of European options without interest: Black and Scholes (1973)."""
    deviation = sigma * np.sqrt(years)
    d1 = np.log(spot / strike) / deviation + deviation / 2
    normal = np.frompyfunc(lambda x: 0.5 * math.erfc(-x / math.sqrt(2)), 1, 1)
    n1 = normal(d1).astype(float)
    n2 = normal(d1 - deviation).astype(float)
    price = spot * n1 - strike * n2
    return np.where(call, price, price - spot + strike), np.round(np.where(call, n1, n1 - 1), 4)


def previous_trading_day(day: date) -> date:
    """Return the weekday before ``day``; holidays of the exchange aren't considered."""
    return day - timedelta(days={0: 3, 6: 2}.get(day.weekday(), 1))


def write_eod(chain: Chain, folder: Path) -> Path:
    """Write the chain as ``UnderlyingOptionsEODCalcs_<day>.csv`` into ``folder``; returns the file."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"UnderlyingOptionsEODCalcs_{chain.day.isoformat()}.csv"
    with target.open("w", newline="") as file:
        file.write(EOD_HEADER + "\n")
        for index in range(len(chain)):
            file.write(_eod_row(chain, index) + "\n")
    return target


def _eod_row(chain: Chain, i: int) -> str:
    u = UNDERLYINGS[int(chain.underlying[i])]
    spot = float(chain.spot[chain.underlying[i]])
    mid, half, volume = float(chain.mid[i]), float(chain.spread[i]) / 2, int(chain.volume[i])
    bid, ask = max(0.0, mid - half), mid + half
    low, high, vwap = (mid * 0.93, mid * 1.06, mid * 0.99) if volume else (0.0, 0.0, 0.0)
    close = mid if volume else 0.0
    return (
        f"{u.symbol},{chain.day},{u.root},{chain.expiration[i]},{chain.strike[i]:.3f},"
        f"{'C' if chain.call[i] else 'P'},{vwap:.4f},{high:.4f},{low:.4f},{close:.4f},{volume},"
        f"{10 + i % 90},{bid:.4f},{10 + i % 70},{ask:.4f},{spot - 0.01:.4f},{spot + 0.01:.4f},0.0000,"
        f"{spot:.4f},{chain.iv[i]:.4f},{chain.delta[i]:.4f},0.0010,-0.0500,0.1000,0.0500,"
        f"{10 + i % 50},{bid:.4f},{10 + i % 30},{ask:.4f},"
        f"{spot - 0.01:.4f},{spot + 0.01:.4f},"
        f"{vwap:.4f},{volume * 7 + i % 100},"
    )


def _strike_grid(spot: Floats) -> Floats:
    """Return strikes around every spot, by underlying, at a usual interval of about 0.6 % of the spot."""
    steps = np.array([0.5, 1, 2.5, 5, 10, 25, 50])
    step = steps[np.minimum(np.searchsorted(steps, spot * 0.006), len(steps) - 1)]
    centre = np.round(spot / step) * step
    offsets = np.arange(-STRIKES_EACH_SIDE, STRIKES_EACH_SIDE + 1)
    strikes: Floats = np.maximum(step[:, None], centre[:, None] + offsets * step[:, None])
    return strikes


def _draw_volumes(
    rng: np.random.Generator, u: Integers, days: Integers, moneyness: Floats, sigma: Floats
) -> Integers:
    activity = np.array([x.activity for x in UNDERLYINGS])[u]
    closeness = np.exp(-((moneyness / (sigma * np.sqrt(np.maximum(days, 2) / YEAR))) ** 2) / 3)
    level = 4000 * activity * closeness / (1 + days / 20)
    volume = level * rng.lognormal(0, 0.7, len(u))
    traded = rng.random(len(u)) < 0.04 + 0.75 * closeness
    result: Integers = np.where(traded, np.maximum(1, volume), 0).astype(np.int64)
    return result
