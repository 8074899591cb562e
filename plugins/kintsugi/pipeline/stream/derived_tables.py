"""Derive the tables that follow from the stored trades: flow windows, unusual trades, cancels. Runs in the driver.

The executors have stored the batch's trades when `DerivedTables.apply` is called. Invariants:

1. All other tables are a function of the table ``trade``: of its trades and their scores. Memory only saves reading
   them again. `recomputation` computes the same rows from the stored trades alone.
2. Every write is absolute, and writes have the order of `derived_table_keys`. A repeated batch writes the same rows, in
   whatever order batches arrive and wherever the earlier attempt was interrupted.
3. No window is ever too old. A late trade, or a whole day replayed, loads its window again from the stored trades. The
   watermark only decides which trades are *counted* as late; no trade is dropped.
4. Every row carries the time at which its batch began. A driver that was suspended during a batch, and continues after
   another driver has taken over, can't overwrite newer values. Before it writes, it notices that it isn't the youngest
   driver, and ends.
5. Of two versions of a trade, the one with the greater ``stamp`` counts, here and in Cassandra, whichever comes first.
"""

from __future__ import annotations

import time
from collections import OrderedDict, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kintsugi.core.errors import GuardRefused
from kintsugi.pipeline.row_parser import SLOT_MINUTES
from kintsugi.pipeline.stream import late_trades
from kintsugi.pipeline.stream.batch_columns import (
    read_cancel,
    scores_by_signal,
    special_rows,
    unusual_rows,
)
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
    SCORES,
    UNUSUAL_CANCELED,
    UNUSUAL_TRADE,
    Changes,
    Mark,
    Row,
)
from kintsugi.pipeline.stream.driver_state import DayState, Window
from kintsugi.pipeline.stream.flow_windows import WINDOW_MS, WindowFlow, window_signals, window_start
from kintsugi.pipeline.stream.recent_trades import RecentTrades
from kintsugi.pipeline.stream.window_trades import WindowTrades, group_by_window

if TYPE_CHECKING:
    from pyarrow import Table as ArrowTable

CAPACITY = 200_000  # trades of windows held in memory: about 70 MB
DAYS = 20_000
UNUSUAL_CAPACITY = 100_000  # trades whose unusual rows are held in memory: about 100 MB
FENCED_S = 1.0  # how long a driver may assume that it is still the youngest
SEARCHED_AT_ONCE = 64  # windows


@dataclass(slots=True)
class Summary:
    """Counts of a batch: trades, unusual ones, windows written, cancels matched and not, late trades by reason."""

    trades: int = 0
    unusual: int = 0
    windows: int = 0
    matched: int = 0
    unmatched: int = 0
    late: dict[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        return (
            f"{self.trades} trades, {self.unusual} unusual, {self.windows} windows, cancels {self.matched} matched "
            f"{self.unmatched} not, late {self.late or 0}"
        )


class DerivedTables:
    """Keeps the derived tables up to date, batch by batch; a driver has one."""

    def __init__(
        self, repository: DerivedRepository, capacity: int = CAPACITY, epoch: int | None = None
    ) -> None:
        self._repository = repository
        self._capacity = capacity
        self._epoch = epoch if epoch is not None else time.time_ns() // 1000
        self._is_claimed = False
        self._fenced_at = 0.0
        self._repair: int | None = None
        self._stamp = self._epoch
        self._windows: OrderedDict[WindowKey, Window] = OrderedDict()
        self._window_trades = 0
        self._days: OrderedDict[Day, DayState] = OrderedDict()
        self._unusual = 0
        self._late = late_trades.LateTradeCounter()
        self._recent = RecentTrades()

    def apply(self, batch: ArrowTable) -> Summary:
        """Update the tables with a batch of stored trades (columns `batch_columns.DERIVING`).

        Raises GuardRefused when a younger driver has taken over, and what the repository raises. Then everything in
        memory is dropped, and the batch can be applied again.
        """
        stamp = self._stamp = max(self._stamp + 1, time.time_ns() // 1000)
        newest = dict(self._late.newest)
        try:
            self._check_fence()
            changes, summary = self._derive(batch)
            for number, stage in enumerate(changes.stages()):
                if time.monotonic() - self._fenced_at > FENCED_S:
                    self._check_fence()
                self._stamp = stamp + number  # two stages may write the same row: the later one wins
                self._repository.write(stage, self._stamp)
        except Exception:
            self._drop_memory()
            self._late.newest = newest
            raise
        self._evict()
        return summary

    def _check_fence(self) -> None:
        """Raise GuardRefused if a younger driver has taken over; drop the memory if the tables were repaired."""
        if not self._is_claimed:
            self._repository.claim(self._epoch)
            self._is_claimed = True
        state = self._repository.driver_state()
        if state.epoch > self._epoch:
            raise GuardRefused(
                f"a streaming driver that started at {state.epoch} µs has taken over from this one "
                f"({self._epoch} µs); this one ends"
            )
        if self._repair not in (None, state.repair):
            self._drop_memory()
        self._repair = state.repair
        self._fenced_at = time.monotonic()

    def _drop_memory(self) -> None:
        self._windows.clear()
        self._days.clear()
        self._recent.clear()
        self._window_trades = self._unusual = 0

    def _derive(self, batch: ArrowTable) -> tuple[Changes, Summary]:
        special = special_rows(batch)
        summary, changes = Summary(trades=batch.num_rows), Changes()
        self._recent.add(batch)
        windows = {trades.key: trades for trades in group_by_window(batch)}
        self._load_days(
            {key.day for key in windows} | {(row["symbol"], row["trade_date"]) for row in special}
        )
        summary.late, late_rows = self._late.count(batch)
        changes.dependent += late_rows
        sorted_batch = self._sort(windows, special)
        self._load_windows(sorted_batch.windows)
        for trades in sorted_batch.windows.values():
            self._put_batch(trades)
        changed_windows = set(sorted_batch.windows)
        settled: dict[tuple[Day, bytes], None] = {}
        for day, match in sorted(sorted_batch.groups):
            for trade in self._match_group(day, match, changes, summary):
                changed_windows.add(self._settle(day, trade, changes))
                settled[day, trade.trade_id] = None
        for window_key in changed_windows:
            self._put_window(window_key, changes)
        summary.unusual = self._place_unusual(special, sorted_batch, settled, changes)
        summary.windows = len(changed_windows)
        return changes, summary

    def _load_days(self, days: set[Day]) -> None:
        missing = sorted(day for day in days if day not in self._days)
        for day, record in self._repository.days(missing).items():
            self._days[day] = state = DayState(day, record)
            self._unusual += len(state.unusual)
        for day in days:
            self._days.move_to_end(day)

    def _load_windows(self, keys: Iterable[WindowKey]) -> None:
        """Load these windows: from the stored trades if the window was written before, else empty."""
        stored = []
        for key in keys:
            if key in self._windows:
                self._windows.move_to_end(key)
                continue
            self._windows[key] = Window()
            if self._days[key.day].windows & key.bit:
                stored.append(key)
        for key, trades in self._repository.windows(stored).items():
            self._put(key, ((trade.trade_id, trade.stamp, trade.flow) for trade in trades))

    def _put(self, key: WindowKey, trades: Iterable[tuple[bytes, int, WindowFlow]]) -> None:
        """Add trades (identity, version, flow) to a window; cancelled ones don't count in it."""
        window, canceled_by = self._windows[key], self._days[key.day].canceled_by
        before = len(window.flows)
        for identity, stamp, flow in trades:
            if identity in canceled_by:
                window.exclude(identity)
            window.put(identity, stamp, flow)
        self._window_trades += len(window.flows) - before

    def _put_batch(self, trades: WindowTrades) -> None:
        """Add a batch's trades to their window: all at once, if none of them is known or cancelled."""
        window, canceled_by = self._windows[trades.key], self._days[trades.key.day].canceled_by
        identities = trades.versions.keys()
        known = (window.flows.keys(), window.excluded, canceled_by.keys())
        if trades.is_distinct and all(identities.isdisjoint(others) for others in known):
            window.put_new(trades.versions, trades.sums)
            self._window_trades += len(identities)
        else:
            self._put(trades.key, ((identity, *version) for identity, version in trades.versions.items()))

    def _sort(self, windows: dict[WindowKey, WindowTrades], special: list[dict[str, Any]]) -> _SortedBatch:
        """Return the batch's trades by window, the groups of cancels it may change, and its trades that have scores."""
        result = _SortedBatch(windows)
        for key, trades in windows.items():
            day, state = key.day, self._days[key.day]
            latest = state.last_cancel_ts
            for match, ts in zip(trades.matches, trades.times, strict=True):
                if match in latest and ts <= latest[match]:
                    result.groups.add((day, match))
            if unusual := state.unusual.keys() & trades.versions.keys():
                times = dict(zip(trades.identities, trades.times, strict=True))
                for identity in unusual:
                    result.unusual_before[day, identity] = (*key[:3], times[identity], identity)
        for row in special:
            if row["canceled"]:
                day, cancel = (row["symbol"], row["trade_date"]), read_cancel(row)
                self._days[day].add(cancel)
                result.groups.add((day, cancel.match))
        return result

    def _match_group(self, day: Day, match: int, changes: Changes, summary: Summary) -> list[StoredTrade]:
        """Match the cancels of a group again with the stored trades; returns trades that it cancels or may release."""
        state = self._days[day]
        by_columns: dict[MatchColumns, list[Cancel]] = defaultdict(list)
        for cancel in state.cancels[match].values():
            by_columns[cancel.match_columns].append(cancel)
        changed: list[StoredTrade] = []
        for columns, cancels in by_columns.items():
            trades = self._candidate_trades(day, match, columns, cancels)
            matches = match_cancels(map(to_candidate, cancels), map(to_candidate, trades.values()))
            before = frozenset().union(*(_canceled_trades(cancel) for cancel in cancels))
            for identity in before:
                state.canceled_by.pop(identity, None)
            for cancel in cancels:
                trade_id = matches.get(cancel.cancel_id)
                updated = cancel._replace(trade_id=trade_id, former=_canceled_trades(cancel) - {trade_id})
                changes.put_cancel(day, updated)
                state.cancels[match][cancel.cancel_id] = updated._replace(former=frozenset())
                if trade_id is not None:
                    state.canceled_by[trade_id] = cancel.cancel_id
            summary.matched += len(matches)
            summary.unmatched += len(cancels) - len(matches)
            changed += [
                trades[identity] for identity in sorted(before | set(matches.values())) if identity in trades
            ]
        return changed

    def _settle(self, day: Day, trade: StoredTrade, changes: Changes) -> WindowKey:
        """Mark a trade with its cancel, or with none, and include or exclude it in its window; returns the window."""
        window = WindowKey(*day, trade.slot, trade.flow.window)
        cancel = self._days[day].canceled_by.get(trade.trade_id)
        trade_key = (*day, trade.slot, trade.ts, trade.trade_id)
        changes.dependent.append(Mark(trade_key, CANCELED_BY, cancel))
        self._load_windows([window])
        if cancel is None:
            self._windows[window].include(trade.trade_id)
        self._put(window, [(trade.trade_id, trade.stamp, trade.flow)])
        return window

    def _candidate_trades(
        self, day: Day, match: int, columns: MatchColumns, cancels: list[Cancel]
    ) -> dict[bytes, StoredTrade]:
        """Return the trades that these cancels may cancel.

        Windows are searched backwards in time until each cancel has found its sequence number, and until all trades
        that the cancels cancelled before are found: a better match releases them.
        """
        canceled = frozenset().union(*(_canceled_trades(cancel) for cancel in cancels))
        trades = {trade.trade_id: trade for trade in self._recent.matching_trades(day, match, columns)}

        def is_complete() -> bool:
            return canceled <= trades.keys() and all_match_by_sequence(
                map(to_candidate, cancels), map(to_candidate, trades.values())
            )

        if is_complete():
            return trades
        stored_windows = self._days[day].windows  # trades of other windows came with this batch
        latest = max(cancels, key=lambda cancel: cancel.ts)
        windows = [window for window in _windows_back(day, latest) if stored_windows & window.bit]
        start, step = 0, 1
        while start < len(windows) and not is_complete():
            for trade in self._repository.matching_trades(columns, windows[start : start + step]):
                trades[trade.trade_id] = trade
            start, step = start + step, min(2 * step, SEARCHED_AT_ONCE)
        return trades

    def _put_window(self, key: WindowKey, changes: Changes) -> None:
        state, signals = self._days[key.day], window_signals(self._windows[key].sums)
        changes.put_window(key, signals, was_alert=bool(state.alerts & key.bit))
        state.windows |= key.bit
        state.alerts = state.alerts | key.bit if signals.signal else state.alerts & ~key.bit

    def _place_unusual(
        self,
        special: list[dict[str, Any]],
        sorted_batch: _SortedBatch,
        settled: Iterable[tuple[Day, bytes]],
        changes: Changes,
    ) -> int:
        """Write the rows of the trades that signal or signalled; returns how many rows are in ``unusual_trade``.

        A trade that this batch scored gets the rows of these scores. A trade that was only settled keeps its rows.
        """
        rows_of: dict[tuple[Day, bytes], list[Row]] = {}
        trade_keys: dict[tuple[Day, bytes], TradeKey] = {}
        for batch_row in special:
            rows = unusual_rows(batch_row)
            day = (batch_row["symbol"], batch_row["trade_date"])
            identity = bytes.fromhex(batch_row["trade_id"])
            if rows and self._is_stored(batch_row, identity):
                rows_of[day, identity] = rows
                trade_keys[day, identity] = (*day, batch_row["slot"], batch_row["ts"], identity)
        for trade, trade_key in sorted_batch.unusual_before.items():
            if trade not in rows_of and self._is_scored(trade_key, sorted_batch):
                rows_of[trade], trade_keys[trade] = [], trade_key
        for trade in settled:
            if trade not in rows_of and trade[1] in self._days[trade[0]].unusual:
                rows_of[trade] = [row for _, row in self._days[trade[0]].unusual[trade[1]]]
        count = 0
        for (day, identity), rows in rows_of.items():
            state = self._days[day]
            table = UNUSUAL_CANCELED if identity in state.canceled_by else UNUSUAL_TRADE
            stored, wanted = state.unusual.pop(identity, []), [(table, row) for row in rows]
            changes.place_unusual(stored, wanted)
            if (day, identity) in trade_keys:
                changes.dependent.append(Mark(trade_keys[day, identity], SCORES, scores_by_signal(rows)))
            self._unusual -= bool(stored)
            if wanted:
                state.unusual[identity] = wanted
                self._unusual += 1
            count += len(rows) * (table is UNUSUAL_TRADE)
        return count

    def _is_stored(self, row: dict[str, Any], identity: bytes) -> bool:
        """Whether this version of a trade is the stored one."""
        key = WindowKey(row["symbol"], row["trade_date"], row["slot"], window_start(row["ts"]))
        return bool(self._windows[key].flows[identity][0] == row["stamp"])

    def _is_scored(self, trade_key: TradeKey, sorted_batch: _SortedBatch) -> bool:
        """Whether the version of a trade in this batch is the stored one."""
        key = WindowKey(*trade_key[:3], window_start(trade_key[3]))
        return (
            self._windows[key].flows[trade_key[4]][0] == sorted_batch.windows[key].versions[trade_key[4]][0]
        )

    def _evict(self) -> None:
        """Drop the windows and the days that were used longest ago."""
        while self._window_trades > self._capacity and self._windows:
            self._window_trades -= len(self._windows.popitem(last=False)[1].flows)
        while len(self._days) > DAYS or (self._unusual > UNUSUAL_CAPACITY and len(self._days) > 1):
            self._unusual -= len(self._days.popitem(last=False)[1].unusual)


@dataclass(slots=True)
class _SortedBatch:
    """A batch: trades by window, groups of cancels that it may change, and its trades that were unusual before."""

    windows: dict[WindowKey, WindowTrades]
    groups: set[tuple[Day, int]] = field(default_factory=set)
    unusual_before: dict[tuple[Day, bytes], TradeKey] = field(default_factory=dict)


def _canceled_trades(cancel: Cancel) -> frozenset[bytes]:
    """Return the trade that a cancel cancels, and those it cancelled before until the tables are corrected."""
    return cancel.former if cancel.trade_id is None else cancel.former | {cancel.trade_id}


def _windows_back(day: Day, cancel: Cancel) -> list[WindowKey]:
    """Return the windows that a cancel's trade may be in: its own and all before it on its day, the latest first."""
    latest = window_start(cancel.ts)
    # New York differs from UTC by whole hours, so a quarter of an hour begins for both at once.
    minutes = cancel.slot * SLOT_MINUTES + latest // WINDOW_MS % SLOT_MINUTES
    return [
        WindowKey(*day, (minutes - back) // SLOT_MINUTES, latest - back * WINDOW_MS)
        for back in range(minutes + 1)
    ]
