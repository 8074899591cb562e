"""Read stored trades from Cassandra: partitions of ``trade`` at LOCAL_QUORUM, and the fingerprints of rows."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from kintsugi.core.settings import KEYSPACE
from kintsugi.pipeline.row_parser import Trade
from kintsugi.pipeline.trade_identity import SYNTHETIC_SYMBOL

if TYPE_CHECKING:
    from datetime import datetime

    from cassandra.cluster import Session

READERS = 16
ALWAYS = (-62_135_596_800_000, 253_402_300_799_999)  # the years 1 to 9999, in milliseconds
COMPARED = (
    "symbol", "ts", "trade_id", "sequence", "root", "expiration", "strike", "option_type", "exchange",
    "size", "price",
    "condition", "canceled_condition", "bid", "ask", "iv", "delta", "underlying_bid", "underlying_ask",
    "exchanges",
)  # fmt: skip

Partition = tuple[str, str, int]
PartitionRange = tuple[str, str, int, int, int]


def list_partitions(session: Session) -> Iterator[Partition]:
    """Yield every partition that has rows, except those of synthetic trades."""
    rows = session.execute(f"SELECT DISTINCT symbol, trade_date, slot FROM {KEYSPACE}.trade", timeout=60)
    for row in rows:
        if row.symbol != SYNTHETIC_SYMBOL:
            yield row.symbol, str(row.trade_date), row.slot


def trade_fingerprint(trade: Trade) -> int:
    """Return a hash of every delivered column; within one process it equals that of the stored row."""
    return hash(
        (
            trade.symbol, trade.ts, trade.sequence, trade.root, trade.expiration, trade.strike,
            trade.option_type,
            trade.exchange, trade.size, trade.price, trade.condition, trade.canceled_condition,
            trade.bid, trade.ask,
            trade.iv, trade.delta, trade.underlying_bid, trade.underlying_ask, trade.exchanges,
        )
    )  # fmt: skip


def to_milliseconds(instant: datetime) -> int:
    """Return milliseconds since 1970 UTC. The driver's datetime is UTC without a zone, and has no finer digits."""
    days = instant.toordinal() - 719_163
    seconds = (instant.hour * 60 + instant.minute) * 60 + instant.second
    return days * 86_400_000 + seconds * 1000 + instant.microsecond // 1000


def row_fingerprint(row: Any) -> int:
    """Return the `trade_fingerprint` of a stored row."""
    return hash(
        (
            row.symbol, to_milliseconds(row.ts), row.sequence, row.root, str(row.expiration), row.strike,
            row.option_type, row.exchange, row.size, row.price, row.condition, row.canceled_condition,
            row.bid, row.ask, row.iv, row.delta, row.underlying_bid, row.underlying_ask, row.exchanges,
        )
    )  # fmt: skip


def read_partitions(
    session: Session, partitions: Iterable[PartitionRange], more: tuple[str, ...] = ()
) -> Iterator[Iterable[Any]]:
    """Yield the rows of each partition at LOCAL_QUORUM; several are read at once, and a failed read is tried again.

    ``partitions``: symbol, date, slot, first and last time (milliseconds since 1970 UTC). The columns are COMPARED and
    ``more``.
    """
    from collections import deque

    columns = ", ".join((*COMPARED, *more))
    query = f"SELECT {columns} FROM {KEYSPACE}.trade WHERE symbol = ? AND trade_date = ? AND slot = ?"
    statement = session.prepare(f"{query} AND ts >= ? AND ts <= ?")
    # Not marked idempotent, so that the driver doesn't send the read to a second replica. The driver would take its
    # late answer for the next page and count a page twice (seen: 5,000 trades "doubled" that were stored once).
    # `await_rows` repeats a failed read itself.
    statement.is_idempotent = False
    waiting: deque[tuple[PartitionRange, Any]] = deque()
    for partition in partitions:
        if len(waiting) >= READERS:
            yield await_rows(session, statement, *waiting.popleft())
        waiting.append((partition, session.execute_async(statement, partition)))
    while waiting:
        yield await_rows(session, statement, *waiting.popleft())


def await_rows(
    session: Session, statement: Any, values: tuple[Any, ...], future: Any, attempts: int = 5
) -> list[Any]:
    """Return the rows of a running read; a failed read is tried again, because a busy node may answer too late."""
    from cassandra import DriverException
    from cassandra.cluster import NoHostAvailable

    for attempt in range(attempts):
        try:
            return list(future.result())
        except (DriverException, NoHostAvailable):
            if attempt == attempts - 1:
                raise
            time.sleep(0.5 * 2**attempt)
            future = session.execute_async(statement, values)
    raise AssertionError("unreachable")
