"""Copy the scores of an earlier release from the tables of unusual trades into the column ``scores`` of ``trade``.

Earlier releases wrote scores only to ``unusual_trade`` and ``unusual_canceled``. The backfill copies them once, with
their write timestamps, so that it doesn't overwrite a newer score. It can be interrupted and run again.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import groupby
from typing import TYPE_CHECKING, Any

from kintsugi.core.settings import KEYSPACE
from kintsugi.pipeline.row_parser import NEW_YORK, SLOT_MINUTES

if TYPE_CHECKING:
    from cassandra.cluster import Session

DONE = "scores-backfill"  # in `stream_driver`
MARGIN_S = (
    600  # a trade's row is a little older than its score's row, and the copy must not outlive the trade
)
IN_FLIGHT = 64
TABLES = ("unusual_trade", "unusual_canceled")


def backfill_scores(session: Session) -> int:
    """Copy the scores unless that was done before; returns the number of trades. Raises what the driver raises."""
    query = f"SELECT epoch FROM {KEYSPACE}.stream_driver WHERE name = '{DONE}'"
    if session.execute(query).one() is not None:
        return 0
    update = session.prepare(
        f"UPDATE {KEYSPACE}.trade USING TIMESTAMP ? AND TTL ? SET scores = ? "
        "WHERE symbol = ? AND trade_date = ? AND slot = ? AND ts = ? AND trade_id = ?"
    )
    count = 0
    waiting: list[Any] = []
    for values in _score_updates(session):
        waiting.append(session.execute_async(update, values))
        count += 1
        if len(waiting) >= IN_FLIGHT:
            waiting.pop(0).result()
    for future in waiting:
        future.result()
    session.execute(
        f"INSERT INTO {KEYSPACE}.stream_driver (name, epoch) VALUES ('{DONE}', %s)", (time.time_ns() // 1000,)
    )
    return count


def _score_updates(session: Session) -> Iterator[tuple[Any, ...]]:
    """Yield the values of the update statement for each trade that has scores."""
    for table in TABLES:
        select = session.prepare(
            "SELECT symbol, trade_date, ts, trade_id, signal, score, usual_mean, usual_stddev, "
            f"WRITETIME(score) AS written, TTL(score) AS ttl FROM {KEYSPACE}.{table} WHERE trade_date = ?"
        )
        for day in list(session.execute(f"SELECT DISTINCT trade_date FROM {KEYSPACE}.{table}")):
            rows = (row for row in session.execute(select, (day.trade_date,)) if row.score is not None)
            for (symbol, ts, trade_id), group in groupby(
                rows, lambda row: (row.symbol, row.ts, row.trade_id)
            ):
                signals = list(group)
                scores = {row.signal: (row.score, row.usual_mean, row.usual_stddev) for row in signals}
                ttl = min(row.ttl or 0 for row in signals) - MARGIN_S
                if ttl > 0:
                    timestamp = max(row.written for row in signals)
                    yield timestamp, ttl, scores, symbol, day.trade_date, slot_of(ts), ts, trade_id


def slot_of(ts: datetime) -> int:
    """Return a trade's quarter of an hour in New York; ``ts`` is UTC without a zone, as the driver returns it."""
    local = ts.replace(tzinfo=UTC).astimezone(NEW_YORK)
    return (local.hour * 60 + local.minute) // SLOT_MINUTES
