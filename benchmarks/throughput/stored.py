"""Which of the bench's trades can be read in Cassandra at LOCAL_QUORUM."""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from benchmarks.throughput.feed import Partition, partition_of
from kintsugi.core.errors import StepFailed
from kintsugi.core.settings import KEYSPACE
from kintsugi.pipeline.row_parser import Trade
from kintsugi.pipeline.schema import TRADE_COLUMNS
from kintsugi.pipeline.stream.cql_values import cassandra_date

if TYPE_CHECKING:
    from cassandra.cluster import Session

READERS = 8
ATTEMPTS = 6
TRADE = f"{KEYSPACE}.trade"


@dataclass(slots=True)
class Expected:
    """The identities that must be readable, by partition."""

    identities: dict[Partition, set[bytes]] = field(default_factory=lambda: defaultdict(set))

    def add(self, trades: Iterable[Trade]) -> None:
        for trade in trades:
            self.identities[partition_of(trade)].add(bytes.fromhex(trade.trade_id))

    @property
    def count(self) -> int:
        return sum(len(found) for found in self.identities.values())


@dataclass(frozen=True, slots=True)
class Found:
    """``lost``: expected, but not readable; ``doubled``: identities that a partition holds more than once."""

    readable: int
    lost: int
    doubled: int


def compare_identities(
    session: Session, expected: Expected, wait_s: float = 30.0, *, table: str = TRADE
) -> Found:
    """Read every partition and compare identities; what is missing is looked for again for ``wait_s`` seconds."""
    lost, doubled, readable = 0, 0, 0
    deadline = time.monotonic() + wait_s
    wanted = dict(expected.identities)
    while wanted:
        missing: dict[Partition, set[bytes]] = {}
        for place, rows in read_trades(session, wanted, ("trade_id",), table=table):
            ids = [bytes(row.trade_id) for row in rows]
            absent = wanted[place] - set(ids)
            if absent and time.monotonic() < deadline:
                missing[place] = wanted[place]
                continue
            lost += len(absent)
            readable += len(wanted[place]) - len(absent)
            doubled += len(ids) - len(set(ids))
        wanted = missing
        if wanted:
            time.sleep(0.5)
    return Found(readable, lost, doubled)


def read_trades(
    session: Session, places: Iterable[Partition], columns: tuple[str, ...], *, table: str = TRADE
) -> Iterator[tuple[Partition, list[Any]]]:
    """(partition, its rows) at LOCAL_QUORUM, several read at a time."""
    statement = session.prepare(
        f"SELECT {', '.join(columns)} FROM {table} WHERE symbol = ? AND trade_date = ? AND slot = ?"
    )
    # Not idempotent: the driver would speculate, and a late second answer be taken for the next page.
    statement.is_idempotent = False
    waiting: deque[tuple[Partition, Any]] = deque()
    for place in sorted(places):
        if len(waiting) >= READERS:
            yield _read_result(session, statement, *waiting.popleft())
        waiting.append((place, session.execute_async(statement, place)))
    while waiting:
        yield _read_result(session, statement, *waiting.popleft())


def _read_result(
    session: Session, statement: Any, place: Partition, future: Any
) -> tuple[Partition, list[Any]]:
    """A partition and its rows; a failed read is tried again, because right after a load the nodes are slow."""
    from cassandra import DriverException
    from cassandra.cluster import NoHostAvailable

    for attempt in range(ATTEMPTS):
        try:
            return place, list(future.result())
        except (DriverException, NoHostAvailable) as error:
            if attempt == ATTEMPTS - 1:
                raise StepFailed(
                    f"the partition {place} can't be read at LOCAL_QUORUM: {error}; look at the cassandra nodes"
                ) from error
            time.sleep(0.5 * 2**attempt)
            future = session.execute_async(statement, place)
    raise AssertionError("unreachable")


def read_rows(session: Session, places: Iterable[Partition], at_least: int) -> list[list[tuple[Any, ...]]]:
    """The stored rows of as many partitions as it takes, a list each, in the order of ``TRADE_COLUMNS``.

    The values are those that the sink hands to the driver: written again, every row stays as it is.
    """
    found: list[list[tuple[Any, ...]]] = []
    count = 0
    for _, rows in read_trades(session, places, tuple(name for name, _ in TRADE_COLUMNS)):
        if rows:
            found.append([to_bound_values(row) for row in rows])
            count += len(rows)
        if count >= at_least:
            break
    return found


def to_bound_values(row: Any) -> tuple[Any, ...]:
    """A row as the driver returns it → the values that the sink binds."""
    values = []
    for value, (_, kind) in zip(row, TRADE_COLUMNS, strict=True):
        values.append(cassandra_date(str(value)) if kind == "date" and value is not None else value)
    return tuple(values)
