"""What follows from the stored trades: flow windows, unusual trades, cancels. The streaming driver's half of a batch.

The executors have stored the batch's trades by the time that `DerivedTables.apply` is called. Invariants:

1. The table ``trade`` is the truth. All other tables are a function of the stored trades and their scores; what is in
   memory only saves reading it again. `derived_audit` computes the same from the truth alone.
2. What is written is absolute, and in the order of `derived_tables`: a repeated batch writes the same rows, in whatever
   order batches come and wherever the one before was cut short.
3. No window is ever too old: a late trade, or a whole day replayed, opens its window again from the truth. The
   watermark decides what is *counted* as late, not what is dropped.
4. Every row carries the time at which its batch began, so a driver that was suspended in a batch and woke
   up after another had taken over loses against the newer values; and before it writes it finds that it isn't the
   youngest driver, and ends.
5. Of two versions of a trade the one with the greater ``stamp`` counts, here and in Cassandra, whichever comes first.
"""

from __future__ import annotations

import time
from collections import OrderedDict, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kintsugi.core.errors import GuardRefused
from kintsugi.pipeline.row_parser import SLOT_MINUTES
from kintsugi.pipeline.stream.cancels import all_match_by_sequence, match_cancels
from kintsugi.pipeline.stream.derived_records import (
    Cancel,
    Day,
    DerivedRepository,
    MatchColumns,
    StoredTrade,
    TradeKey,
    WindowKey,
    to_candidate,
)
from kintsugi.pipeline.stream.derived_table_keys import (
    CANCELED_BY,
    LATE_TRADES,
    SCORES,
    UNUSUAL_CANCELED,
    UNUSUAL_TRADE,
    Changes,
    Mark,
    Put,
    Row,
    Scores,
)
from kintsugi.pipeline.stream.driver_state import DayState, Window
from kintsugi.pipeline.stream.flow_windows import WINDOW_MS, WindowFlow, flow_of, window_signals, window_start
from kintsugi.pipeline.stream.recent_trades import RecentTrades
from kintsugi.pipeline.trade_identity import SYNTHETIC_SYMBOL

if TYPE_CHECKING:
    from pyarrow import Table as ArrowTable

CAPACITY = 200_000  # trades of windows held in memory: about 70 MB
DAYS = 20_000
UNUSUAL_CAPACITY = 100_000  # trades whose unusual rows are held in memory: about 100 MB
FENCED_S = 1.0  # how long a driver trusts that it is the youngest
SEARCHED_AT_ONCE = 64  # windows
ALLOWED_LATENESS_MS = 60_000
WINDOW_CLOSED, EARLIER_DAY = "window-closed", "earlier-day"
TRADE_SIGNALS = ("high_volume", "iv_jump")
USUAL_OF = {
    "high_volume": ("usual_volume_mean", "usual_volume_stddev"),
    "iv_jump": ("usual_iv_median", "usual_iv_stddev"),
}
UNUSUAL_NAMES = (
    "root", "expiration", "strike", "option_type", "size", "price", "premium", "side", "iv", "delta",
)  # fmt: skip
# What the executors return of a stored trade, with its types for Spark.
RETURNED = (
    "trade_id string, symbol string, trade_date string, slot int, ts bigint, sequence bigint, root string, "
    "expiration string, strike double, option_type string, exchange int, size int, price double, "
    "condition int, canceled_condition int, iv double, delta double, premium double, side string, "
    "canceled boolean, expiry_bin string, delta_bin string, match bigint, stamp bigint, partition int, offset bigint"
)
# What `DerivedTables.apply` needs: the same with the scores, as `signals.with_scores` adds them.
DERIVING = (
    f"{RETURNED}, high_volume double, iv_jump double, usual_volume_mean double, usual_volume_stddev double, "
    "usual_iv_median double, usual_iv_stddev double"
)
RETURNED_NAMES, DERIVING_NAMES = (
    tuple(column.split()[0] for column in columns.split(", ")) for columns in (RETURNED, DERIVING)
)

FLOWING = (
    "trade_id", "symbol", "trade_date", "slot", "ts", "option_type", "size", "price", "delta", "side",
    "canceled", "match", "stamp",
)  # fmt: skip
OF_EVERY_TRADE = (*FLOWING, "partition", "offset")


@dataclass(slots=True)
class Summary:
    """What a batch was: trades, unusual ones, windows written, cancels matched and not, late trades by reason."""

    trades: int = 0
    unusual: int = 0
    windows: int = 0
    matched: int = 0
    unmatched: int = 0
    late: dict[str, int] = field(default_factory=dict)
    ends: dict[int, int] = field(default_factory=dict)

    def __str__(self) -> str:
        return (
            f"{self.trades} trades, {self.unusual} unusual, {self.windows} windows, cancels {self.matched} matched "
            f"{self.unmatched} not, late {self.late or 0}"
        )


class DerivedTables:
    """Keeps what follows from the stored trades up to date, batch by batch; one in a driver."""

    def __init__(self, store: DerivedRepository, capacity: int = CAPACITY, epoch: int | None = None) -> None:
        self._store = store
        self._capacity = capacity
        self._epoch = epoch if epoch is not None else time.time_ns() // 1000
        self._claimed = False
        self._fenced_at = 0.0
        self._repair: int | None = None
        self._stamp = self._epoch
        self._windows: OrderedDict[WindowKey, Window] = OrderedDict()
        self._held = 0
        self._days: OrderedDict[Day, DayState] = OrderedDict()
        self._unusual = 0
        self._newest: dict[int, tuple[int, str]] = {}
        self._recent = RecentTrades()

    def apply(self, batch: ArrowTable) -> Summary:
        """Bring the tables up to date with a batch of stored trades (columns DERIVING).

        Raises GuardRefused when a younger driver has taken over, and what the store raises; then everything in
        memory is forgotten, and the batch can be applied again.
        """
        stamp = self._stamp = max(self._stamp + 1, time.time_ns() // 1000)
        watermarks = dict(self._newest)
        try:
            self._fence()
            changes, summary = self._derive(batch)
            for later, stage in enumerate(changes.stages()):
                if time.monotonic() - self._fenced_at > FENCED_S:
                    self._fence()
                self._stamp = stamp + later  # a row may be written by two stages: the later one stays
                self._store.write(stage, self._stamp)
        except Exception:
            self._forget()
            self._newest = watermarks
            raise
        self._evict()
        return summary

    def _fence(self) -> None:
        """End if a younger driver has taken over; forget what is in memory if the tables were repaired."""
        if not self._claimed:
            self._store.claim(self._epoch)
            self._claimed = True
        state = self._store.driver_state()
        if state.epoch > self._epoch:
            raise GuardRefused(
                f"a streaming driver that began at {state.epoch} µs has taken over from this one ({self._epoch} µs); "
                "this one ends"
            )
        if self._repair not in (None, state.repair):
            self._repair = state.repair
            self._forget()
        self._repair = state.repair
        self._fenced_at = time.monotonic()

    def _forget(self) -> None:
        self._windows.clear()
        self._days.clear()
        self._recent.clear()
        self._held = self._unusual = 0

    def _derive(self, batch: ArrowTable) -> tuple[Changes, Summary]:
        rows = {name: batch.column(name).to_pylist() for name in OF_EVERY_TRADE}
        special = _special_rows(batch)
        summary, changes = Summary(trades=batch.num_rows), Changes()
        self._recent.add(batch)
        self._load_days(set(zip(rows["symbol"], rows["trade_date"], strict=True)))
        self._count_late(rows, summary, changes)
        sorted_ = self._sort(rows, special)
        self._load_windows(sorted_.windows)
        for window_key, flows in sorted_.windows.items():
            self._put(window_key, ((identity, *version) for identity, version in flows.items()))
        dirty = set(sorted_.windows)
        settled: dict[tuple[Day, bytes], None] = {}
        for day, key in sorted(sorted_.groups):
            for trade in self._resolve(day, key, changes, summary):
                dirty.add(self._settle(day, trade, changes))
                settled[day, trade.trade_id] = None
        for window_key in dirty:
            self._put_window(window_key, changes)
        summary.unusual = self._place_unusual(special, sorted_, settled, changes)
        summary.windows = len(dirty)
        return changes, summary

    def _load_days(self, days: set[Day]) -> None:
        missing = sorted(day for day in days if day not in self._days)
        for day, record in self._store.days(missing).items():
            self._days[day] = state = DayState(day, record)
            self._unusual += len(state.unusual)
        for day in days:
            self._days.move_to_end(day)

    def _load_windows(self, keys: Iterable[WindowKey]) -> None:
        """Have these windows in memory: from the truth, if anything of them is on record, or else empty."""
        from_truth = []
        for key in keys:
            if key in self._windows:
                self._windows.move_to_end(key)
                continue
            self._windows[key] = Window()
            if self._days[key.day].known & key.bit:
                from_truth.append(key)
        for key, trades in self._store.windows(from_truth).items():
            self._put(key, ((trade.trade_id, trade.stamp, trade.flow) for trade in trades))

    def _put(self, key: WindowKey, trades: Iterable[tuple[bytes, int, WindowFlow]]) -> None:
        """Take trades (identity, version, flow) into a window; what a cancel takes back doesn't count in it."""
        window, taken = self._windows[key], self._days[key.day].taken
        before = len(window.flows)
        for identity, stamp, flow in trades:
            if identity in taken:
                window.take_out(identity)
            window.put(identity, stamp, flow)
        self._held += len(window.flows) - before

    def _sort(self, rows: dict[str, list[Any]], special: list[dict[str, Any]]) -> _SortedBatch:
        """The batch's flows by window, the groups of cancels that it may change, and what it scores again."""
        sorted_ = _SortedBatch()
        for identity, symbol, date, slot, ts, kind, size, price, delta, side, canceled, key, stamp in zip(
            *(rows[name] for name in FLOWING), strict=True
        ):
            if canceled or symbol == SYNTHETIC_SYMBOL:
                continue
            flow = flow_of(ts, kind, side, size, price, delta)
            trade_id, day = bytes.fromhex(identity), (symbol, date)
            flows = sorted_.windows[WindowKey(symbol, date, slot, flow.window)]
            version = flows.setdefault(trade_id, (stamp, flow))
            if version[0] < stamp:
                flows[trade_id] = (stamp, flow)
            state = self._days[day]
            if key in state.last and ts <= state.last[key]:
                sorted_.groups.add((day, key))
            if state.unusual and trade_id in state.unusual:
                sorted_.known[day, trade_id] = (symbol, date, slot, ts, trade_id)
        for row in special:
            if row["canceled"]:
                day, cancel = (row["symbol"], row["trade_date"]), _cancel_of_row(row)
                self._days[day].add(cancel)
                sorted_.groups.add((day, cancel.match))
        return sorted_

    def _resolve(self, day: Day, key: int, changes: Changes, summary: Summary) -> list[StoredTrade]:
        """Match the cancels of a group anew, against the truth; returns the trades that this takes or may free."""
        state = self._days[day]
        by_columns: dict[MatchColumns, list[Cancel]] = defaultdict(list)
        for cancel in state.cancels[key].values():
            by_columns[cancel.alike].append(cancel)
        touched: list[StoredTrade] = []
        for columns, cancels in by_columns.items():
            trades = self._alike(day, key, columns, cancels)
            found = match_cancels(map(to_candidate, cancels), map(to_candidate, trades.values()))
            before = frozenset().union(*(_taken_by(cancel) for cancel in cancels))
            for identity in before:
                state.taken.pop(identity, None)
            for cancel in cancels:
                trade_id = found.get(cancel.cancel_id)
                now = cancel._replace(trade_id=trade_id, former=_taken_by(cancel) - {trade_id})
                changes.put_cancel(day, now)
                state.cancels[key][cancel.cancel_id] = now._replace(former=frozenset())
                if trade_id is not None:
                    state.taken[trade_id] = cancel.cancel_id
            summary.matched += len(found)
            summary.unmatched += len(cancels) - len(found)
            touched += [
                trades[identity] for identity in sorted(before | set(found.values())) if identity in trades
            ]
        return touched

    def _settle(self, day: Day, trade: StoredTrade, changes: Changes) -> WindowKey:
        """Mark a trade with the cancel that takes it back, or none; let it count in its window, or not."""
        window = WindowKey(*day, trade.slot, trade.flow.window)
        cancel = self._days[day].taken.get(trade.trade_id)
        place = (*day, trade.slot, trade.ts, trade.trade_id)
        changes.dependent.append(Mark(place, CANCELED_BY, cancel))
        self._load_windows([window])
        if cancel is None:
            self._windows[window].put_back(trade.trade_id)
        self._put(window, [(trade.trade_id, trade.stamp, trade.flow)])
        return window

    def _alike(
        self, day: Day, key: int, columns: MatchColumns, cancels: list[Cancel]
    ) -> dict[bytes, StoredTrade]:
        """The trades that these cancels may mean: backwards in time, until each has found its sequence number.

        What they took back so far is among them: a better match frees it.
        """
        taken = frozenset().union(*(_taken_by(cancel) for cancel in cancels))
        found = {trade.trade_id: trade for trade in self._recent.alike(day, key, columns)}
        known = self._days[day].known  # windows that were written; what lies in others came with this batch
        latest = max(cancels, key=lambda cancel: cancel.ts)
        windows = [window for window in _windows_back(day, latest) if known & window.bit]
        start, step = 0, 1
        while start < len(windows) and not (
            taken <= found.keys()
            and all_match_by_sequence(map(to_candidate, cancels), map(to_candidate, found.values()))
        ):
            for trade in self._store.alike(columns, windows[start : start + step]):
                found[trade.trade_id] = trade
            start, step = start + step, min(2 * step, SEARCHED_AT_ONCE)
        return found

    def _put_window(self, key: WindowKey, changes: Changes) -> None:
        state, found = self._days[key.day], window_signals(self._windows[key].sums)
        changes.put_window(key, found, alert=bool(state.alerts & key.bit))
        state.known |= key.bit
        state.alerts = state.alerts | key.bit if found.signal else state.alerts & ~key.bit

    def _place_unusual(
        self,
        special: list[dict[str, Any]],
        sorted_: _SortedBatch,
        settled: Iterable[tuple[Day, bytes]],
        changes: Changes,
    ) -> int:
        """Write the rows of the trades that signal or signalled; returns how many rows count.

        A trade that was scored now has the rows of these scores. One that is only settled keeps its rows.
        """
        wanted: dict[tuple[Day, bytes], list[Row]] = {}
        places: dict[tuple[Day, bytes], TradeKey] = {}
        for row in special:
            rows = _unusual_rows(row)
            day, identity = (row["symbol"], row["trade_date"]), bytes.fromhex(row["trade_id"])
            if rows and self._is_stored(row, identity):
                wanted[day, identity] = rows
                places[day, identity] = (*day, row["slot"], row["ts"], identity)
        for trade, place in sorted_.known.items():
            if trade not in wanted and self._was_scored(place, sorted_):
                wanted[trade], places[trade] = [], place
        for trade in settled:
            if trade not in wanted and trade[1] in self._days[trade[0]].unusual:
                wanted[trade] = [row for _, row in self._days[trade[0]].unusual[trade[1]]]
        count = 0
        for (day, identity), rows in wanted.items():
            state = self._days[day]
            table = UNUSUAL_CANCELED if identity in state.taken else UNUSUAL_TRADE
            known, now = state.unusual.pop(identity, []), [(table, row) for row in rows]
            changes.place_unusual(known, now)
            if (day, identity) in places:
                changes.dependent.append(Mark(places[day, identity], SCORES, _scores_by_signal(rows)))
            self._unusual -= bool(known)
            if now:
                state.unusual[identity] = now
                self._unusual += 1
            count += len(rows) * (table is UNUSUAL_TRADE)
        return count

    def _is_stored(self, row: dict[str, Any], identity: bytes) -> bool:
        """Whether this version of a trade is the one that is stored."""
        key = WindowKey(row["symbol"], row["trade_date"], row["slot"], window_start(row["ts"]))
        return bool(self._windows[key].flows[identity][0] == row["stamp"])

    def _was_scored(self, place: TradeKey, sorted_: _SortedBatch) -> bool:
        """Whether the version of a trade that this batch brought is the one that is stored."""
        key = WindowKey(*place[:3], window_start(place[3]))
        return self._windows[key].flows[place[4]][0] == sorted_.windows[key][place[4]][0]

    def _count_late(self, rows: dict[str, list[Any]], summary: Summary, changes: Changes) -> None:
        """Count what comes after the watermark of its Kafka partition; the watermark is the one before this batch."""
        newest = dict(self._newest)
        counts: dict[tuple[str, str, int], int] = defaultdict(int)
        for partition, offset, ts, date, symbol in zip(
            *(rows[name] for name in ("partition", "offset", "ts", "trade_date", "symbol")), strict=True
        ):
            summary.ends[partition] = max(summary.ends.get(partition, 0), offset + 1)
            if symbol == SYNTHETIC_SYMBOL:
                continue
            seen, seen_date = newest.get(partition, (0, ""))
            if window_start(ts) + WINDOW_MS <= seen - ALLOWED_LATENESS_MS:
                counts[date, EARLIER_DAY if date < seen_date else WINDOW_CLOSED, partition] += 1
            if ts > self._newest.get(partition, (0, ""))[0]:
                self._newest[partition] = (ts, date)
        for (date, reason, partition), count in counts.items():
            row = (date, reason, partition, summary.ends[partition], count)
            changes.dependent.append(Put(LATE_TRADES, row))
            summary.late[reason] = summary.late.get(reason, 0) + count

    def _evict(self) -> None:
        """Forget the windows and the days that were touched longest ago."""
        while self._held > self._capacity and self._windows:
            self._held -= len(self._windows.popitem(last=False)[1].flows)
        while len(self._days) > DAYS or (self._unusual > UNUSUAL_CAPACITY and len(self._days) > 1):
            self._unusual -= len(self._days.popitem(last=False)[1].unusual)


@dataclass(slots=True)
class _SortedBatch:
    """A batch: flows by window, groups of cancels that it may change, and its trades that were unusual before."""

    windows: dict[WindowKey, dict[bytes, tuple[int, WindowFlow]]] = field(
        default_factory=lambda: defaultdict(dict)
    )
    groups: set[tuple[Day, int]] = field(default_factory=set)
    known: dict[tuple[Day, bytes], TradeKey] = field(default_factory=dict)


def _taken_by(cancel: Cancel) -> frozenset[bytes]:
    """What a cancel takes back, and what it took back before, as long as that isn't settled."""
    return cancel.former if cancel.trade_id is None else cancel.former | {cancel.trade_id}


def _unusual_rows(row: dict[str, Any]) -> list[Row]:
    """The rows of UNUSUAL_COLUMNS of a trade of a batch: one a signal."""
    start = (row["trade_date"], row["symbol"], row["ts"], bytes.fromhex(row["trade_id"]))
    return [
        (*start, signal, row[signal], *(row[name] for name in (*UNUSUAL_NAMES, *USUAL_OF[signal])))
        for signal in TRADE_SIGNALS
        if row[signal] is not None and not row["canceled"] and row["symbol"] != SYNTHETIC_SYMBOL
    ]


def _scores_by_signal(rows: Iterable[Row]) -> Scores | None:
    """What is stored with a trade, of its rows among the unusual ones."""
    return {row[4]: (row[5], row[-2], row[-1]) for row in rows} or None


def _windows_back(day: Day, cancel: Cancel) -> list[WindowKey]:
    """The windows that a cancel's trade may lie in: its own and all before it on its day, the latest first."""
    latest = window_start(cancel.ts)
    # New York is whole hours off UTC, so a quarter of an hour begins for both at once.
    minutes = cancel.slot * SLOT_MINUTES + latest // WINDOW_MS % SLOT_MINUTES
    return [
        WindowKey(*day, (minutes - back) // SLOT_MINUTES, latest - back * WINDOW_MS)
        for back in range(minutes + 1)
    ]


def _special_rows(batch: ArrowTable) -> list[dict[str, Any]]:
    """All columns of the few rows that are cancels or signal."""
    import pyarrow.compute as pc

    chosen = batch.column("canceled")
    for signal in TRADE_SIGNALS:
        chosen = pc.or_(chosen, pc.is_valid(batch.column(signal)))
    rows: list[dict[str, Any]] = batch.filter(chosen).to_pylist()
    return rows


def _cancel_of_row(row: dict[str, Any]) -> Cancel:
    alike = MatchColumns.of(row, "canceled_condition")
    return Cancel(
        bytes.fromhex(row["trade_id"]), row["ts"], row["slot"], row["sequence"], alike, row["match"], None,
        condition=row["condition"],
    )  # fmt: skip
