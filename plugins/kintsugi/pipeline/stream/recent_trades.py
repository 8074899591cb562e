"""The trades that came last, in the driver's memory: where the trade that a cancel takes back nearly always is.

Asking Cassandra for it means filtering a whole partition, and partitions and cancels both grow with the rate of
trades: at 300 trades a second these questions took half of the processor time that Cassandra used.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from kintsugi.pipeline.stream.derived_records import Day, MatchColumns, StoredTrade

if TYPE_CHECKING:
    from pyarrow import Table

CAPACITY = 100_000  # trades: about 20 MB
_COLUMNS = (
    "match", "trade_id", "symbol", "trade_date", "slot", "ts", "sequence", "root", "expiration", "strike",
    "option_type", "exchange", "size", "price", "condition", "delta", "side", "canceled", "stamp",
)  # fmt: skip


class RecentTrades:
    """The newest batches of stored trades, at most about ``capacity`` trades."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._batches: deque[tuple[Any, Table]] = deque()
        self._held = 0

    def add(self, batch: Table) -> None:
        """Remember a batch (columns `derived_tables.DERIVING`), and forget the oldest ones beyond the capacity."""
        kept = batch.select(_COLUMNS)
        self._batches.append((kept.column("match").to_numpy(), kept))
        self._held += kept.num_rows
        while self._held > self._capacity and len(self._batches) > 1:
            _, oldest = self._batches.popleft()
            self._held -= oldest.num_rows

    def clear(self) -> None:
        """Forget all of them."""
        self._batches.clear()
        self._held = 0

    def alike(self, day: Day, key: int, columns: MatchColumns) -> Iterator[StoredTrade]:
        """The trades of a day with these columns, whose match key is ``key``; the last version of one comes last."""
        for keys, batch in self._batches:
            hits = np.flatnonzero(keys == key)
            if not hits.size:
                continue
            for row in batch.take(hits).to_pylist():
                if (
                    MatchColumns.of(row) == columns
                    and not row["canceled"]
                    and (row["symbol"], row["trade_date"]) == day
                ):
                    yield StoredTrade.of(row)
