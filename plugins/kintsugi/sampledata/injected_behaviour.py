"""Inject the behaviour of informed traders into a day: the ground truth by which the signals are evaluated.

This module imports no detector and doesn't depend on how a signal is computed. Three behaviours:

- a **block**: one trade of several times the usual daily volume of its contract;
- a **sliced order**: small lots of usual size over some minutes, at the aggressive side of the quote. It is
  *directional* (buys calls, or buys puts), a *straddle* (buys calls and puts of one strike: a bet on
  movement, not on direction), or a *reversal* (buys calls and sells puts, or the reverse: a bet on
  direction that costs no premium);
- a **volatility shock**: for some minutes every trade of one underlying has a higher implied volatility.

A level defines how strong and how frequent they are: `LEVELS`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

import numpy as np

from kintsugi.core.errors import InputError
from kintsugi.sampledata.option_chain import UNDERLYINGS, Chain, Floats, Integers

if TYPE_CHECKING:
    from numpy.typing import NDArray

MINUTE = 60_000
SESSION_MINUTES = 405  # 09:30 to 16:15
MIDPOINT = 2


class Behaviour(StrEnum):
    """The behaviours of informed traders."""

    BLOCK = "block"
    DIRECTIONAL = "directional"
    STRADDLE = "straddle"
    REVERSAL = "reversal"
    SHOCK = "volatility-shock"


SLICED = (Behaviour.DIRECTIONAL, Behaviour.STRADDLE, Behaviour.REVERSAL)


@dataclass(frozen=True, slots=True)
class InjectionLevel:
    """Effect sizes and base rates.

    ``block_multiple``: a block's size as a multiple of the daily volume of its contract (uniform up to twice that), but
    at least ``block_contracts``. ``participation``: slices of an order a minute, as a multiple of the trades that the
    underlying has in an average minute, but at least ``slices``. ``aggressive``: share of the slices that pay the
    spread; the others trade at the midpoint. ``minutes``: duration of an order or a shock. ``iv_move``: implied
    volatility rises by this fraction. ``blocks``, ``orders`` (of each of the three kinds), ``shocked``: blocks, orders
    and shocked trades per million trades.
    """

    name: str
    block_multiple: float
    block_contracts: int
    participation: float
    slices: int
    aggressive: float
    minutes: int
    iv_move: float
    blocks: int
    orders: int
    shocked: int


LEVELS = {
    level.name: level
    for level in (
        InjectionLevel("easy", 10.0, 1000, 2.0, 90, 1.0, 5, 1.0, 800, 80, 2000),
        InjectionLevel("standard", 5.0, 500, 1.0, 60, 0.95, 5, 0.6, 400, 60, 1000),
        InjectionLevel("hard", 2.0, 100, 0.4, 25, 0.85, 3, 0.25, 100, 20, 250),
    )
}


@dataclass(frozen=True, slots=True)
class Order:
    """One sliced order or shock: behaviour, underlying, and its first and last millisecond of the day."""

    behaviour: Behaviour
    symbol: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Tape:
    """The trades of a day before they are written, one array element a trade, sorted by time.

    ``times``: milliseconds of the day. ``contracts``: index into the chain. ``sizes``: contracts. ``aggressor``: +1
    pays the ask, -1 hits the bid, MIDPOINT, 0 random. ``iv_factor``: multiplies implied volatility. ``block``,
    ``shocked``, ``sliced``: which trades are injected, by behaviour.
    """

    times: Integers
    contracts: Integers
    sizes: Integers
    aggressor: Integers
    iv_factor: Floats
    block: NDArray[np.bool_]
    shocked: NDArray[np.bool_]
    sliced: NDArray[np.bool_]

    @property
    def injected(self) -> NDArray[np.bool_]:
        """Whether an informed trader made the trade or changed its volatility."""
        result: NDArray[np.bool_] = self.block | self.shocked | self.sliced
        return result


def find_level(name: str) -> InjectionLevel:
    """Return the level; raises InputError for another name."""
    try:
        return LEVELS[name]
    except KeyError:
        raise InputError(f"there is no level {name!r}; choose one of {', '.join(LEVELS)}") from None


def baseline_tape(times: Integers, contracts: Integers, sizes: Integers) -> Tape:
    """Return the tape of a day without informed traders."""
    count = len(times)
    none = np.zeros(count, bool)
    return Tape(
        times, contracts, sizes, np.zeros(count, np.int64), np.ones(count), none, none.copy(), none.copy()
    )


@dataclass(frozen=True, slots=True)
class Intent:
    """A planned order: its behaviour, its underlying (index), and the number of its slices."""

    behaviour: Behaviour
    underlying: int
    slices: int


def draw_intents(level: InjectionLevel, trades: int, rng: np.random.Generator) -> list[Intent]:
    """Draw the orders of a day of ``trades`` trades, at most a fifth of which become slices.

    Busy underlyings have most of the orders, as they have most of all trades.
    """
    count = trades * level.orders // 1_000_000 * len(SLICED)
    activity = np.array([u.activity for u in UNDERLYINGS])
    underlyings = rng.choice(len(UNDERLYINGS), count, p=activity / activity.sum()).tolist()
    intents: list[Intent] = []
    left = trades // 5
    for number, underlying in enumerate(underlyings):
        per_minute = max(level.slices, level.participation * activity[underlying] * trades / SESSION_MINUTES)
        slices = int(per_minute * level.minutes)
        if slices > left:
            break
        left -= slices
        intents.append(Intent(SLICED[number % len(SLICED)], underlying, slices))
    return intents


def inject_behaviour(
    tape: Tape, chain: Chain, level: InjectionLevel, intents: list[Intent], rng: np.random.Generator
) -> tuple[Tape, list[Order]]:
    """Add the planned orders to the tape, and turn some of its other trades into blocks and shocked trades."""
    tape, orders = _add_orders(tape, chain, level, intents, rng)
    trades = len(tape.times)
    shocked, shocks = _draw_shocks(tape, chain, level, trades, rng)
    free = np.flatnonzero(~(tape.sliced | shocked))
    count = min(max(1, trades * level.blocks // 1_000_000), len(free))
    blocks = np.zeros(len(tape.times), bool)
    blocks[rng.choice(free, count, replace=False)] = True
    sizes = tape.sizes.copy()
    sizes[blocks] = _block_sizes(chain, tape.contracts[blocks], level, rng)
    iv_factor = np.where(shocked, 1 + level.iv_move, 1.0)
    result = Tape(tape.times, tape.contracts, sizes, tape.aggressor, iv_factor, blocks, shocked, tape.sliced)
    return result, orders + shocks


def _block_sizes(
    chain: Chain, contracts: Integers, level: InjectionLevel, rng: np.random.Generator
) -> Integers:
    multiple = level.block_multiple * rng.uniform(1, 2, len(contracts))
    return np.maximum(level.block_contracts, chain.volume[contracts] * multiple).astype(np.int64)


def _add_orders(
    tape: Tape, chain: Chain, level: InjectionLevel, intents: list[Intent], rng: np.random.Generator
) -> tuple[Tape, list[Order]]:
    times, contracts, sizes, sides = [tape.times], [tape.contracts], [tape.sizes], [tape.aggressor]
    orders: list[Order] = []
    for intent in intents:
        count = intent.slices
        span = level.minutes * MINUTE
        start = int(rng.integers(tape.times[0], max(tape.times[0] + 1, tape.times[-1] - span)))
        slice_times = np.sort(rng.integers(start, start + span, count))
        legs = _choose_legs(chain, intent, rng)
        leg = np.arange(count) % len(legs)
        is_aggressive = rng.random(count) < level.aggressive
        times.append(slice_times)
        contracts.append(np.array([contract for contract, _ in legs])[leg])
        sides.append(np.where(is_aggressive, np.array([side for _, side in legs])[leg], MIDPOINT))
        # Both legs of a pair have the same size, because each leg complements the other.
        lots = np.maximum(1, rng.lognormal(0.9, 1.1, count)).astype(np.int64)
        sizes.append(np.minimum(lots[np.arange(count) // len(legs)], 400))
        symbol = UNDERLYINGS[intent.underlying].symbol
        orders.append(Order(intent.behaviour, symbol, int(slice_times[0]), int(slice_times[-1])))
    columns = [np.concatenate(parts) for parts in (times, contracts, sizes, sides)]
    sliced = np.arange(len(columns[0])) >= len(tape.times)
    order = np.argsort(columns[0], kind="stable")
    none = np.zeros(len(order), bool)
    merged = Tape(
        columns[0][order], columns[1][order], columns[2][order], columns[3][order],
        np.ones(len(order)), none, none.copy(), sliced[order],
    )  # fmt: skip
    return merged, orders


def _choose_legs(chain: Chain, intent: Intent, rng: np.random.Generator) -> list[tuple[int, int]]:
    """Choose the legs of an order, each as (contract, side): what a trader with this behaviour would choose."""
    behaviour, underlying = intent.behaviour, intent.underlying
    candidates = np.flatnonzero((chain.underlying == underlying) & (chain.days >= 1) & (chain.days <= 60))
    size = np.abs(chain.delta[candidates])
    is_call = chain.call[candidates]
    expiration = rng.choice(np.unique(chain.days[candidates]))
    expires_then = chain.days[candidates] == expiration

    def nearest_contract(delta: float, call: bool) -> int:
        distance = np.abs(size - delta) + np.where(expires_then & (is_call == call), 0, 9)
        return int(candidates[np.argmin(distance)])

    is_up = bool(rng.random() < 0.5)
    if behaviour is Behaviour.DIRECTIONAL:
        return [(nearest_contract(float(rng.uniform(0.25, 0.55)), is_up), 1)]
    if behaviour is Behaviour.STRADDLE:
        at_the_money = nearest_contract(0.5, call=True)
        puts = np.flatnonzero(
            (chain.strike == chain.strike[at_the_money]) & (chain.days == chain.days[at_the_money])
            & (chain.underlying == underlying) & ~chain.call
        )  # fmt: skip
        return [(at_the_money, 1), (int(puts[0]), 1)]
    delta = float(rng.uniform(0.25, 0.4))
    side = 1 if is_up else -1
    return [(nearest_contract(delta, call=True), side), (nearest_contract(delta, call=False), -side)]


def _draw_shocks(
    tape: Tape, chain: Chain, level: InjectionLevel, trades: int, rng: np.random.Generator
) -> tuple[NDArray[np.bool_], list[Order]]:
    count = trades * level.shocked // 1_000_000
    shocked = np.zeros(len(tape.times), bool)
    shocks: list[Order] = []
    underlyings = chain.underlying[tape.contracts]
    while count > shocked.sum() and len(shocks) < count:
        start = int(rng.choice(tape.times))
        end = start + level.minutes * MINUTE
        underlying = int(rng.integers(len(UNDERLYINGS)))
        shocked |= (tape.times >= start) & (tape.times < end) & (underlyings == underlying) & ~tape.sliced
        shocks.append(Order(Behaviour.SHOCK, UNDERLYINGS[underlying].symbol, start, end))
    return shocked, shocks
