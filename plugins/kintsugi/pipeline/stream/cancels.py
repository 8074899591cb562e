"""Find the trade that a cancel cancels: a pure function of the recorded trades, independent of their order of arrival.

A cancel (condition 40 to 44) repeats the contract, exchange, size and price of its trade, and has the trade's
condition. OPRA's kinds say which report of the contract is cancelled; docs/decisions/0115 has their names and sources.

| condition | OPRA | cancels |
|---|---|---|
| 40 | CANC | a report that was neither the last nor the opening one |
| 41 | CNCL | the last report of the contract |
| 42 | CNCO | the opening report, although later ones exist |
| 43 | CNOL | the only report of the contract |
| 44 | a stopped trade's cancel | a report of a stopped trade |

No document says whether a cancel also repeats the sequence number of its trade, so both are possible here.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

OPENING = 42  # CNCO


class Candidate(NamedTuple):
    """A trade or a cancel that differs from the others only in time and sequence number.

    ``opening``: a cancel of the opening report of its contract.
    """

    ts: int
    sequence: int
    trade_id: bytes
    opening: bool = False


def match_cancels(cancels: Iterable[Candidate], trades: Iterable[Candidate]) -> dict[bytes, bytes]:
    """Match cancels with trades; returns trade by cancel, without the cancels that match none.

    All arguments have the same contract, exchange, size and price, and the cancels' cancelled condition is the trades'
    condition. A cancel cancels at most one trade, which isn't later than itself. A trade is cancelled once:

    1. by the cancel with its sequence number;
    2. then by the other cancels in the order of time: each cancels the latest trade that is left, but a cancel of an
       opening report (CNCO) the earliest.
    """
    matches, unmatched, left = _match_by_sequence(cancels, trades)
    for cancel in unmatched:
        before = [trade for trade in left if trade.ts <= cancel.ts]
        if before:
            trade = before[0] if cancel.opening else before[-1]
            matches[cancel.trade_id] = trade.trade_id
            left.remove(trade)
    return matches


def all_match_by_sequence(cancels: Iterable[Candidate], trades: Iterable[Candidate]) -> bool:
    """Whether every cancel matches a trade by sequence number, so that earlier trades can't change the result."""
    return not _match_by_sequence(cancels, trades)[1]


def _match_by_sequence(
    cancels: Iterable[Candidate], trades: Iterable[Candidate]
) -> tuple[dict[bytes, bytes], list[Candidate], list[Candidate]]:
    """Match by sequence number; returns trade by cancel, the unmatched cancels, and the trades left, both in order."""
    left = sorted(set(trades))
    matches: dict[bytes, bytes] = {}
    unmatched = []
    for cancel in sorted(set(cancels)):
        same = [trade for trade in left if trade.sequence == cancel.sequence and trade.ts <= cancel.ts]
        if same:
            matches[cancel.trade_id] = same[-1].trade_id
            left.remove(same[-1])
        else:
            unmatched.append(cancel)
    return matches, unmatched, left
