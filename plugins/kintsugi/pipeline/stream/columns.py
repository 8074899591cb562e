"""The columns that are derived from a trade, as Spark columns. Only Spark applications import this module."""

from __future__ import annotations

from pyspark.sql import Column  # noqa: TID253 - see above
from pyspark.sql import functions as F  # noqa: TID253, N812 - the name that Spark's own documentation uses
from pyspark.sql.types import DecimalType  # noqa: TID253

# Prices are below 10^9 dollars (`MAX_DOLLARS`). Below 10^5 a double is exact to ten decimals, and no price has more
# than six. The cast uses the shortest text of the double, which is the text in the file.
PRICE = DecimalType(30, 10)


def premium(size: Column, price: Column) -> Column:
    """Return the premium in dollars: contracts times dollars a share times 100 shares a contract."""
    return size * price * F.lit(100.0)


def side(price: Column, bid: Column, ask: Column) -> Column:
    """Return ``buy``, ``sell`` or ``unknown``, by the quote rule (Lee and Ready 1991, without its tick test).

    ``price``, ``bid``, ``ask``: dollars a share, as doubles.

    1. Without a valid quote (no ask, or a crossed quote) the side is unknown. A bid of 0 is valid: the option may be
       worthless.
    2. At or above the ask it is a buy, at or below the bid a sell.
    3. Between bid and ask the midpoint decides; exactly at the midpoint the side is unknown.

    Prices are compared as decimals: as binary fractions, 2.35 is not the midpoint of 2.30 and 2.40.
    """
    trade, low, high = (column.cast(PRICE) for column in (price, bid, ask))
    doubled, sum_of_quote = trade + trade, low + high
    return (
        F.when((high <= 0) | (low > high), "unknown")
        .when((trade >= high) & (trade > low), "buy")
        .when((trade <= low) & (trade < high), "sell")
        .when(doubled > sum_of_quote, "buy")
        .when(doubled < sum_of_quote, "sell")
        .otherwise("unknown")
    )


def expiry_bin(trade_date: Column, expiration: Column) -> Column:
    """Return ``short`` (0 to 30 days to expiration), ``medium`` (31 to 60) or ``long``; null for an expired option.

    `row_parser.parse_trade` rejects trades of expired options. One that reaches the topic in another way has no bin, so
    it never signals.
    """
    days = F.datediff(F.to_date(expiration), F.to_date(trade_date))
    return (
        F.when(days < 0, None).when(days <= 30, "short").when(days <= 60, "medium")
        .when(days.isNotNull(), "long")
    )  # fmt: skip


def delta_bin(delta: Column) -> Column:
    """Return the fifth of |delta| (puts are negative): ``0-20`` for 0 <= |delta| < 0.2; ``80-100`` includes 1.

    Null if |delta| > 1 or delta isn't a number.
    """
    size = F.abs(delta)
    return (
        F.when(size < 0.2, "0-20").when(size < 0.4, "20-40").when(size < 0.6, "40-60")
        .when(size < 0.8, "60-80").when(size <= 1.0, "80-100")
    )  # fmt: skip


def is_cancel(condition: Column) -> Column:
    """Whether the row cancels another trade: OPRA conditions 40 to 44."""
    return condition.between(40, 44)


def match_key(condition: Column) -> Column:
    """Return a hash that a trade and its cancel share, of contract, exchange, size, price and ``condition``.

    ``condition``: the trade's own, or the cancelled one of a cancel. The hash only finds candidates; the columns
    themselves decide whether they match.
    """
    names = ("root", "expiration", "strike", "option_type", "exchange", "size", "price")
    return F.xxhash64(*(F.col(name) for name in names), condition)
