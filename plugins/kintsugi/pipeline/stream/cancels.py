"""Which trade does a cancel take back? A pure function of what is on record, so the order of arrival is nothing to it.

A cancel (condition 40 to 44) repeats its trade: contract, exchange, size and price, and it names the trade's condition.
OPRA's kinds say which report of the contract is meant; their names and sources are in docs/decisions/0115.

| condition | OPRA | takes back |
|---|---|---|
| 40 | CANC | a report that was neither the last nor the opening one |
| 41 | CNCL | the last report of the contract |
| 42 | CNCO | the opening report, although later ones have come |
| 43 | CNOL | the only report of the contract |
| 44 | a stopped trade's cancel | a report of a stopped trade |

Whether a cancel also repeats the sequence number of its trade is not said anywhere, so both are allowed for.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

OPENING = 42  # CNCO


class Candidate(NamedTuple):
    """A trade or a cancel that agrees with the others in everything but time and sequence number.

    ``opening``: a cancel of the opening report of its contract.
    """

    ts: int
    sequence: int
    trade_id: bytes
    opening: bool = False


def match_cancels(cancels: Iterable[Candidate], trades: Iterable[Candidate]) -> dict[bytes, bytes]:
    """Cancel → the trade that it takes back; a cancel without one isn't in the answer.

    All arguments agree in contract, exchange, size, price, and the cancels' cancelled condition is the
    trades' condition. A cancel takes back at most one trade, no later than itself, and a trade is taken back
    once: first by the cancel with its sequence number; then every other cancel, in the order of time,
    takes the latest trade that is left, and one of an opening report (CNCO) the earliest.
    """
    found, waiting, left = _match_by_sequence(cancels, trades)
    for cancel in waiting:
        before = [t for t in left if t.ts <= cancel.ts]
        if before:
            taken = before[0] if cancel.opening else before[-1]
            found[cancel.trade_id] = taken.trade_id
            left.remove(taken)
    return found


def all_match_by_sequence(cancels: Iterable[Candidate], trades: Iterable[Candidate]) -> bool:
    """Whether every cancel finds its own trade by sequence number, so that no earlier trade can matter."""
    return not _match_by_sequence(cancels, trades)[1]


def _match_by_sequence(
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
