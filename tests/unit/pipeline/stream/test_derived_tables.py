"""Windows, cancels and unusual trades, batch by batch, on tables in memory that keep Cassandra's rules."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest

from kintsugi.core.errors import GuardRefused, KintsugiError
from kintsugi.pipeline.row_parser import Trade, is_cancel
from kintsugi.pipeline.stream.batch_columns import (
    DERIVING,
    DERIVING_NAMES,
)
from kintsugi.pipeline.stream.derived_records import MatchColumns, WindowKey
from kintsugi.pipeline.stream.derived_table_keys import FLOW_ALERT
from kintsugi.pipeline.stream.derived_tables import DerivedTables
from kintsugi.pipeline.stream.flow_windows import window_start
from kintsugi.pipeline.stream.in_memory_repository import InMemoryRepository
from kintsugi.pipeline.stream.late_trades import EARLIER_DAY, WINDOW_CLOSED
from kintsugi.pipeline.stream.match_key import match_number
from kintsugi.pipeline.trade_identity import SYNTHETIC_SYMBOL
from tests.unit.pipeline.test_row_parser import LINE, trade

TYPES = {
    "string": pa.string(),
    "int": pa.int32(),
    "bigint": pa.int64(),
    "double": pa.float64(),
    "boolean": pa.bool_(),
}
SCHEMA = pa.schema([(name, TYPES[kind]) for name, kind in (c.split() for c in DERIVING.split(", "))])
MINUTE = 60_000
STAMPS = itertools.count(1_000_000, 1_000_000)


def at(minutes: float, number: int = 0, **columns: Any) -> Trade:
    """A trade that many minutes after LINE's, with an identity of its own."""
    base = trade(LINE)
    ts = base.ts + int(minutes * MINUTE)
    made = replace(base, ts=ts, slot=base.slot + int((base.ts % 900_000 + minutes * MINUTE) // 900_000),
                   sequence=number, price=base.ask, **columns)  # fmt: skip
    return replace(
        made,
        trade_id=f"{abs(hash((made.ts, number, made.symbol, made.trade_date, made.condition))):032x}"[-32:],
    )


def cancel_of(one: Trade, minutes: float, sequence: int | None = None) -> Trade:
    made = at(minutes, one.sequence if sequence is None else sequence, condition=40)
    return replace(made, canceled_condition=one.condition, size=one.size, price=one.price, symbol=one.symbol)


def table(
    *trades: Trade,
    scores: dict[str, float] | None = None,
    offset: int = 0,
    partition: int = 0,
    stamp: int | None = None,
) -> pa.Table:
    """A batch; ``stamp``: the version of its first row, by default later than any batch before."""
    stamp = next(STAMPS) if stamp is None else stamp
    rows = []
    for number, one in enumerate(trades):
        canceled = is_cancel(one)
        score = (scores or {}).get(one.trade_id)
        row = {name: getattr(one, name, None) for name in DERIVING_NAMES}
        condition = one.canceled_condition if canceled else one.condition
        rows.append(
            row | {
                "side": "buy", "canceled": canceled, "premium": one.size * one.price * 100,
                "match": match_number(MatchColumns.of(row | {"condition": condition})),
                "high_volume": score, "usual_volume_mean": 1.0, "usual_volume_stddev": 1.0,
                "partition": partition, "offset": offset + number, "stamp": stamp + offset + number,
            }
        )  # fmt: skip
    return pa.Table.from_pylist(rows, SCHEMA)


class Stream:
    """A store and a driver; `feed` is one batch."""

    def __init__(self, store: InMemoryRepository | None = None, **options: Any) -> None:
        self.store = store or InMemoryRepository()
        self.derived = DerivedTables(self.store, **options)

    def feed(self, *trades: Trade, **options: Any) -> Any:
        batch = table(*trades, **options)
        self.store.store(batch)
        return self.derived.apply(batch)

    @property
    def tables(self) -> tuple[Any, ...]:
        """Everything but what is counted as late, which depends on when it came."""
        return (
            self.store.windows_written,
            self.store.cancels,
            self.store.marks,
            self.store.unusual,
            self.store.unusual_canceled,
            self.store.top,
            self.store.scores,
            sorted(self.store.rows(FLOW_ALERT)),
        )


def counts(stream: Stream) -> dict[int, int]:
    start = trade(LINE).ts // MINUTE
    return {key.start // MINUTE - start: found.trades for key, found in stream.store.windows_written.items()}


def test_trades_are_counted_in_the_window_of_their_own_time() -> None:
    stream = Stream()
    summary = stream.feed(at(0), at(0.2, 1), at(1, 2), at(20, 3))
    assert counts(stream) == {0: 2, 1: 1, 20: 1}
    assert (summary.trades, summary.windows) == (4, 3)


def test_the_same_batch_twice_changes_nothing() -> None:
    stream = Stream()
    day = [at(n / 7, n) for n in range(40)]
    scores = {day[3].trade_id: 5.0}
    stream.feed(*day, cancel_of(day[5], 6), scores=scores)
    before = stream.tables
    stream.feed(*day, cancel_of(day[5], 6), scores=scores)
    assert stream.tables == before
    fresh = Stream(stream.store)
    fresh.feed(*day, cancel_of(day[5], 6), scores=scores)
    assert fresh.tables == before


@pytest.mark.parametrize("seed", range(8))
def test_batches_in_any_order_repeated_and_cut_by_restarts_make_the_same_tables(seed: int) -> None:
    rng = random.Random(seed)
    day = [at(n / 5, n, size=1 + n % 3) for n in range(120)]
    scores = {one.trade_id: 9.0 for one in day[::10]}
    rows = day + [cancel_of(one, one.sequence / 5 + 3, rng.choice([None, 900])) for one in day[::7]]
    expected = Stream()
    expected.feed(*rows, scores=scores)
    store = InMemoryRepository()
    stream = Stream(store, capacity=30)  # so that windows are read again from the truth
    shuffled = rng.sample(rows, len(rows))
    for start in range(0, len(rows), 17):
        for _ in range(rng.choice([1, 1, 2])):
            if rng.random() < 0.3:
                stream = Stream(store, capacity=30, epoch=stream.derived._epoch)
            stream.feed(*shuffled[max(0, start - 3) : start + 17], scores=scores)
    assert stream.tables == expected.tables
    assert len(store.unusual_canceled) > 0


def test_a_cancel_takes_its_trade_out_of_windows_and_unusual_trades_and_marks_it() -> None:
    stream = Stream()
    one, other = at(0, 1), at(0.1, 2)
    stream.feed(one, other, scores={one.trade_id: 6.0, other.trade_id: 5.0})
    assert len(stream.store.unusual) == 2
    summary = stream.feed(cancel_of(one, 30))
    assert (summary.matched, summary.unmatched) == (1, 0)
    assert counts(stream) == {0: 1}
    assert [key[0].hex() for key in stream.store.unusual] == [other.trade_id]
    assert {k.hex(): v.hex() for k, v in stream.store.marks.items()} == {
        one.trade_id: cancel_of(one, 30).trade_id
    }


class CountingStore(InMemoryRepository):
    """Remembers in which windows it is searched for the trades that a cancel may mean."""

    def __init__(self) -> None:
        super().__init__()
        self.searched: list[WindowKey] = []

    def matching_trades(self, columns: Any, keys: Sequence[WindowKey]) -> Any:
        self.searched += keys
        return super().matching_trades(columns, keys)


def test_the_trade_of_a_cancel_is_found_in_memory_while_it_is_recent_and_in_the_truth_after() -> None:
    store = CountingStore()
    stream = Stream(store)
    one, other = at(0, 1), at(0.1, 2)
    stream.feed(one, other)
    assert stream.feed(cancel_of(one, 1)).matched == 1
    assert store.searched == []
    # A new driver remembers nothing; both cancels are alike, so both are matched anew.
    assert Stream(store).feed(cancel_of(other, 1)).matched == 2
    assert store.searched != []


def test_the_trade_of_a_cancel_is_looked_for_window_by_window_and_backwards() -> None:
    """Over a whole partition, a quarter of an hour of a busy symbol, Cassandra took longer than a read may take."""
    store = CountingStore()
    one, cancel = at(0, 1), cancel_of(at(0, 1), 40)
    others = [at(minutes, 2, size=7) for minutes in (20, 39.5, 40, 50)]
    Stream(store).feed(one, *others)
    assert Stream(store).feed(cancel).matched == 1
    wanted = [*reversed(others[:3]), one]  # none after the cancel, and none that holds nothing
    assert [key.start for key in store.searched] == [window_start(trade.ts) for trade in wanted]
    assert [key.slot for key in store.searched] == [trade.slot for trade in wanted]


def test_a_cancel_that_comes_before_its_trade_waits_for_it() -> None:
    stream = Stream()
    one = at(0, 1)
    assert stream.feed(cancel_of(one, 1)).unmatched == 1
    stream = Stream(stream.store)  # another driver: what waits is on record
    assert stream.feed(one, at(0, 2, size=77), scores={one.trade_id: 6.0}).matched == 1
    assert counts(stream) == {0: 1}
    assert stream.store.unusual == {}
    assert [mark.hex() for mark in stream.store.marks] == [one.trade_id]


def test_a_cancel_of_an_unknown_trade_stays_on_record_and_changes_nothing() -> None:
    stream = Stream()
    stream.feed(at(0, 1))
    assert stream.feed(cancel_of(at(0, 5, size=1234), 1)).unmatched == 1
    assert counts(stream) == {0: 1}
    assert [cancel.trade_id for cancel in stream.store.cancels.values()] == [None]


def test_a_canceled_trade_delivered_again_stays_out() -> None:
    stream = Stream()
    one = at(0, 1)
    stream.feed(one, cancel_of(one, 1), scores={one.trade_id: 6.0})
    before = stream.tables
    stream.feed(one, scores={one.trade_id: 6.0})
    assert stream.tables == before
    assert counts(stream) == {0: 0}


def test_a_better_match_that_comes_late_frees_the_trade_that_was_taken() -> None:
    first, second = at(0, 1), at(0.5, 2)
    cancel = cancel_of(first, 1, sequence=900)
    stream = Stream()
    stream.feed(first, cancel)
    assert set(stream.store.marks) == {bytes.fromhex(first.trade_id)}
    stream.feed(second)
    assert set(stream.store.marks) == {bytes.fromhex(second.trade_id)}
    assert counts(stream) == {0: 1}
    stream.feed(first, scores={first.trade_id: 6.0})
    assert [key[0].hex() for key in stream.store.unusual] == [first.trade_id]


def test_a_better_match_frees_the_trade_that_a_driver_before_had_taken() -> None:
    first, second = at(0, 1), at(10, 2)
    stream = Stream()
    stream.feed(first, cancel_of(first, 20, sequence=2))
    assert set(stream.store.marks) == {bytes.fromhex(first.trade_id)}
    stream = Stream(stream.store)  # its memory is empty, and the cancel's number is met by what comes now
    stream.feed(second)
    assert set(stream.store.marks) == {bytes.fromhex(second.trade_id)}
    assert counts(stream) == {0: 1, 10: 0}


def test_a_trade_with_a_corrected_quote_replaces_itself() -> None:
    stream = Stream()
    stream.feed(at(0, 1))
    stream.feed(at(0, 1, delta=-0.9))
    (found,) = stream.store.windows_written.values()
    assert found.trades == 1
    assert found.put_delta == pytest.approx(-0.9 * 100 * trade(LINE).size)


def test_late_trades_are_counted_by_reason_and_not_dropped() -> None:
    stream = Stream()
    stream.feed(at(10, 1))
    yesterday = replace(at(0, 4), trade_date="2018-01-05", ts=trade(LINE).ts - 3 * 86_400_000)
    summary = stream.feed(at(2, 2), at(8, 3), yesterday, at(9.5, 5), offset=1)
    assert summary.late == {WINDOW_CLOSED: 2, EARLIER_DAY: 1}
    day = trade(LINE).trade_date
    assert stream.store.late == {(day, WINDOW_CLOSED, 0, 5): 2, ("2018-01-05", EARLIER_DAY, 0, 5): 1}
    assert sum(counts(stream).values()) == 5


def test_the_watermark_is_of_one_partition() -> None:
    stream = Stream()
    stream.feed(at(10, 1), partition=1)
    assert stream.feed(at(0, 2), partition=2).late == {}


def test_a_batch_that_could_not_be_written_is_applied_again_as_if_for_the_first_time() -> None:
    class Broken(InMemoryRepository):
        def write(self, writes: Any, timestamp: int) -> None:
            raise KintsugiError("no quorum")

    whole, store = Stream(), Broken()
    stream = Stream(store)
    rows = [at(n / 3, n) for n in range(30)]
    rows.append(cancel_of(rows[4], 20))
    whole.feed(*rows)
    with pytest.raises(KintsugiError, match="no quorum"):
        stream.feed(*rows)
    store.__class__ = InMemoryRepository  # type: ignore[assignment]
    assert stream.feed(*rows).late == {}
    assert stream.tables == whole.tables


def test_synthetic_trades_are_in_no_window() -> None:
    stream = Stream()
    stream.feed(at(0, 1, symbol=SYNTHETIC_SYMBOL))
    assert stream.store.windows_written == {}


def test_a_driver_that_wakes_up_after_another_took_over_ends_and_cannot_overwrite() -> None:
    store = InMemoryRepository()
    old, new = Stream(store, epoch=1), Stream(store, epoch=2)
    old.feed(at(0, 1))
    suspended = old.derived._derive(table(at(0, 1)))[0]
    stamp = old.derived._stamp + 1
    store.store(table(at(0, 2)))
    new.derived._stamp = stamp
    new.feed(at(0, 2))
    for stage in suspended.stages():
        store.write(stage, stamp)  # what it was about to write when it was stopped
    assert counts(new) == {0: 2}
    with pytest.raises(GuardRefused, match=r"2 µs .*\b1 µs"):
        old.feed(at(0, 3))


def test_memory_is_bounded_whatever_comes() -> None:
    stream = Stream(capacity=10)
    for n in range(50):
        stream.feed(at(n, n), at(n, n + 1000))
    assert stream.derived._window_trades <= 10
    assert len(stream.derived._windows) <= 10
    stream.feed(at(0, 2000))
    assert counts(stream)[0] == 3
