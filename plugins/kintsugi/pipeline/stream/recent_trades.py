"""The most recent trades, in the driver's memory. The trade that a cancel cancels is nearly always among them.

A query for it filters a whole partition in Cassandra, and partitions and cancels both grow with the rate of trades: at
300 trades a second these queries took half of Cassandra's processor time.
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
        self._count = 0

    def add(self, batch: Table) -> None:
        """Add a batch (columns `batch_columns.DERIVING`), and drop the oldest ones beyond the capacity."""
        trades = batch.select(_COLUMNS)
        self._batches.append((trades.column("match").to_numpy(), trades))
        self._count += trades.num_rows
        while self._count > self._capacity and len(self._batches) > 1:
            _, oldest = self._batches.popleft()
            self._count -= oldest.num_rows

    def clear(self) -> None:
        """Drop all trades."""
        self._batches.clear()
        self._count = 0

    def matching_trades(self, day: Day, match: int, columns: MatchColumns) -> Iterator[StoredTrade]:
        """Yield the trades of a day with these columns and this match key; the last version of a trade comes last."""
        for match_keys, batch in self._batches:
            hits = np.flatnonzero(match_keys == match)
            if not hits.size:
                continue
            for row in batch.take(hits).to_pylist():
                if (
                    MatchColumns.of(row) == columns
                    and not row["canceled"]
                    and (row["symbol"], row["trade_date"]) == day
                ):
                    yield StoredTrade.of(row)
