"""Why a row or a file was rejected."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Reason(StrEnum):
    """Why a row or a file was rejected."""

    ENCODING = "encoding"
    TRUNCATED = "truncated"
    CORRUPT = "corrupt"
    TOO_LONG = "too-long"
    EXPANSION = "expansion"
    UNSUPPORTED = "unsupported"
    HEADER = "header"
    QUOTING = "quoting"
    COLUMNS = "columns"
    SYMBOL = "symbol"
    TIME = "time"
    DATE = "date"
    OPTION_TYPE = "option-type"
    NUMBER = "number"
    RANGE = "range"
    EXPIRED = "expired"


# A file with one of these can't be read beyond that place. How many rows are missing is unknown.
DAMAGE = frozenset({Reason.TRUNCATED, Reason.CORRUPT, Reason.EXPANSION, Reason.UNSUPPORTED})


def damage_in(rejected: Mapping[str, int]) -> list[str]:
    """The reasons among ``rejected`` (counts by reason) for which a file breaks off, sorted."""
    return sorted(DAMAGE & rejected.keys())


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why a line can't be used: a slug for the counts, and a sentence for people who read the dead letter."""

    reason: Reason
    text: str
