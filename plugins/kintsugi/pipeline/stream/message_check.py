"""Check whether a message on the topic is a trade, as a Spark column. Only Spark applications import this module.

Every producer with access to the topic can write anything to it. A row that Cassandra or the driver can't store would
fail its batch forever. So everything that a batch needs is checked here, before anything is computed from it. The
ranges are those of `row_parser.parse_trade`. Fields that no later step needs (``iv``, quotes, ``exchanges``) may be
missing.
"""

from __future__ import annotations

from pyspark.sql import Column  # noqa: TID253 - see above
from pyspark.sql import functions as F  # noqa: TID253, N812 - the name that Spark's own documentation uses

TOMBSTONE = "tombstone"
NOT_JSON = "json"
RAW_BYTES = 2048  # of an invalid message that are kept: more than a trade has

MAX_TEXT = 64  # characters of a symbol or root; Cassandra's limit for a key is 64 KiB
MAX_NUMBER = 1e18
SMALL = 2**15  # Cassandra's smallint
DAY_MS = 86_400_000
_DATE = r"^\d{4}-\d\d-\d\d$"


def find_problem(trade: Column, value: Column) -> Column:
    """Return why a message isn't a trade, as a code; null for a trade.

    ``trade``: the result of `from_json`; ``value``: the message's bytes. The code is ``tombstone`` for a message
    without a value, ``json`` for one without any known field, else the name of the first field that is missing or out
    of range.
    """
    names = [name for name, _ in _field_checks(trade)]
    first_fault = F.coalesce(
        *(F.when(~F.coalesce(holds, F.lit(False)), F.lit(name)) for name, holds in _field_checks(trade)),
    )
    nothing_known = F.coalesce(*(trade[name].cast("string") for name in names)).isNull()
    return (
        F.when(value.isNull(), F.lit(TOMBSTONE)).when(nothing_known, F.lit(NOT_JSON)).otherwise(first_fault)
    )


def _field_checks(trade: Column) -> list[tuple[str, Column]]:
    """Return, for each field that a batch needs, the condition that must hold; null counts as false."""
    day = _parse_day(trade["trade_date"])
    since_midnight_utc = trade["ts"] - F.unix_date(day).cast("long") * DAY_MS
    return [
        ("trade_id", trade["trade_id"].rlike("^[0-9a-f]{32}$")),
        ("symbol", F.length(trade["symbol"]).between(1, MAX_TEXT)),
        ("trade_date", day.isNotNull()),
        # A day in New York is, in UTC, within the two days that begin at midnight of its date.
        ("ts", since_midnight_utc.between(0, 2 * DAY_MS)),
        ("slot", trade["slot"].between(0, 95)),
        ("sequence", trade["sequence"].isNotNull()),
        ("root", F.length(trade["root"]).between(1, MAX_TEXT)),
        ("expiration", _parse_day(trade["expiration"]).isNotNull()),
        ("strike", (trade["strike"] > 0) & (trade["strike"] < MAX_NUMBER)),
        ("option_type", trade["option_type"].isin("C", "P")),
        ("exchange", _fits_smallint(trade["exchange"])),
        ("size", trade["size"] > 0),
        ("price", (trade["price"] >= 0) & (trade["price"] < MAX_NUMBER)),
        ("condition", _fits_smallint(trade["condition"])),
        ("canceled_condition", _fits_smallint(trade["canceled_condition"])),
        ("delta", F.abs(trade["delta"]) <= 1),
        *(
            (
                name,
                trade[name].isNull() | (F.abs(trade[name]) < MAX_NUMBER),
            )  # false for a number that is none
            for name in ("bid", "ask", "iv", "underlying_bid", "underlying_ask")
        ),
        ("exchanges", trade["exchanges"].isNull() | _fits_smallint(trade["exchanges"])),
    ]


def _parse_day(text: Column) -> Column:
    """Return the date ``YYYY-MM-DD``; null if it doesn't exist. Year 0 counts as such: Python doesn't have it."""
    return F.when(text.rlike(_DATE) & ~text.startswith("0000"), F.try_to_date(text, "yyyy-MM-dd"))


def _fits_smallint(number: Column) -> Column:
    return (number >= 0) & (number < SMALL)
