"""The identity of a trade: the same however often and however formatted it is delivered.

No single column identifies a trade. OPRA's sequence number is unique only within one line and day, and one symbol may
trade twice in a millisecond at one price. So the identity is a 128-bit BLAKE2b digest of every column that describes
the trade itself. Columns that describe the market around it (quotes, volatility, delta) are left out, so a corrected
quote doesn't make another trade.

Event time has milliseconds, as Cassandra's timestamps have. Finer digits of a file are part of the identity: without
them, two trades of one millisecond on two lines could become one row.
"""

from __future__ import annotations

from hashlib import blake2b

SYNTHETIC_SYMBOL = "ZZKNTSG"
VERSION = b"kintsugi/trade/1"  # BLAKE2b's personalisation, 16 bytes; with another rule all identities change


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
    """Return the 32 hex digits that identify one trade.

    ``ts``: milliseconds since 1970 UTC, as `exact_time` returns them. ``expiration``: ``YYYY-MM-DD``. Strike and price
    are written as Python's shortest exact text of the double, so ``110.000`` and ``110`` are one trade. No field
    contains the separator: the row format forbids it.
    """
    return identity_digest(
        symbol, ts, sequence, root, expiration, repr(strike), option_type, exchange, size, repr(price),
        condition, canceled_condition,
    ).hex()  # fmt: skip


def exact_time(ts: int, finer: str) -> int | str:
    """Return the time in an identity: ``ts`` in milliseconds, and the digits that follow them in the file.

    Zeros at the end are removed: ``.375`` and ``.375000`` are one time.
    """
    digits = finer.rstrip("0")
    return f"{ts}.{digits}" if digits else ts


def identity_digest(*columns: str | int) -> bytes:
    """Return the 16 bytes of the identity, from the columns of `trade_id` in that order, in their exact spelling."""
    return blake2b("|".join(map(str, columns)).encode(), digest_size=16, person=VERSION).digest()
