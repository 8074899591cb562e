"""Parse one line of an end-of-day file (`UnderlyingOptionsEODCalcs`): a contract's day, or why the line isn't one.

The header names the columns; seven of its 34 are used. The content of the others rejects no row. But a row must have as
many cells as the header: a missing or additional cell would shift numbers into wrong columns.
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
    parse_integer,
    parse_listed_day,
    parse_number,
    parse_option_type,
    parse_symbol,
)
from kintsugi.pipeline.ingest.trade_header import header_names

USED_COLUMNS = (
    "underlying_symbol", "quote_date", "expiration", "option_type", "trade_volume", "implied_volatility_1545",
    "delta_1545",
)  # fmt: skip
MAX_VOLUME = 2**40
MAX_IV = 1e6


class EodRow(NamedTuple):
    """A contract's day: the columns of the file that are used, in `USED_COLUMNS`'s order.

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
    """The positions of the used columns, in the order of `USED_COLUMNS`, and the number of all columns."""

    positions: tuple[int, ...]
    width: int


def is_header(line: str) -> bool:
    """Whether this line names columns instead of holding a contract."""
    names = line.lower().replace(" ", "_")
    return sum(name in names for name in USED_COLUMNS) > 2


def header_fault(line: str) -> str | None:
    """Say what is wrong with this header; None if it has every used column once."""
    names = header_names(line)
    for name in USED_COLUMNS:
        if names.count(name) != 1:
            return f"the header has the column {name} {names.count(name)} times; it must have it once"
    return None


def parse_header(line: str) -> EodHeader:
    """Return the header in a faultless line."""
    names = header_names(line)
    return EodHeader(tuple(names.index(name) for name in USED_COLUMNS), len(names))


def parse_eod_row(line: str, header: EodHeader) -> EodRow | Rejection:
    """Parse the row on this line (without its line end); return a Rejection if it isn't valid. Raises nothing."""
    try:
        cells = _split_cells(line)
        if len(cells) != header.width:
            raise InvalidRow(Reason.COLUMNS, f"{len(cells)} columns, but the header has {header.width}")
        symbol, day, expiration, kind, volume, iv, delta = (
            cells[position].strip() for position in header.positions
        )
        _check_days(day, expiration)
        row = EodRow(
            _parse_symbol_cached(symbol), day, expiration, parse_option_type(kind),
            parse_integer(volume, USED_COLUMNS[4]), parse_number(iv, USED_COLUMNS[5]),
            parse_number(delta, USED_COLUMNS[6]),
        )  # fmt: skip
    except InvalidRow as invalid:
        return invalid.rejection
    if not (0 <= row.trade_volume <= MAX_VOLUME and 0 <= row.implied_volatility_1545 <= MAX_IV):
        return Rejection(Reason.RANGE, "trade_volume or implied_volatility_1545 is out of its range")
    if not -1 <= row.delta_1545 <= 1:
        return Rejection(Reason.RANGE, f"delta_1545 is {delta}, not between -1 and 1")
    return row


def _split_cells(line: str) -> list[str]:
    if '"' not in line:
        return line.split(",")
    try:
        return next(csv.reader([line], strict=True, skipinitialspace=True))
    except (csv.Error, StopIteration) as error:
        raise InvalidRow(Reason.QUOTING, f"the quotes don't match: {error}") from None


@lru_cache(maxsize=4096)
def _parse_symbol_cached(text: str) -> str:
    return parse_symbol(text, USED_COLUMNS[0])


@lru_cache(maxsize=65536)
def _check_days(day: str, expiration: str) -> None:
    """Raise InvalidRow unless both are days and the option hasn't expired on ``day``."""
    quote_day = parse_listed_day(day, USED_COLUMNS[1])
    parse_listed_day(expiration, USED_COLUMNS[2])
    check_expiration(expiration, quote_day)
