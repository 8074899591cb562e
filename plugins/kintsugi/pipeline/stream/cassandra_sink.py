"""Write rows to Cassandra from the executors of Spark: unlogged batches of one partition each, many in flight.

Every statement is an upsert by the trade's identity. So two writes of a trade make one row, and a failed write is sent
again until a deadline. A trade's row has the timestamp of its message (`schema.VERSION_COLUMN`). So of several versions
the whole row of the last one on the topic wins, in whatever order they are written.
"""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from kintsugi.core.certificates import Principal
from kintsugi.core.errors import KintsugiError
from kintsugi.core.settings import KEYSPACE
from kintsugi.pipeline.cassandra_session import connect_session
from kintsugi.pipeline.schema import BASELINE_COLUMNS, TRADE_COLUMNS, VERSION_COLUMN
from kintsugi.pipeline.stream import cql_values

if TYPE_CHECKING:
    from cassandra.cluster import Session
    from cassandra.query import BatchStatement, PreparedStatement
    from pyarrow import RecordBatch

ROWS_PER_BATCH = 250
IN_FLIGHT = 8
RETRY_SECONDS = 60.0

Row = Sequence[Any]

_sessions: dict[tuple[str, ...], Writer] = {}


class Writer:
    """A session with the prepared statements of the sink; an executor's Python worker keeps it until it ends."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.trade = _prepare_insert(session, "trade", TRADE_COLUMNS)
        self.versioned_trade = _prepare_insert(session, "trade", TRADE_COLUMNS, versioned=True)
        self.baseline = _prepare_insert(session, "baseline", BASELINE_COLUMNS)

    def write(
        self,
        statement: PreparedStatement,
        groups: Iterable[list[Row]],
        *,
        retry_for: float,
        encoded: bool = False,
    ) -> int:
        """Write groups of rows, each group within one partition; returns the number of rows.

        ``encoded``: the values are bytes from `cql_values`, which the driver needn't bind. Raises KintsugiError when a
        batch still fails after ``retry_for`` seconds.
        """
        deadline = time.monotonic() + retry_for
        waiting: deque[tuple[Any, Any]] = deque()
        count = 0
        for group in groups:
            for start in range(0, len(group), ROWS_PER_BATCH):
                rows = group[start : start + ROWS_PER_BATCH]
                batch = unlogged_batch(statement, rows, encoded=encoded)
                count += len(rows)
                if len(waiting) >= IN_FLIGHT:
                    await_result(*waiting.popleft(), deadline)
                send = partial(self.session.execute_async, batch)
                waiting.append((send, send()))
        while waiting:
            await_result(*waiting.popleft(), deadline)
        return count


def await_result(send: Callable[[], Any], future: Any, deadline: float) -> list[Any]:
    """Return the rows of a statement; while it fails, it is sent again by ``send``, until the deadline.

    Raises KintsugiError at the deadline (of the monotonic clock).
    """
    while True:
        try:
            return list(future.result())
        except Exception as error:
            if time.monotonic() > deadline:
                raise KintsugiError(
                    f"Cassandra refused a statement of the stream until the deadline: {error}; "
                    "the stream tries the batch again; see the Cassandra nodes in `make status`"
                ) from error
        time.sleep(0.2)
        future = send()


def unlogged_batch(statement: PreparedStatement, rows: Iterable[Row], *, encoded: bool) -> BatchStatement:
    """Return an idempotent batch of rows of one partition; ``encoded``: see `Writer.write`."""
    from cassandra.query import BatchStatement, BatchType, BoundStatement

    batch = BatchStatement(BatchType.UNLOGGED)
    batch.is_idempotent = True
    for row in rows:
        if encoded:
            bound = BoundStatement(statement)
            bound.values = row
            batch.add(bound)
        else:
            batch.add(statement, row)
    return batch


def shared_writer(contact_points: tuple[str, ...]) -> Writer:
    """Return this process's Writer for a cluster, connected at the first call."""
    if contact_points not in _sessions:
        _sessions[contact_points] = Writer(
            connect_session(list(contact_points), Principal.STREAM, request_timeout=5.0)
        )
    return _sessions[contact_points]


def arrow_sink(
    contact_points: tuple[str, ...], returned: tuple[str, ...]
) -> Callable[[Iterator[RecordBatch]], Iterator[RecordBatch]]:
    """Return a function for ``DataFrame.mapInArrow`` that writes the trades and returns columns of every row.

    Its input has at least the columns of ``trade``, VERSION_COLUMN, the ``returned`` ones, and ``problem``
    (`message_check`). A row with a problem isn't a trade and isn't written. Its output has the ``returned`` columns of
    every input row.
    """

    def store_batches(batches: Iterator[RecordBatch]) -> Iterator[RecordBatch]:
        target = shared_writer(contact_points)
        for batch in batches:
            _store_trades(target, trades_of(batch))
            yield batch.select(list(returned))

    return store_batches


def trades_of(batch: RecordBatch) -> RecordBatch:
    """Return the rows of a batch that are trades: those without a ``problem``."""
    problems = batch.column("problem")
    return batch if problems.null_count == batch.num_rows else batch.filter(problems.is_null())


def _store_trades(target: Writer, batch: RecordBatch) -> None:
    rows = cql_values.encode_rows(batch, (*TRADE_COLUMNS, VERSION_COLUMN))
    target.write(target.versioned_trade, group_by_partition(rows, 3), retry_for=RETRY_SECONDS, encoded=True)


def group_by_partition(rows: Iterable[Row], key_columns: int) -> list[list[Row]]:
    """Group rows by their first ``key_columns`` columns, which are Cassandra's partition key."""
    groups: dict[Row, list[Row]] = defaultdict(list)
    for row in rows:
        groups[row[:key_columns]].append(row)
    return list(groups.values())


def _prepare_insert(
    session: Session, table: str, columns: tuple[tuple[str, str], ...], *, versioned: bool = False
) -> PreparedStatement:
    """Prepare an INSERT of these columns; ``versioned``: with one more value, the timestamp of the row."""
    names = ", ".join(name for name, _ in columns)
    marks = ", ".join("?" for _ in columns)
    using = " USING TIMESTAMP ?" if versioned else ""
    statement = session.prepare(f"INSERT INTO {KEYSPACE}.{table} ({names}) VALUES ({marks}){using}")
    statement.is_idempotent = True
    return statement
