"""A bare driver as a load on Cassandra: one client process, or several at once.

It writes rows of the table ``trade`` again, unchanged.
"""

from __future__ import annotations

import multiprocessing
import pickle
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import cycle
from pathlib import Path
from queue import Empty
from typing import TYPE_CHECKING, Any

from kintsugi.core.certificates import Principal
from kintsugi.core.errors import StepFailed
from kintsugi.pipeline.cassandra_session import session_scope
from kintsugi.pipeline.stream.cassandra_sink import Writer, unlogged_batch

if TYPE_CHECKING:
    from cassandra.cluster import Session

Row = tuple[Any, ...]
WARM_UP_S = 1.0
START_S = 60.0
GIVE_UP_S = 30.0


@dataclass(frozen=True, slots=True)
class Load:
    """How to write.

    ``batch`` rows of one partition in a statement (1: a plain insert), ``in_flight`` statements at once in each of
    ``processes`` clients.
    """

    batch: int
    in_flight: int
    processes: int

    def __str__(self) -> str:
        return f"batch {self.batch}, in flight {self.in_flight}, processes {self.processes}"

    def to_json(self) -> dict[str, int]:
        return asdict(self)


def measure_rate(contact_points: list[str], rows: Path, load: Load, seconds: float) -> float:
    """Rows a second that the clients of this load wrote at LOCAL_QUORUM for ``seconds``, warm-up aside.

    ``rows``: a file of `save_rows`. Raises StepFailed when a client fails: a figure with failed writes is none.
    """
    context = multiprocessing.get_context("spawn")
    ready, begin, results = context.Semaphore(0), context.Event(), context.Queue()
    clients = [
        context.Process(
            target=_run_client,
            args=(contact_points, rows, load, number, seconds, ready, begin, results),
            daemon=True,
        )
        for number in range(load.processes)
    ]
    try:
        for client in clients:
            client.start()
        for _ in clients:
            if not ready.acquire(timeout=START_S):
                raise StepFailed(f"a client of the load ({load}) was not ready within {START_S:.0f} s")
        begin.set()
        return sum(_read_rate(results, load, seconds) for _ in clients)
    finally:
        for client in clients:
            if client.pid is None:  # another one could not be started
                continue
            client.join(5)
            if client.is_alive():
                client.kill()


def _read_rate(results: Any, load: Load, seconds: float) -> float:
    try:
        answer = results.get(timeout=seconds + WARM_UP_S + GIVE_UP_S)
    except Empty:
        raise StepFailed(f"a client of the load ({load}) gave no answer; did it run out of memory?") from None
    if isinstance(answer, str):
        raise StepFailed(f"a client of the load ({load}) failed: {answer}")
    return float(answer)


def save_rows(path: Path, partitions: Sequence[Sequence[Row]]) -> None:
    """Put rows, grouped by partition, where the client processes find them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        pickle.dump([list(rows) for rows in partitions], file, protocol=5)


def share_rows(partitions: Sequence[list[Row]], load: Load, number: int) -> list[list[Row]]:
    """The statements of client ``number``: lists of up to ``batch`` rows of one partition.

    No two clients share a partition if there are enough.
    """
    mine = partitions[number :: load.processes] or partitions
    return [rows[start : start + load.batch] for rows in mine for start in range(0, len(rows), load.batch)]


def _run_client(
    contact_points: list[str], rows: Path, load: Load, number: int, seconds: float,
    ready: Any, begin: Any, results: Any,
) -> None:  # fmt: skip
    try:
        with rows.open("rb") as file:
            groups = share_rows(pickle.load(file), load, number)  # noqa: S301 - our own file, in our own build folder
        with session_scope(contact_points, Principal.RECOVERY) as session:
            execute, prepared = prepare_statements(session, groups, load.batch)
            ready.release()
            begin.wait(START_S)
            results.put(pump_statements(execute, prepared, load.in_flight, seconds))
    except Exception as error:  # noqa: BLE001 - told to the parent, which raises it
        results.put(f"{type(error).__name__}: {error}")
        ready.release()  # the parent reads the failure instead of waiting for this client


def prepare_statements(
    session: Session, groups: Sequence[list[Row]], batch: int
) -> tuple[Callable[[list[Row]], Any], list[list[Row]]]:
    """A function that writes a group of rows of one partition and returns the driver's future, and its groups.

    A plain insert is bound when it is written, as anybody would. The rows of batches are encoded beforehand: what
    Cassandra takes must not hang on the client's arithmetic.
    """
    insert = Writer(session).trade
    if batch == 1:
        return lambda rows: session.execute_async(insert, rows[0]), list(groups)
    encoded: list[list[Row]] = [[tuple(insert.bind(row).values) for row in rows] for rows in groups]
    return lambda rows: session.execute_async(unlogged_batch(insert, rows, encoded=True)), encoded


def pump_statements(
    execute: Callable[[list[Row]], Any], groups: Sequence[list[Row]], in_flight: int, seconds: float
) -> float:
    """Keep ``in_flight`` statements under way, repeating the same groups, for the warm-up and ``seconds``.

    Returns the rows a second acknowledged after the warm-up. Raises the driver's error of the first failed write.
    """
    places = threading.Semaphore(in_flight)
    lock = threading.Lock()
    acknowledged = 0
    failures: list[BaseException] = []

    def count_written(_: Any, count: int) -> None:
        nonlocal acknowledged
        with lock:
            acknowledged += count
        places.release()

    def record_failure(error: BaseException) -> None:
        failures.append(error)
        places.release()

    began = time.monotonic()
    start: tuple[float, int] | None = None
    for group in _repeat_until(began + WARM_UP_S + seconds, groups):
        if failures:
            break
        if start is None and time.monotonic() >= began + WARM_UP_S:
            start = (time.monotonic(), acknowledged)
        places.acquire()
        execute(group).add_callbacks(count_written, record_failure, callback_args=(len(group),))
    end = (time.monotonic(), acknowledged)
    for _ in range(in_flight):
        places.acquire(timeout=GIVE_UP_S)
    if failures:
        raise failures[0]
    first = start or (began, 0)
    return (end[1] - first[1]) / (end[0] - first[0])


def _repeat_until(deadline: float, groups: Sequence[list[Row]]) -> Iterator[list[Row]]:
    for group in cycle(groups):
        if time.monotonic() >= deadline:
            return
        yield group
