"""What is derived from a trade, as Spark columns; only Spark applications import this module."""

from __future__ import annotations

from pyspark.sql import Column  # noqa: TID253 - see above
from pyspark.sql import functions as F  # noqa: TID253, N812 - the name that Spark's own documentation uses
from pyspark.sql.types import DecimalType  # noqa: TID253

# A price below 10^9 dollars (`MAX_DOLLARS`): a double is exact to its tenth decimal below 10^5, and no price has
# more than six. The cast goes by the shortest text of the double, which is the text of the file.
PRICE = DecimalType(30, 10)


def premium(size: Column, price: Column) -> Column:
    """Dollars that changed hands: contracts times dollars a share times 100 shares a contract."""
    return size * price * F.lit(100.0)


def side(price: Column, bid: Column, ask: Column) -> Column:
    """``buy``, ``sell`` or ``unknown``, by the quote rule (Lee and Ready 1991, without its tick test).

    At or above the ask a buy, at or below the bid a sell, between them by the midpoint. Exactly at the
    midpoint, or without a valid quote (no ask, or crossed), unknown. A bid of 0 is a valid quote for a
    worthless option.

    Prices are decimals and compared as such: as binary fractions, 2.35 is not the middle of 2.30 and 2.40. In: dollars
    a share, as doubles.
    """
    at, low, high = (column.cast(PRICE) for column in (price, bid, ask))
    twice, both = at + at, low + high
    return (
        F.when((high <= 0) | (low > high), "unknown")
        .when((at >= high) & (at > low), "buy")
        .when((at <= low) & (at < high), "sell")
        .when(twice > both, "buy")
        .when(twice < both, "sell")
        .otherwise("unknown")
    )


def expiry_bin(trade_date: Column, expiration: Column) -> Column:
    """``short`` (0 to 30 days to expiration), ``medium`` (31 to 60), ``long``; null for an expired option.

    `row_parser.parse_trade` rejects a trade of an expired option before it gets here; one that comes another way
    belongs to no bin, so that nothing is said about it.
    """
    days = F.datediff(F.to_date(expiration), F.to_date(trade_date))
    return (
        F.when(days < 0, None).when(days <= 30, "short").when(days <= 60, "medium")
        .when(days.isNotNull(), "long")
    )  # fmt: skip


def delta_bin(delta: Column) -> Column:
    """Fifths of |delta| (puts are negative): ``0-20`` holds 0 <= |delta| < 0.2; ``80-100`` holds 1 too.

    Null for what is no delta: |delta| > 1, or not a number.
    """
    size = F.abs(delta)
    return (
        F.when(size < 0.2, "0-20").when(size < 0.4, "20-40").when(size < 0.6, "40-60")
        .when(size < 0.8, "60-80").when(size <= 1.0, "80-100")
    )  # fmt: skip


def is_cancel(condition: Column) -> Column:
    """Whether the row takes another trade back: OPRA conditions 40 to 44."""
    return condition.between(40, 44)


def match_key(condition: Column) -> Column:
    """A number that a trade and its cancel share: contract, exchange, size, price and ``condition``.

    ``condition``: of a trade its own, of a cancel the cancelled one. It only says where to look; what matches
    is decided by the columns themselves.
    """
    names = ("root", "expiration", "strike", "option_type", "exchange", "size", "price")
    return F.xxhash64(*(F.col(name) for name in names), condition)
