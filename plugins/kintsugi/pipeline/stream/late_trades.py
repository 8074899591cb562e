"""Count the trades that arrive after the watermark of their Kafka partition, for the table ``late_trades``."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from kintsugi.pipeline.stream.derived_table_keys import LATE_TRADES, Put
from kintsugi.pipeline.stream.flow_windows import WINDOW_MS, window_start
from kintsugi.pipeline.trade_identity import SYNTHETIC_SYMBOL

ALLOWED_LATENESS_MS = 60_000
WINDOW_CLOSED, EARLIER_DAY = "window-closed", "earlier-day"
COLUMNS = ("partition", "offset", "ts", "trade_date", "symbol")


class LateTradeCounter:
    """Counts late trades batch by batch. The watermark of a batch is the one before the batch.

    ``newest``: by partition, time and trade date of the newest trade.
    """

    def __init__(self) -> None:
        self.newest: dict[int, tuple[int, str]] = {}

    def count(self, columns: Mapping[str, Sequence[Any]]) -> tuple[dict[str, int], list[Put]]:
        """Count the late trades of a batch (COLUMNS); returns the counts by reason, and the rows to write."""
        newest = dict(self.newest)
        ends: dict[int, int] = {}
        counts: dict[tuple[str, str, int], int] = defaultdict(int)
        for partition, offset, ts, date, symbol in zip(*(columns[name] for name in COLUMNS), strict=True):
            ends[partition] = max(ends.get(partition, 0), offset + 1)
            if symbol == SYNTHETIC_SYMBOL:
                continue
            newest_ts, newest_date = newest.get(partition, (0, ""))
            if window_start(ts) + WINDOW_MS <= newest_ts - ALLOWED_LATENESS_MS:
                reason = EARLIER_DAY if date < newest_date else WINDOW_CLOSED
                counts[date, reason, partition] += 1
            if ts > self.newest.get(partition, (0, ""))[0]:
                self.newest[partition] = (ts, date)
        by_reason: dict[str, int] = defaultdict(int)
        for (_, reason, _), count in counts.items():
            by_reason[reason] += count
        rows = [
            Put(LATE_TRADES, (date, reason, partition, ends[partition], count))
            for (date, reason, partition), count in counts.items()
        ]
        return dict(by_reason), rows
