"""Are the windows what the stored trades sum to? The account's look at what is added up.

A window is a function of the stored trades that count (decision 30), so it can be computed again from the rows that the
account reads anyway. A trade that is counted twice or left out, and a window that was changed by hand, show as a
difference.

1. Partition by partition the trades are summed up; when a symbol's day is complete, its windows are read and compared.
2. The stream stores a batch's trades before their windows. So what differs is looked at again when the stream has
   committed what was on the topic at the last look: what has not changed by then on either side is wrong.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from kintsugi.settings import KEYSPACE
from kintsugi.trades.derived_types import Day
from kintsugi.trades.stored import ALWAYS, Read, finished, milliseconds, read_partitions
from kintsugi.trades.windows import Sums, Verdict, flow_of, verdict

if TYPE_CHECKING:
    from cassandra.cluster import Session

COLUMNS = ("side", "canceled", "canceled_by")  # of `trade`, beside what the account reads
SLOTS = 96  # quarters of an hour, a day

Window = tuple[str, str, int]  # symbol, trade date, start in milliseconds since 1970 UTC
Sides = tuple[Verdict, Verdict]  # what the stored trades sum to, and what stands in the table

NOTHING = verdict(Sums())


class WindowAudit:
    """Compares the windows of the days whose partitions it is shown, and keeps what differs."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._query = session.prepare(
            f"SELECT window_start, {', '.join(Verdict._fields)} FROM {KEYSPACE}.flow_window "
            "WHERE symbol = ? AND trade_date = ?"
        )
        self._day: Day | None = None
        self._sums: dict[int, Sums] = defaultdict(Sums)
        self._differing: dict[Window, Sides] = {}
        self.compared = 0
        self.wrong: list[Window] = []

    def see(self, read: Read, rows: Iterable[Any]) -> None:
        """The rows of a partition (with COLUMNS); all partitions of a symbol's day in a row."""
        day = read[:2]
        if day != self._day:
            self.close()
            self._day = day
        add(self._sums, rows)

    def close(self) -> None:
        """Compare the day whose partitions were seen last."""
        if self._day is None:
            return
        windows = self._windows(self._day)
        self.compared += len(windows.keys() | self._sums.keys())
        self._keep(self._day, differences(self._sums, windows))
        self._day, self._sums = None, defaultdict(Sums)

    def settle(self, passed: Callable[[], bool], deadline: float) -> int:
        """Look at what differs again, once or until ``deadline``; returns how many windows are still being written.

        ``passed`` waits until the stream has stored what is on the topic by now, and says whether it has. What is wrong
        is in ``wrong`` afterwards, in order.
        """
        self.close()
        while self._differing and passed():
            before, self._differing = self._differing, {}
            for day in sorted({window[:2] for window in before}):
                sums: dict[int, Sums] = defaultdict(Sums)
                for rows in read_partitions(self._session, _whole(day), COLUMNS):
                    add(sums, rows)
                self._keep(day, differences(sums, self._windows(day)), known=before)
            if time.monotonic() >= deadline:
                break
        self.wrong.sort()
        return len(self._differing)

    def _keep(
        self, day: Day, found: Mapping[int, Sides], known: Mapping[Window, Sides] | None = None
    ) -> None:
        """Remember what differs; with what is ``known``, only that counts, and what is the same as before is wrong."""
        for start, sides in found.items():
            window = (*day, start)
            if known is None or (window in known and known[window] != sides):
                self._differing[window] = sides
            elif window in known:
                self.wrong.append(window)

    def _windows(self, day: Day) -> dict[int, Verdict]:
        asked = self._session.execute_async(self._query, day)
        return {
            milliseconds(row.window_start): Verdict._make([*row[1:-1], row.signal or None])
            for row in finished(self._session, self._query, day, asked)
        }


def add(sums: dict[int, Sums], rows: Iterable[Any]) -> None:
    """Add the stored trades that count to the sums of their windows, by start: no cancels, nothing taken back."""
    for row in rows:
        if not row.canceled and row.canceled_by is None:
            flow = flow_of(milliseconds(row.ts), row.option_type, row.side, row.size, row.price, row.delta)
            sums[flow.window].add(flow)


def differences(sums: Mapping[int, Sums], windows: Mapping[int, Verdict]) -> dict[int, Sides]:
    """Both sides of each window that isn't what its trades sum to; one that isn't there counts as empty. Pure.

    A window whose last trade was taken back stays, with nothing in it.
    """
    found = {}
    for start in sums.keys() | windows.keys():
        expected = verdict(sums[start]) if start in sums else NOTHING
        stands = windows.get(start, NOTHING)
        if expected != stands:
            found[start] = (expected, stands)
    return found


def name(window: Window) -> str:
    """How a window is called in an account: its symbol, its trading day, and its minute in UTC."""
    symbol, day, start = window
    return f"{symbol} {day} {datetime.fromtimestamp(start / 1000, UTC):%H:%M}Z"


def _whole(day: Day) -> list[Read]:
    return [(*day, slot, *ALWAYS) for slot in range(SLOTS)]
