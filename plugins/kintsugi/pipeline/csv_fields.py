"""Parse one cell of a delivered row: its value, or the reason why the row can't be used.

For the rows of both kinds of file: trades (`row_parser`) and end of day (`end_of_day`).
"""

from __future__ import annotations

import math
import re
from datetime import date
from functools import lru_cache

from kintsugi.core.rejections import Reason, Rejection

# Listed options trade since 26 April 1973 (Cboe). A year after 2099 is a typing error or a placeholder. Both limits are
# constants, so a file gives the same trades whenever it is read.
EARLIEST, LATEST = date(1973, 4, 26).toordinal(), date(2099, 12, 31).toordinal()
# Cboe lists options for up to 15 years (LEAPS, since August 2012).
LONGEST_LIFE_DAYS = 20 * 366
SYMBOL = r"\^?[A-Z0-9][A-Z0-9./-]{0,15}"
DATE = r"\d{4}-\d\d-\d\d"
_SYMBOL_ONLY = re.compile(SYMBOL, re.ASCII).fullmatch
_DATE_ONLY = re.compile(DATE, re.ASCII).fullmatch
_INT = re.compile(r"-?\d{1,18}", re.ASCII).fullmatch
NUMBER = re.compile(r"[+-]?(?:\d{1,15}(?:\.\d{0,15})?|\.\d{1,15})(?:[eE][+-]?\d{1,2})?", re.ASCII).fullmatch


class InvalidRow(Exception):
    """A cell that makes its row unusable; carries the Rejection."""

    def __init__(self, reason: Reason, text: str) -> None:
        super().__init__(text)
        self.rejection = Rejection(reason, text)


def format_listed_days() -> str:
    """Say which days are valid, for an error message."""
    return f"valid days are {date.fromordinal(EARLIEST)} to {date.fromordinal(LATEST)}"


@lru_cache(maxsize=4096)
def day_ordinal(text: str) -> int:
    """Return the ordinal of the day ``YYYY-MM-DD``; raises InvalidRow for a day that doesn't exist."""
    try:
        return date.fromisoformat(text).toordinal()
    except ValueError:
        raise InvalidRow(Reason.DATE, f"no such date: {text}") from None


def parse_day(text: str, name: str) -> int:
    """Return the ordinal of the day ``YYYY-MM-DD`` in the column ``name``; raises InvalidRow for any other text."""
    if not _DATE_ONLY(text):
        raise InvalidRow(Reason.DATE, f"{name} is {text[:40]!r}, not YYYY-MM-DD")
    return day_ordinal(text)


def parse_listed_day(text: str, name: str) -> int:
    """`parse_day` for a day on which options could trade; raises InvalidRow for one before 1973 or after 2099."""
    day = parse_day(text, name)
    if not EARLIEST <= day <= LATEST:
        raise InvalidRow(Reason.DATE, f"{name} is {text}; {format_listed_days()}")
    return day


def check_expiration(text: str, day: int) -> None:
    """Raise InvalidRow unless an option that trades on ``day`` (an ordinal) can expire on ``text`` (YYYY-MM-DD)."""
    expires = day_ordinal(text)
    if expires < day:
        raise InvalidRow(Reason.EXPIRED, f"the option expired on {text}, before {date.fromordinal(day)}")
    if expires > day + LONGEST_LIFE_DAYS:
        years = LONGEST_LIFE_DAYS // 366
        raise InvalidRow(
            Reason.DATE, f"expiration is {text}, more than {years} years after {date.fromordinal(day)}"
        )


def parse_symbol(text: str, name: str) -> str:
    """Return the text if it is the symbol of an underlying or a root; raises InvalidRow if not."""
    if not _SYMBOL_ONLY(text):
        raise InvalidRow(Reason.SYMBOL, f"{name} is {text[:40]!r}, not a symbol")
    return text


def parse_option_type(text: str) -> str:
    """Return ``C`` or ``P``; raises InvalidRow for any other text."""
    kind = text.upper()
    if kind not in ("C", "P"):
        raise InvalidRow(Reason.OPTION_TYPE, f"option_type is {text[:40]!r}, not C or P")
    return kind


def parse_number(text: str, name: str) -> float:
    """Return the finite number in the column ``name``; raises InvalidRow for any other text and above 10^18."""
    if not NUMBER(text):
        raise InvalidRow(Reason.NUMBER, f"{name} is {text[:40]!r}, not a number")
    value = float(text)
    if not math.isfinite(value) or abs(value) > 1e18:
        raise InvalidRow(Reason.RANGE, f"{name} is {text[:40]!r}, too large")
    return value


def parse_integer(text: str, name: str) -> int:
    """Return the whole number in the column ``name``, also written as ``10.0`` or ``1e1``; else raises InvalidRow."""
    if _INT(text):
        return int(text)
    value = parse_number(text, name)
    if not value.is_integer():
        raise InvalidRow(Reason.NUMBER, f"{name} is {text[:40]!r}, not a whole number")
    return int(value)
