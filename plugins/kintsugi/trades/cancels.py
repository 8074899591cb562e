"""Which trade does a cancel take back? A pure function of what is on record, so the order of arrival is nothing to it.

A cancel (condition 40 to 44) repeats its trade: contract, exchange, size and price, and it names the
trade's condition. Whether it also repeats the sequence number is not said anywhere, so both are allowed for.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class Candidate(NamedTuple):
    """A trade or a cancel that agrees with the others in everything but time and sequence number."""

    ts: int
    sequence: int
    trade_id: bytes


def match(cancels: Iterable[Candidate], trades: Iterable[Candidate]) -> dict[bytes, bytes]:
    """Cancel → the trade that it takes back; a cancel without one isn't in the answer.

    All arguments agree in contract, exchange, size, price, and the cancels' cancelled condition is the
    trades' condition. A cancel takes back at most one trade, no later than itself, and a trade is taken back
    once: first by the cancel with its sequence number; then every other cancel, in the order of time,
    takes the latest trade that is left.
    """
    found, waiting, left = _by_sequence(cancels, trades)
    for cancel in waiting:
        before = [t for t in left if t.ts <= cancel.ts]
        if before:
            found[cancel.trade_id] = before[-1].trade_id
            left.remove(before[-1])
    return found


def all_by_sequence(cancels: Iterable[Candidate], trades: Iterable[Candidate]) -> bool:
    """Whether every cancel finds its own trade by sequence number, so that no earlier trade can matter."""
    return not _by_sequence(cancels, trades)[1]


def _by_sequence(
    cancels: Iterable[Candidate], trades: Iterable[Candidate]
) -> tuple[dict[bytes, bytes], list[Candidate], list[Candidate]]:
    """Cancel → trade by sequence number; the cancels without one, and the trades that are left, both in order."""
    left = sorted(set(trades))
    found: dict[bytes, bytes] = {}
    waiting = []
    for cancel in sorted(set(cancels)):
        same = [t for t in left if t.sequence == cancel.sequence and t.ts <= cancel.ts]
        if same:
            found[cancel.trade_id] = same[-1].trade_id
            left.remove(same[-1])
        else:
            waiting.append(cancel)
    return found, waiting, left
