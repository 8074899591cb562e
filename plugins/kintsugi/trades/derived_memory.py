"""A `derived.Store` in this process: for the evaluation of the signals, and for tests without a Cassandra.

It keeps Cassandra's rule that the value with the highest timestamp stays, a removal winning a tie.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from kintsugi.trades.derived_types import Alike, Cancel, Changes, Day, DayRecord, Stored, WindowKey
from kintsugi.trades.windows import Verdict

if TYPE_CHECKING:
    from pyarrow import Table


class Kept(NamedTuple):
    """A stored trade with the columns that a cancel repeats, and whether it is a cancel itself."""

    trade: Stored
    columns: Alike
    canceled: bool


class MemoryStore:
    """Tables as dictionaries: ``windows``, ``cancels``, ``marks``, ``unusual`` and ``late`` are there to be read."""

    def __init__(self) -> None:
        self._trades: dict[Day, dict[int, dict[bytes, Kept]]] = defaultdict(lambda: defaultdict(dict))
        self._epoch = 0
        self._written: dict[tuple[Any, ...], tuple[int, Any]] = {}

    def store(self, batch: Table) -> None:
        """What the executors do in the stream: upsert the trades of a batch (columns `derived.DERIVING`)."""
        for row in batch.to_pylist():
            trade = Stored.of(row)
            slots = self._trades[row["symbol"], row["trade_date"]]
            slots[trade.slot][trade.trade_id] = Kept(trade, Alike.of(row), row["canceled"])

    def claim(self, epoch: int) -> None:
        self._epoch = max(self._epoch, epoch)

    def youngest(self) -> int:
        return self._epoch

    def days(self, days: Sequence[Day]) -> Mapping[Day, DayRecord]:
        if not days:
            return {}
        windows, cancels = self.windows_written, self.cancels
        return {
            day: DayRecord(
                [key.start for key in windows if key.day == day],
                [key.start for key, found in windows.items() if key.day == day and found.signal],
                [cancel for (of, _), cancel in cancels.items() if of == day],
            )
            for day in days
        }

    def windows(self, keys: Sequence[WindowKey]) -> Mapping[WindowKey, Iterable[Stored]]:
        return {
            key: [
                kept.trade
                for kept in self._trades[key.day][key.slot].values()
                if kept.trade.flow.window == key.start and not kept.canceled
            ]
            for key in keys
        }

    def alike(self, columns: Alike, keys: Sequence[WindowKey]) -> Iterable[Stored]:
        for key in keys:
            kept = self._trades[key.day][key.slot].values()
            yield from (
                one.trade
                for one in kept
                if one.columns == columns and not one.canceled and one.trade.flow.window == key.start
            )

    def write(self, changes: Changes, timestamp: int) -> None:
        for key, found in changes.windows.items():
            self._put(("window", key), found, timestamp)
        for day, cancel in changes.cancels:
            self._put(("cancel", (day, cancel.cancel_id)), cancel, timestamp)
        for _, _, _, identity, by in changes.marks:
            self._put(("mark", identity), by, timestamp)
        for row in changes.unusual:
            self._put(("unusual", (row[3], row[4])), row, timestamp)
        for date, reason, partition, end_offset, trades in changes.late:
            self._put(("late", (date, reason, partition, end_offset)), trades, timestamp)
        for row in changes.unusual_canceled:
            self._put(("unusual_canceled", (row[3], row[4])), row, timestamp)
        self._move(changes, timestamp)

    def _move(self, changes: Changes, timestamp: int) -> None:
        for moved, source, target in (
            (changes.taken_back, "unusual", "unusual_canceled"),
            (changes.freed, "unusual_canceled", "unusual"),
        ):
            if not moved:
                continue
            identities = {identity for _, _, identity in moved}
            for (_, key), row in [(k, v) for k, (_, v) in self._written.items() if k[0] == source and v]:
                if key[0] in identities:
                    self._put((target, key), row, timestamp)
                    self._put((source, key), None, timestamp)

    def _put(self, key: tuple[str, Any], value: Any, timestamp: int) -> None:
        known = self._written.get(key)
        if known is None or timestamp > known[0] or (timestamp == known[0] and value is None):
            self._written[key] = (timestamp, value)

    def _table(self, table: str) -> dict[Any, Any]:
        return {
            key[1]: value
            for key, (_, value) in self._written.items()
            if key[0] == table and value is not None
        }

    @property
    def windows_written(self) -> dict[WindowKey, Verdict]:
        """The table ``flow_window``."""
        return self._table("window")

    @property
    def cancels(self) -> dict[tuple[Day, bytes], Cancel]:
        """The table ``cancel``."""
        return self._table("cancel")

    @property
    def marks(self) -> dict[bytes, bytes]:
        """Trade → cancel, as the column ``canceled_by`` has it."""
        return self._table("mark")

    @property
    def unusual(self) -> dict[tuple[bytes, str], tuple[Any, ...]]:
        """The table ``unusual_trade``, by identity and signal."""
        return self._table("unusual")

    @property
    def unusual_canceled(self) -> dict[tuple[bytes, str], tuple[Any, ...]]:
        """The table ``unusual_canceled``, by identity and signal."""
        return self._table("unusual_canceled")

    @property
    def late(self) -> dict[tuple[str, str, int, int], int]:
        """The table ``late_trades``."""
        return self._table("late")
