"""One cell of a delivered row → its value, or the reason why its row can't be used.

For the rows of both kinds of file: trades (`rows`) and end of day (`end_of_day`).
"""

from __future__ import annotations

import math
import re
from datetime import date
from functools import lru_cache

from kintsugi.core.rejections import Reason, Rejection

# Listed options trade since 26 April 1973 (Cboe). A later year than 2099 is a typing error or a filler; both bounds
# are constants, so that a file gives the same trades whenever it is read, and whatever the clock says.
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


def bounds() -> str:
    """The days that are taken, for a person."""
    return f"days from {date.fromordinal(EARLIEST)} to {date.fromordinal(LATEST)} are taken"


@lru_cache(maxsize=4096)
def day_of(text: str) -> int:
    """``YYYY-MM-DD`` → its ordinal."""
    try:
        return date.fromisoformat(text).toordinal()
    except ValueError:
        raise InvalidRow(Reason.DATE, f"no such date: {text}") from None


def iso_day(text: str, name: str) -> int:
    """The ordinal of the day ``YYYY-MM-DD`` in the column ``name``; raises InvalidRow for any other text."""
    if not _DATE_ONLY(text):
        raise InvalidRow(Reason.DATE, f"{name} is {text[:40]!r}, not YYYY-MM-DD")
    return day_of(text)


def listed_day(text: str, name: str) -> int:
    """`iso_day` of a day on which options could trade; raises InvalidRow for one before 1973 or after 2099."""
    day = iso_day(text, name)
    if not EARLIEST <= day <= LATEST:
        raise InvalidRow(Reason.DATE, f"{name} is {text}; {bounds()}")
    return day


def check_expiration(text: str, day: int) -> None:
    """Raise InvalidRow unless an option that trades on ``day`` (an ordinal) can expire on ``text`` (YYYY-MM-DD)."""
    expires = day_of(text)
    if expires < day:
        raise InvalidRow(Reason.EXPIRED, f"the option expired on {text}, before {date.fromordinal(day)}")
    if expires > day + LONGEST_LIFE_DAYS:
        years = LONGEST_LIFE_DAYS // 366
        raise InvalidRow(
            Reason.DATE, f"expiration is {text}, more than {years} years after {date.fromordinal(day)}"
        )


def symbol_of(text: str, name: str) -> str:
    """The text itself if it is a symbol of an underlying or a root; else raises InvalidRow."""
    if not _SYMBOL_ONLY(text):
        raise InvalidRow(Reason.SYMBOL, f"{name} is {text[:40]!r}, which is no symbol")
    return text


def kind_of_option(text: str) -> str:
    """``C`` or ``P``; else raises InvalidRow."""
    kind = text.upper()
    if kind not in ("C", "P"):
        raise InvalidRow(Reason.OPTION_TYPE, f"option_type is {text[:40]!r}, not C or P")
    return kind


def number(text: str, name: str) -> float:
    """The finite number in the column ``name``; raises InvalidRow for any other text and above 10^18."""
    if not NUMBER(text):
        raise InvalidRow(Reason.NUMBER, f"{name} is {text[:40]!r}, not a number")
    value = float(text)
    if not math.isfinite(value) or abs(value) > 1e18:
        raise InvalidRow(Reason.RANGE, f"{name} is {text[:40]!r}, too large")
    return value


def integer(text: str, name: str) -> int:
    """The whole number in the column ``name``, also spelled ``10.0`` or ``1e1``; else raises InvalidRow."""
    if _INT(text):
        return int(text)
    value = number(text, name)
    if not value.is_integer():
        raise InvalidRow(Reason.NUMBER, f"{name} is {text[:40]!r}, not a whole number")
    return int(value)
