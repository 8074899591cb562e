"""What an informed trader does to the market, told as behaviour: the ground truth that signals are measured by.

Nothing here knows how a signal is computed, and nothing of a detector is imported. Three behaviours:

- a **block**: one print of several times what its contract usually trades on a whole day;
- a **sliced order**: small lots of usual size over some minutes, at the aggressive side of the quote. It is
  *directional* (buys calls, or buys puts), a *straddle* (buys calls and puts of one strike: a bet on
  movement, not on direction), or a *reversal* (buys calls and sells puts, or the other way round: a bet on
  direction that costs no premium);
- a **volatility shock**: for some minutes every trade of one underlying is dealt at a higher implied volatility.

A level says how strong the effects are and how rare: `LEVELS`.
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
    """What an informed trader does."""

    BLOCK = "block"
    DIRECTIONAL = "directional"
    STRADDLE = "straddle"
    REVERSAL = "reversal"
    SHOCK = "volatility-shock"


SLICED = (Behaviour.DIRECTIONAL, Behaviour.STRADDLE, Behaviour.REVERSAL)


@dataclass(frozen=True, slots=True)
class InjectionLevel:
    """Effect sizes and base rates.

    ``block_multiple``: a block's size in usual days of its contract (uniform up to twice that), but at
    least ``block_contracts``. ``participation``: slices of an order a minute, as a multiple of the trades
    that the underlying has in an average minute, but at least ``slices``. ``aggressive``: share of the slices
    that pay the spread, the rest trades at the midpoint. ``minutes``: how long an order or a shock lasts.
    ``iv_move``: implied volatility rises by this fraction. ``blocks``, ``orders`` (of each of the three
    kinds), ``shocked``: blocks, orders and shocked trades per million trades.
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

    ``times``: milliseconds of the day. ``contracts``: index into the chain. ``sizes``: contracts.
    ``aggressor``: +1 pays the ask, -1 hits the bid, MIDPOINT, 0 as it comes. ``iv_factor``: multiplies implied
    volatility. ``block``, ``shocked``, ``sliced``: which trades are planted, by behaviour.
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
    def planted(self) -> NDArray[np.bool_]:
        """Every trade that an informed trader made or moved."""
        result: NDArray[np.bool_] = self.block | self.shocked | self.sliced
        return result


def find_level(name: str) -> InjectionLevel:
    """The level; raises InputError for another name."""
    try:
        return LEVELS[name]
    except KeyError:
        raise InputError(f"there is no level {name!r}; choose one of {', '.join(LEVELS)}") from None


def baseline_tape(times: Integers, contracts: Integers, sizes: Integers) -> Tape:
    """A day on which nobody knows more than the others."""
    count = len(times)
    none = np.zeros(count, bool)
    return Tape(
        times, contracts, sizes, np.zeros(count, np.int64), np.ones(count), none, none.copy(), none.copy()
    )


@dataclass(frozen=True, slots=True)
class Intent:
    """An order before it is on the tape: what, on which underlying (index), in how many slices."""

    behaviour: Behaviour
    underlying: int
    slices: int


def draw_intents(level: InjectionLevel, trades: int, rng: np.random.Generator) -> list[Intent]:
    """The orders of a day of ``trades`` trades, at most a fifth of which become slices.

    Busy underlyings have most of the orders, as they have most of all trades.
    """
    count = trades * level.orders // 1_000_000 * len(SLICED)
    activity = np.array([u.activity for u in UNDERLYINGS])
    chosen: list[Intent] = []
    left = trades // 5
    for number, who in enumerate(rng.choice(len(UNDERLYINGS), count, p=activity / activity.sum()).tolist()):
        a_minute = max(level.slices, level.participation * activity[who] * trades / SESSION_MINUTES)
        slices = int(a_minute * level.minutes)
        if slices > left:
            break
        left -= slices
        chosen.append(Intent(SLICED[number % len(SLICED)], who, slices))
    return chosen


def inject_behaviour(
    tape: Tape, chain: Chain, level: InjectionLevel, wanted: list[Intent], rng: np.random.Generator
) -> tuple[Tape, list[Order]]:
    """Add the wanted orders to the tape, and turn some of its other trades into blocks and shocked ones."""
    tape, orders = _add_orders(tape, chain, level, wanted, rng)
    trades = len(tape.times)
    shocked, shocks = _draw_shocks(tape, chain, level, trades, rng)
    free = np.flatnonzero(~(tape.sliced | shocked))
    count = min(max(1, trades * level.blocks // 1_000_000), len(free))
    blocks = np.zeros(len(tape.times), bool)
    blocks[rng.choice(free, count, replace=False)] = True
    sizes = tape.sizes.copy()
    sizes[blocks] = _block_sizes(chain, tape.contracts[blocks], level, rng)
    iv_factor = np.where(shocked, 1 + level.iv_move, 1.0)
    planted = Tape(tape.times, tape.contracts, sizes, tape.aggressor, iv_factor, blocks, shocked, tape.sliced)
    return planted, orders + shocks


def _block_sizes(
    chain: Chain, contracts: Integers, level: InjectionLevel, rng: np.random.Generator
) -> Integers:
    multiple = level.block_multiple * rng.uniform(1, 2, len(contracts))
    return np.maximum(level.block_contracts, chain.volume[contracts] * multiple).astype(np.int64)


def _add_orders(
    tape: Tape, chain: Chain, level: InjectionLevel, wanted: list[Intent], rng: np.random.Generator
) -> tuple[Tape, list[Order]]:
    times, contracts, sizes, sides, orders = (
        [tape.times],
        [tape.contracts],
        [tape.sizes],
        [tape.aggressor],
        [],
    )
    for intent in wanted:
        count = intent.slices
        span = level.minutes * MINUTE
        start = int(rng.integers(tape.times[0], max(tape.times[0] + 1, tape.times[-1] - span)))
        at = np.sort(rng.integers(start, start + span, count))
        legs = _choose_legs(chain, intent, rng)
        leg = np.arange(count) % len(legs)
        pays = rng.random(count) < level.aggressive
        times.append(at)
        contracts.append(np.array([c for c, _ in legs])[leg])
        sides.append(np.where(pays, np.array([s for _, s in legs])[leg], MIDPOINT))
        # Both legs of a pair have the same size: the trader wants the one as the complement of the other.
        lots = np.maximum(1, rng.lognormal(0.9, 1.1, count)).astype(np.int64)
        sizes.append(np.minimum(lots[np.arange(count) // len(legs)], 400))
        orders.append(Order(intent.behaviour, UNDERLYINGS[intent.underlying].symbol, int(at[0]), int(at[-1])))
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
    """(contract, side) of each leg: what a trader of this kind would choose on this underlying."""
    behaviour, underlying = intent.behaviour, intent.underlying
    mine = np.flatnonzero((chain.underlying == underlying) & (chain.days >= 1) & (chain.days <= 60))
    size = np.abs(chain.delta[mine])
    call = chain.call[mine]
    expiration = rng.choice(np.unique(chain.days[mine]))
    near = chain.days[mine] == expiration

    def contract(wanted: float, calls: bool) -> int:
        distance = np.abs(size - wanted) + np.where(near & (call == calls), 0, 9)
        return int(mine[np.argmin(distance)])

    up = bool(rng.random() < 0.5)
    if behaviour is Behaviour.DIRECTIONAL:
        return [(contract(float(rng.uniform(0.25, 0.55)), up), 1)]
    if behaviour is Behaviour.STRADDLE:
        at_the_money = contract(0.5, calls=True)
        same = np.flatnonzero(
            (chain.strike == chain.strike[at_the_money]) & (chain.days == chain.days[at_the_money])
            & (chain.underlying == underlying) & ~chain.call
        )  # fmt: skip
        return [(at_the_money, 1), (int(same[0]), 1)]
    delta = float(rng.uniform(0.25, 0.4))
    return [(contract(delta, calls=True), 1 if up else -1), (contract(delta, calls=False), -1 if up else 1)]


def _draw_shocks(
    tape: Tape, chain: Chain, level: InjectionLevel, trades: int, rng: np.random.Generator
) -> tuple[NDArray[np.bool_], list[Order]]:
    wanted = trades * level.shocked // 1_000_000
    shocked = np.zeros(len(tape.times), bool)
    shocks: list[Order] = []
    underlying = chain.underlying[tape.contracts]
    while wanted > shocked.sum() and len(shocks) < wanted:
        start = int(rng.choice(tape.times))
        end = start + level.minutes * MINUTE
        who = int(rng.integers(len(UNDERLYINGS)))
        hit = (tape.times >= start) & (tape.times < end) & (underlying == who) & ~tape.sliced
        shocked |= hit
        shocks.append(Order(Behaviour.SHOCK, UNDERLYINGS[who].symbol, start, end))
    return shocked, shocks
