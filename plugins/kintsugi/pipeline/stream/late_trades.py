"""Count the trades that arrive after the watermark of their Kafka partition, for the table ``late_trades``."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any

import numpy as np

from kintsugi.pipeline.stream.derived_table_keys import LATE_TRADES, Put
from kintsugi.pipeline.stream.flow_windows import WINDOW_MS, window_start
from kintsugi.pipeline.trade_identity import SYNTHETIC_SYMBOL

if TYPE_CHECKING:
    from pyarrow import Table

ALLOWED_LATENESS_MS = 60_000
WINDOW_CLOSED, EARLIER_DAY = "window-closed", "earlier-day"
COLUMNS = ("partition", "offset", "ts", "trade_date", "symbol")


class LateTradeCounter:
    """Counts late trades batch by batch. The watermark of a batch is the one before the batch.

    ``newest``: by partition, time and trade date of the newest trade.
    """

    def __init__(self) -> None:
        self.newest: dict[int, tuple[int, str]] = {}

    def count(self, batch: Table) -> tuple[dict[str, int], list[Put]]:
        """Count the late trades of a batch (columns COLUMNS); returns the counts by reason, and the rows to write."""
        values = {name: np.asarray(batch.column(name)) for name in COLUMNS}
        by_reason: dict[str, int] = defaultdict(int)
        rows: list[Put] = []
        for partition in np.unique(values["partition"]).tolist():
            mine = values["partition"] == partition
            end = int(values["offset"][mine].max()) + 1
            mine &= values["symbol"] != SYNTHETIC_SYMBOL
            for (date, reason), count in self._count_partition(
                partition, values["ts"][mine], values["trade_date"][mine]
            ).items():
                by_reason[reason] += count
                rows.append(Put(LATE_TRADES, (date, reason, partition, end, count)))
        return dict(by_reason), rows

    def _count_partition(self, partition: int, times: Any, dates: Any) -> Counter[tuple[str, str]]:
        """Count the late trades of one partition by date and reason, and move its watermark."""
        if not times.size:
            return Counter()
        newest_ts, newest_date = self.newest.get(partition, (0, ""))
        is_late = window_start(times) + WINDOW_MS <= newest_ts - ALLOWED_LATENESS_MS
        latest = int(times.argmax())
        if times[latest] > newest_ts:
            self.newest[partition] = (int(times[latest]), dates[latest])
        return Counter(
            (date, EARLIER_DAY if date < newest_date else WINDOW_CLOSED) for date in dates[is_late].tolist()
        )
