"""One line of an end-of-day file (`UnderlyingOptionsEODCalcs`) → a contract's day, or the reason why it is none.

The header names the columns; seven of its 34 are used. The others reject no row, but a row must have as many cells as
the header: one cell too many or too few would shift numbers into wrong columns.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from kintsugi.core.rejections import Reason, Rejection
from kintsugi.pipeline.csv_fields import (
    InvalidRow,
    check_expiration,
    integer,
    kind_of_option,
    listed_day,
    number,
    symbol_of,
)
from kintsugi.pipeline.ingest.trade_header import header_names

EOD_NAME = "UnderlyingOptionsEODCalcs_"
USED = (
    "underlying_symbol", "quote_date", "expiration", "option_type", "trade_volume", "implied_volatility_1545",
    "delta_1545",
)  # fmt: skip
MAX_VOLUME = 2**40
MAX_IV = 1e6


class EodRow(NamedTuple):
    """A contract's day: the columns of the file that are used, in `USED`'s order.

    ``trade_volume``: contracts. ``implied_volatility_1545``: a fraction a year, 0 where unknown. ``delta_1545``:
    negative for puts.
    """

    underlying_symbol: str
    quote_date: str
    expiration: str
    option_type: str
    trade_volume: int
    implied_volatility_1545: float
    delta_1545: float


@dataclass(frozen=True, slots=True)
class EodHeader:
    """Where the used columns stand, in `USED`'s order, and how many columns there are."""

    places: tuple[int, ...]
    width: int


def is_header(line: str) -> bool:
    """Whether this line names columns instead of holding a contract."""
    names = line.lower().replace(" ", "_")
    return sum(name in names for name in USED) > 2


def header_fault(line: str) -> str | None:
    """What is wrong with this header, as a sentence; None if every used column is there once."""
    names = header_names(line)
    for name in USED:
        if names.count(name) != 1:
            return f"the header names column {name} {names.count(name)} times; it must be there once"
    return None


def header_of(line: str) -> EodHeader:
    """The header in a faultless line."""
    names = header_names(line)
    return EodHeader(tuple(names.index(name) for name in USED), len(names))


def parse(line: str, header: EodHeader) -> EodRow | Rejection:
    """The row on this line (without its line end), or why it is none. Raises nothing."""
    try:
        cells = _cells(line)
        if len(cells) != header.width:
            raise InvalidRow(Reason.COLUMNS, f"{len(cells)} columns, but the header has {header.width}")
        symbol, day, expiration, kind, volume, iv, delta = (cells[place].strip() for place in header.places)
        _check_days(day, expiration)
        row = EodRow(
            _symbol(symbol), day, expiration, kind_of_option(kind), integer(volume, USED[4]),
            number(iv, USED[5]), number(delta, USED[6]),
        )  # fmt: skip
    except InvalidRow as invalid:
        return invalid.rejection
    if not (0 <= row.trade_volume <= MAX_VOLUME and 0 <= row.implied_volatility_1545 <= MAX_IV):
        return Rejection(Reason.RANGE, "trade_volume or implied_volatility_1545 is out of its range")
    if not -1 <= row.delta_1545 <= 1:
        return Rejection(Reason.RANGE, f"delta_1545 is {delta}, not between -1 and 1")
    return row


def _cells(line: str) -> list[str]:
    if '"' not in line:
        return line.split(",")
    try:
        return next(csv.reader([line], strict=True, skipinitialspace=True))
    except (csv.Error, StopIteration) as error:
        raise InvalidRow(Reason.QUOTING, f"the quotes don't match: {error}") from None


@lru_cache(maxsize=4096)
def _symbol(text: str) -> str:
    return symbol_of(text, USED[0])


@lru_cache(maxsize=65536)
def _check_days(day: str, expiration: str) -> None:
    """Raise InvalidRow unless both are days, and the option lives on ``day``."""
    quoted = listed_day(day, USED[1])
    listed_day(expiration, USED[2])
    check_expiration(expiration, quoted)
