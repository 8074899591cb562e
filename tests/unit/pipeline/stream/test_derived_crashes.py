"""Property: wherever a batch is cut short, whatever comes twice or in another order, the tables end the same.

A log of messages (trades in several versions, cancels) goes through a driver undisturbed, and through drivers that are
killed between any two writes: those of the executors and those of the driver. Within a stage of writes the order is
arbitrary, as it is with many requests in flight. A new driver starts at the last committed message or before it, and
cuts its batches otherwise. What both runs leave must be equal, and equal to `recomputation` of the stored trades.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kintsugi.pipeline.stream import flow_windows
from kintsugi.pipeline.stream.derived_records import TradeKey
from kintsugi.pipeline.stream.derived_table_keys import (
    CANCEL,
    FLOW_ALERT,
    FLOW_WINDOW,
    UNUSUAL_CANCELED,
    UNUSUAL_TOP,
    UNUSUAL_TRADE,
    Table,
    Write,
)
from kintsugi.pipeline.stream.derived_tables import DerivedTables
from kintsugi.pipeline.stream.in_memory_repository import InMemoryRepository
from kintsugi.pipeline.stream.recomputation import MATCH, DayTrades, ExpectedTrade
from tests.unit.pipeline.stream.test_derived_tables import SCHEMA, at, table

TABLES = (FLOW_WINDOW, FLOW_ALERT, CANCEL, UNUSUAL_TRADE, UNUSUAL_CANCELED, UNUSUAL_TOP)
Message = dict[str, Any]


@pytest.fixture(autouse=True, scope="module")
def few_trades_signal() -> Iterator[None]:
    """Two trades of one side make an alert, so that alerts come and go in small examples."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flow_windows, "IMBALANCE_Z", 1.4)
        patch.setattr(flow_windows, "AGGRESSOR_Z", 1.4)
        yield


class Killed(BaseException):
    """The process is gone: no handler runs."""


class FragileStore(InMemoryRepository):
    """Writes in an arbitrary order, and is killed when ``budget`` writes are done."""

    def __init__(self, chance: random.Random) -> None:
        super().__init__()
        self.chance = chance
        self.budget: int | None = None

    def _spend(self) -> None:
        if self.budget is not None:
            if self.budget == 0:
                raise Killed
            self.budget -= 1

    def put_trade(self, values: Any, stamp: int) -> None:
        self._spend()
        super().put_trade(values, stamp)

    def write(self, writes: Sequence[Write], timestamp: int) -> None:
        for write in self.chance.sample(list(writes), len(writes)):
            self._spend()
            self.apply(write, timestamp)


@dataclass
class Pipeline:
    """A log, a store and a driver; ``clock`` is the drivers' time in microseconds."""

    log: Sequence[Message]
    chance: random.Random
    rescored_at: int = 0  # where in the log a new baseline came
    capacity: int = 1000
    clock: int = 10**15
    store: FragileStore = field(init=False)
    derived: DerivedTables = field(init=False)

    def __post_init__(self) -> None:
        self.store = FragileStore(self.chance)
        self.restart()

    def restart(self) -> None:
        self.clock += 1_000_000
        self.derived = DerivedTables(self.store, capacity=self.capacity, epoch=self.clock)
        self.derived._stamp = self.clock

    def feed(self, messages: Sequence[Message], baseline: int, budget: int | None = None) -> bool:
        """One batch, measured by a baseline (0 or 1); returns whether it was finished."""
        rows = [scored(message, baseline) for message in messages]
        batch = pa.Table.from_pylist(rows, SCHEMA)
        self.store.budget = budget
        try:
            order = self.chance.sample(range(len(rows)), len(rows))  # executors write in any order
            self.store.store(batch.take(order))
            self.derived.apply(batch)
        except Killed:
            self.restart()
            return False
        finally:
            self.store.budget = None
        return True

    def tables(self) -> dict[str, Any]:
        found: dict[str, Any] = {table.name: sorted(self.store.rows(table)) for table in TABLES}
        found |= {"marks": self.store.marks, "scores": self.store.scores}
        trades = (row for day in self.store.trade_days for row in self.store.trades(day))
        found["trade"] = {row["trade_id"]: row for row in trades}
        return found

    def check(self) -> None:
        """Every table is what follows from the stored trades."""
        rows: dict[Table, dict[Any, Any]] = {table: {} for table in TABLES}
        marks: dict[TradeKey, bytes] = {}
        for day in self.store.trade_days:
            trades = DayTrades(day)
            for row in self.store.trades(day):
                trades.add(ExpectedTrade.of(row))
            found = trades.tables()
            marks |= found.marks
            for table_, expected in found.rows.items():
                rows[table_] |= expected
        for table_ in TABLES:
            stands = {table_.key_of(row): comparable(table_, row) for row in self.store.rows(table_)}
            wanted = {key: comparable(table_, row) for key, row in rows[table_].items()}
            assert stands == wanted, (table_.name, stands, wanted)
        assert self.store.marks == {place[4]: by for place, by in marks.items()}


def comparable(table_: Table, row: tuple[Any, ...]) -> tuple[Any, ...]:
    return (*row[:MATCH], *row[MATCH + 1 :]) if table_ is CANCEL else row


def scored(message: Message, baseline: int) -> Message:
    """A message as the stream hands it on: scored by a baseline."""
    score, jump = message["scores"][baseline]
    row = {name: value for name, value in message.items() if name != "scores"}
    return row | {"high_volume": score, "iv_jump": jump, "usual_volume_mean": float(baseline)}


SCORE = st.sampled_from([None, None, 5.0, 7.0])
VERSION = st.tuples(
    st.sampled_from(["buy", "sell", "unknown"]), st.sampled_from([-0.3, -0.6]), st.tuples(SCORE, SCORE),
    st.tuples(SCORE, SCORE),
)  # fmt: skip
TRADE = st.tuples(
    st.sampled_from([0, 1, 14, 15]), st.sampled_from([1, 2]), st.lists(VERSION, min_size=1, max_size=3)
)
# minute, size (1 and 2 are trades that exist, 3 isn't), the sequence number of a trade or its own (None), the kind
CANCELED = st.tuples(
    st.sampled_from([0.5, 2, 16]), st.sampled_from([1, 2, 3]), st.one_of(st.none(), st.integers(0, 7)),
    st.sampled_from([40, 42]),
)  # fmt: skip


BASE: Message = table(at(0, 0)).to_pylist()[0]


def message(
    minute: float, sequence: int, size: int, condition: int = 18, canceled_condition: int = 0
) -> Message:
    """A trade or (conditions 40 to 44) a cancel; those of one size are alike."""
    canceled = 40 <= condition <= 44
    ts = BASE["ts"] + int(minute * 60_000)
    return BASE | {
        "ts": ts, "slot": BASE["slot"] + ts // 900_000 - BASE["ts"] // 900_000, "sequence": sequence, "size": size,
        "condition": condition, "canceled_condition": canceled_condition, "canceled": canceled, "match": size,
        "trade_id": f"{sequence:08x}{size:08x}{condition:08x}{ts % 2**32:08x}",
    }  # fmt: skip


@st.composite
def logs(draw: st.DrawFn) -> list[Message]:
    """The messages of a topic, in order; ``stamp`` is the place of a message in it."""
    trades = draw(st.lists(TRADE, min_size=1, max_size=8))
    cancels = draw(st.lists(CANCELED, max_size=3))
    messages = []
    for number, (minute, size, versions) in enumerate(trades):
        row = message(minute, number, size)
        for side, delta, *scores in versions:
            messages.append(row | {"side": side, "delta": delta, "scores": scores})
    for number, (later, size, sequence, kind) in enumerate(cancels):
        row = message(later, 900 + number if sequence is None else sequence, size, kind, BASE["condition"])
        messages.append(row | {"scores": [(None, None), (None, None)]})
    messages = draw(st.permutations(messages))
    return [one | {"offset": place, "stamp": 1000 + place} for place, one in enumerate(messages)]


def undisturbed(log: list[Message], rescored_at: int) -> Pipeline:
    pipeline = Pipeline(log, random.Random(0))
    if log[:rescored_at]:
        assert pipeline.feed(log[:rescored_at], 0)
    for start in range(rescored_at, len(log), 4):
        assert pipeline.feed(log[start : start + 4], 1)
    return pipeline


@settings(max_examples=60, deadline=None)
@given(logs(), st.integers(0, 2**32), st.data())
def test_a_driver_killed_between_any_two_writes_leaves_what_an_undisturbed_one_leaves(
    log: list[Message], seed: int, data: st.DataObject
) -> None:
    chance = random.Random(seed)
    rescored_at = data.draw(st.integers(0, len(log)), "a new baseline comes before")
    pipeline = Pipeline(log, chance, capacity=data.draw(st.sampled_from([1, 3, 1000])))
    committed = attempted = 0
    kills = data.draw(st.lists(st.integers(0, 40), max_size=6), "killed after so many writes")
    while committed < len(log):
        start = chance.choice([committed, committed, chance.randint(0, committed)])
        if committed >= rescored_at:
            start = max(start, rescored_at)
        end = chance.randint(start + 1, len(log))
        if start < rescored_at:
            end = min(end, rescored_at)
        budget = kills.pop() if kills else None
        # A baseline may come between a batch that is killed and its repeat.
        baseline = chance.randint(0, 1) if budget is not None else int(start >= rescored_at)
        attempted = max(attempted, end)
        if pipeline.feed(log[start:end], baseline, budget):
            if baseline != int(start >= rescored_at):
                committed = min(committed, start)  # its writes were enough: it is measured again
                continue
            committed = max(committed, end)
            if committed == attempted:  # else trades are stored whose batch wasn't finished
                pipeline.check()
        else:
            committed = min(committed, start)  # what it began to write is only complete when it is repeated
        if chance.random() < 0.2:
            pipeline.restart()
    pipeline.check()
    assert pipeline.tables() == undisturbed(log, rescored_at).tables()


@settings(max_examples=40, deadline=None)
@given(logs(), st.integers(0, 2**32))
def test_batches_in_any_order_and_repeated_leave_what_the_log_in_order_leaves(
    log: list[Message], seed: int
) -> None:
    chance = random.Random(seed)
    pipeline = Pipeline(log, chance, capacity=chance.choice([1, 1000]))
    batches = []
    start = 0
    while start < len(log):
        size = chance.randint(1, 4)
        batches.append(log[start : start + size])
        start += size
    for batch in chance.sample(batches + batches, 2 * len(batches)):
        assert pipeline.feed(batch, 0)
    pipeline.check()
    trades = {one["trade_id"]: one for one in log}  # the last version of each
    for identity, row in pipeline.tables()["trade"].items():
        assert {name: row[name] for name in ("side", "delta", "stamp")} == {
            name: trades[identity][name] for name in ("side", "delta", "stamp")
        }
    assert pipeline.tables() == undisturbed(log, len(log)).tables()


def versions(*rows: tuple[float, int, int, str, float | None]) -> list[Message]:
    """A log of trades (minute, sequence, size, side, score) and of cancels with numbers of their own (side: cancel)."""
    log = []
    for place, (minute, sequence, size, side, score) in enumerate(rows):
        kind = (40, BASE["condition"]) if side == "cancel" else (BASE["condition"], 0)
        scores = [(score, None), (score, None)]
        row = message(minute, sequence, size, *kind) | {"side": side, "delta": -0.5, "scores": scores}
        log.append(row | {"offset": place, "stamp": 1000 + place})
    return log


SMALL = {
    "an alert that a longer batch doesn't have": versions(
        (0, 1, 1, "buy", None), (0, 2, 1, "buy", None), (0, 3, 1, "sell", None), (0, 1, 1, "sell", None)
    ),
    "a cancel that takes another trade in a longer batch": versions(
        (0, 1, 1, "buy", 5.0), (2, 9, 1, "cancel", None), (1, 2, 1, "buy", 7.0)
    ),
    "a score that goes and comes": versions(
        (0, 1, 1, "buy", 5.0), (0, 1, 1, "buy", None), (0, 1, 1, "buy", 7.0), (2, 1, 1, "cancel", None)
    ),
}


@pytest.mark.parametrize("log", SMALL.values(), ids=SMALL)
def test_in_small_logs_every_kill_and_every_cut_end_the_same(log: list[Message]) -> None:
    expected = undisturbed(log, 0).tables()
    size = len(log)
    for committed, end, again in product(range(size), range(1, size + 1), range(1, size + 1)):
        if min(end, again) <= committed:
            continue
        finished, budget = False, 0
        while not finished:
            pipeline = Pipeline(log, random.Random(budget))
            if committed:
                assert pipeline.feed(log[:committed], 1)
            finished = pipeline.feed(log[committed:end], 1, budget)
            assert pipeline.feed(log[committed:again], 1)
            if again < size:
                assert pipeline.feed(log[again:], 1)
            assert pipeline.tables() == expected, (committed, end, again, budget)
            budget += 1


def test_two_versions_written_at_one_timestamp_become_a_row_that_nobody_wrote() -> None:
    """The store is faithful: this is what Cassandra does, and why each version has a timestamp of its own."""
    store = InMemoryRepository()
    first, second = ({"side": "buy", "delta": -0.6}, {"side": "sell", "delta": -0.3})
    (row,) = table(at(0, 1)).to_pylist()
    store.store(pa.Table.from_pylist([row | first | {"stamp": 7}, row | second | {"stamp": 7}], SCHEMA))
    (merged,) = (SimpleNamespace(**found) for found in store.trades((row["symbol"], row["trade_date"])))
    assert (merged.side, merged.delta) == ("sell", -0.6)
