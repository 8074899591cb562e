"""What Cassandra has stored: partitions of ``trade``, read at LOCAL_QUORUM, and the fingerprint of a row."""

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
    """Every partition that has rows, but the canaries'."""
    rows = session.execute(f"SELECT DISTINCT symbol, trade_date, slot FROM {KEYSPACE}.trade", timeout=60)
    for row in rows:
        if row.symbol != SYNTHETIC_SYMBOL:
            yield row.symbol, str(row.trade_date), row.slot


def trade_fingerprint(trade: Trade) -> int:
    """A hash of every delivered column; in this process that of the stored row is the same."""
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
    """Since 1970 UTC: the driver's datetime has no zone and is UTC, and Cassandra knows nothing below milliseconds."""
    days = instant.toordinal() - 719_163
    seconds = (instant.hour * 60 + instant.minute) * 60 + instant.second
    return days * 86_400_000 + seconds * 1000 + instant.microsecond // 1000


def row_fingerprint(row: Any) -> int:
    """`trade_fingerprint` of a stored row."""
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
    """The rows of each partition at LOCAL_QUORUM, several read at a time; a failed read is tried again.

    Each is symbol, date, slot, and the first and the last time to be read (milliseconds since 1970 UTC). The columns
    are COMPARED and ``more``.
    """
    from collections import deque

    columns = ", ".join((*COMPARED, *more))
    query = f"SELECT {columns} FROM {KEYSPACE}.trade WHERE symbol = ? AND trade_date = ? AND slot = ?"
    statement = session.prepare(f"{query} AND ts >= ? AND ts <= ?")
    # Not marked idempotent, so that the driver doesn't speculate: the late answer of a second attempt would be taken
    # for the next page, and a page counted twice (seen as 5,000 trades "doubled" that stood in Cassandra once).
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
    """The rows of a read that was begun; one that fails is tried again, because a busy node answers late."""
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
