"""The identity of a trade: the same however often and however formatted it is delivered.

OPRA's sequence number is unique only within one line and day, and the same symbol trades at the same
millisecond at the same price all day, so no single column will do. The identity is a 128-bit BLAKE2b
digest of every column that describes the trade itself. Columns that describe the market around it
(quotes, volatility, delta) are left out: a vendor who corrects a quote has not made another trade.
"""

from __future__ import annotations

from hashlib import blake2b

CANARY_SYMBOL = "ZZKNTSG"
VERSION = (
    b"kintsugi/trade/1"  # BLAKE2b's personalisation, 16 bytes: a changed rule is another family of identities
)


def trade_id(
    symbol: str,
    ts: int,
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

    ``ts`` is in milliseconds since 1970 UTC, ``expiration`` is ``YYYY-MM-DD``. Strike and price enter as
    Python's shortest exact text of the double, so ``110.000`` and ``110`` are one trade. No field can contain
    the separator: the row format forbids it.
    """
    return digest(
        symbol, ts, sequence, root, expiration, repr(strike), option_type, exchange, size, repr(price),
        condition, canceled_condition,
    ).hex()  # fmt: skip


def digest(*columns: str | int) -> bytes:
    """The 16 bytes of the identity, from `trade_id`'s columns in its order, each in its one spelling."""
    return blake2b("|".join(map(str, columns)).encode(), digest_size=16, person=VERSION).digest()
