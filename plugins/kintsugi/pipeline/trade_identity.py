"""The identity of a trade: the same however often and however formatted it is delivered.

OPRA's sequence number is unique only within one line and day, and the same symbol trades at the same
millisecond at the same price all day, so no single column will do. The identity is a 128-bit BLAKE2b
digest of every column that describes the trade itself. Columns that describe the market around it
(quotes, volatility, delta) are left out: a vendor who corrects a quote has not made another trade.

Event time is kept to the millisecond, as Cassandra's timestamps are. Finer digits of a file are part of the identity,
or two trades of one millisecond on two lines could become one row.
"""

from __future__ import annotations

from hashlib import blake2b

CANARY_SYMBOL = "ZZKNTSG"
VERSION = (
    b"kintsugi/trade/1"  # BLAKE2b's personalisation, 16 bytes: a changed rule is another family of identities
)


def trade_id(
    symbol: str,
    ts: int | str,
    sequence: int,
    root: str,
    expiration: str,
    strike: float,
    option_type: str,
    exchange: int,
    size: int,
    price: float,
    condition: int,
    canceled_condition: int,
) -> str:
    """32 hex digits that identify one trade.

    ``ts``: milliseconds since 1970 UTC, as `exact_time` has it. ``expiration``: ``YYYY-MM-DD``. Strike and price
    enter as Python's shortest exact text of the double, so ``110.000`` and ``110`` are one trade. No field can
    contain the separator: the row format forbids it.
    """
    return digest(
        symbol, ts, sequence, root, expiration, repr(strike), option_type, exchange, size, repr(price),
        condition, canceled_condition,
    ).hex()  # fmt: skip


def exact_time(ts: int, finer: str) -> int | str:
    """The time in an identity: ``ts`` in milliseconds, and the digits of its file that follow them.

    Zeros at the end say nothing: ``.375``, ``.375000`` are one time.
    """
    digits = finer.rstrip("0")
    return f"{ts}.{digits}" if digits else ts


def digest(*columns: str | int) -> bytes:
    """The 16 bytes of the identity, from `trade_id`'s columns in its order, each in its one spelling."""
    return blake2b("|".join(map(str, columns)).encode(), digest_size=16, person=VERSION).digest()
