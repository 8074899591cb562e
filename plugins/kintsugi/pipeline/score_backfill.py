"""Scores of an earlier release: from the tables of unusual trades into the column ``scores`` of their trades.

Until a trade carried its scores, they stood in ``unusual_trade`` and ``unusual_canceled`` alone. The backfill copies
them once, with the time of their write, so that a newer score stays. It may be cut short and run again.
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
MARGIN_S = 600  # the trade's row is a little older than that of its score, and must not outlive the trade
IN_FLIGHT = 64
TABLES = ("unusual_trade", "unusual_canceled")


def backfill_scores(session: Session) -> int:
    """Copy the scores, if that hasn't been done; returns the number of trades. Raises what the driver raises."""
    done = f"SELECT epoch FROM {KEYSPACE}.stream_driver WHERE name = '{DONE}'"
    if session.execute(done).one() is not None:
        return 0
    update = session.prepare(
        f"UPDATE {KEYSPACE}.trade USING TIMESTAMP ? AND TTL ? SET scores = ? "
        "WHERE symbol = ? AND trade_date = ? AND slot = ? AND ts = ? AND trade_id = ?"
    )
    count = 0
    waiting: list[Any] = []
    for values in _updates(session):
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


def _updates(session: Session) -> Iterator[tuple[Any, ...]]:
    """The values of one statement for each trade that has scores."""
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
                found = list(group)
                scores = {row.signal: (row.score, row.usual_mean, row.usual_stddev) for row in found}
                ttl = min(row.ttl or 0 for row in found) - MARGIN_S
                if ttl > 0:
                    written = max(row.written for row in found)
                    yield written, ttl, scores, symbol, day.trade_date, slot_of(ts), ts, trade_id


def slot_of(ts: datetime) -> int:
    """The quarter of an hour of a trade in New York; ``ts`` is UTC without a zone, as the driver returns it."""
    local = ts.replace(tzinfo=UTC).astimezone(NEW_YORK)
    return (local.hour * 60 + local.minute) // SLOT_MINUTES
