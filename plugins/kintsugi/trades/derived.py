"""What follows from the stored trades: flow windows, unusual trades, cancels. The streaming driver's half of a batch.

The executors have stored the batch's trades by the time that `Derived.apply` is called. Invariants:

1. The table ``trade`` is the truth. A window is a function of the stored trades and the matched cancels, nothing
   else; the windows in memory only save reading them again.
2. What is written is absolute: a repeated batch writes the same rows, in whatever order batches come.
3. No window is ever too old: a late trade, or a whole day replayed, opens its window again from the truth. The
   watermark decides what is *counted* as late, not what is dropped.
4. Every row carries the time at which its batch began, so a driver that was suspended in a batch and woke
   up after another had taken over loses against the newer values; and before it begins another batch it finds
   that it isn't the youngest driver, and ends.
"""

from __future__ import annotations

import time
from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kintsugi.errors import Refused
from kintsugi.trades.cancels import Candidate, match
from kintsugi.trades.derived_types import Alike, Cancel, Changes, Day, DayRecord, Store, Stored, WindowKey
from kintsugi.trades.identity import CANARY_SYMBOL
from kintsugi.trades.recent import RecentTrades
from kintsugi.trades.rows import SLOT_MINUTES
from kintsugi.trades.windows import WINDOW_MS, Flow, Sums, Verdict, flow_of, verdict, window_start

if TYPE_CHECKING:
    from pyarrow import Table

CAPACITY = 200_000  # trades of windows held in memory: about 70 MB
DAYS = 20_000
SEARCHED_AT_ONCE = 64  # windows
ALLOWED_LATENESS_MS = 60_000
WINDOW_CLOSED, EARLIER_DAY = "window-closed", "earlier-day"
TRADE_SIGNALS = ("high_volume", "iv_jump")
USUAL_OF = {
    "high_volume": ("usual_volume_mean", "usual_volume_stddev"),
    "iv_jump": ("usual_iv_median", "usual_iv_stddev"),
}
UNUSUAL_TRADE = (
    "root", "expiration", "strike", "option_type", "size", "price", "premium", "side", "iv", "delta",
)  # fmt: skip
# What the driver needs of a stored trade, with its types for Spark.
DERIVING = (
    "trade_id string, symbol string, trade_date string, slot int, ts bigint, sequence bigint, root string, "
    "expiration string, strike double, option_type string, exchange int, size int, price double, "
    "condition int, canceled_condition int, iv double, delta double, premium double, side string, "
    "canceled boolean, match bigint, "
    "high_volume double, iv_jump double, usual_volume_mean double, usual_volume_stddev double, "
    "usual_iv_median double, usual_iv_stddev double, partition int, offset bigint"
)
DERIVING_NAMES = tuple(column.split()[0] for column in DERIVING.split(", "))

OF_EVERY_TRADE = (
    "trade_id", "symbol", "trade_date", "slot", "ts", "option_type", "size", "price", "delta", "side",
    "canceled", "match", "partition", "offset",
)  # fmt: skip


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


class _Window:
    """The trades of a window, by identity, and their sums."""

    __slots__ = ("flows", "sums")

    def __init__(self) -> None:
        self.flows: dict[bytes, Flow] = {}
        self.sums = Sums()

    def put(self, identity: bytes, flow: Flow) -> None:
        known = self.flows.get(identity)
        if known == flow:
            return
        if known is not None:  # delivered again with a corrected quote
            self.sums.add(known, -1)
        self.flows[identity] = flow
        self.sums.add(flow)

    def take_out(self, identity: bytes) -> None:
        known = self.flows.pop(identity, None)
        if known is not None:
            self.sums.add(known, -1)


class _DayState:
    """A symbol's day: which windows are on record and signal (sets of bits), and the cancels."""

    __slots__ = ("alerts", "cancels", "known", "last", "taken")

    def __init__(self, day: Day, record: DayRecord) -> None:
        self.known = self.alerts = 0
        for start in record.windows:
            self.known |= WindowKey(*day, 0, start).bit
        for start in record.alerts:
            self.alerts |= WindowKey(*day, 0, start).bit
        self.cancels: dict[int, dict[bytes, Cancel]] = defaultdict(dict)
        self.last: dict[int, int] = {}
        self.taken: dict[bytes, bytes] = {}
        for cancel in record.cancels:
            self.add(cancel)
            if cancel.trade_id is not None:
                self.taken[cancel.trade_id] = cancel.cancel_id

    def add(self, cancel: Cancel) -> None:
        known = self.cancels[cancel.match].setdefault(cancel.cancel_id, cancel)
        self.last[known.match] = max(self.last.get(known.match, 0), known.ts)


class Derived:
    """Keeps what follows from the stored trades up to date, batch by batch; one in a driver."""

    def __init__(self, store: Store, capacity: int = CAPACITY, epoch: int | None = None) -> None:
        self._store = store
        self._capacity = capacity
        self._epoch = epoch if epoch is not None else time.time_ns() // 1000
        self._claimed = False
        self._stamp = self._epoch
        self._windows: OrderedDict[WindowKey, _Window] = OrderedDict()
        self._held = 0
        self._days: OrderedDict[Day, _DayState] = OrderedDict()
        self._newest: dict[int, tuple[int, str]] = {}
        self._recent = RecentTrades()

    def apply(self, batch: Table) -> Summary:
        """Bring the tables up to date with a batch of stored trades (columns DERIVING).

        Raises Refused when a younger driver has taken over, and what the store raises; then everything in
        memory is forgotten, and the batch can be applied again.
        """
        stamp = self._stamp = max(self._stamp + 1, time.time_ns() // 1000)
        watermarks = dict(self._newest)
        try:
            self._fence()
            changes, summary = self._derive(batch)
            self._store.write(changes, stamp)
        except Exception:
            self._windows.clear()
            self._days.clear()
            self._recent.clear()
            self._held = 0
            self._newest = watermarks
            raise
        for key, found in changes.windows.items():
            state = self._days[key.day]
            state.known |= key.bit
            state.alerts = state.alerts | key.bit if found.signal else state.alerts & ~key.bit
        self._evict(changes.windows)
        return summary

    def _fence(self) -> None:
        if not self._claimed:
            self._store.claim(self._epoch)
            self._claimed = True
        youngest = self._store.youngest()
        if youngest > self._epoch:
            raise Refused(
                f"a streaming driver that began at {youngest} µs has taken over from this one ({self._epoch} µs); "
                "this one ends"
            )

    def _derive(self, batch: Table) -> tuple[Changes, Summary]:
        rows = {name: batch.column(name).to_pylist() for name in OF_EVERY_TRADE}
        special = _special(batch)
        summary, changes = Summary(trades=batch.num_rows), Changes()
        self._recent.add(batch)
        self._load_days(set(zip(rows["symbol"], rows["trade_date"], strict=True)))
        self._count_late(rows, summary, changes)
        touched, groups = self._sort(rows, special)
        self._load_windows(touched)
        for window_key, flows in touched.items():
            for identity, flow in flows.items():
                self._put(self._windows[window_key], identity, flow)
        dirty = set(touched)
        # A cancelled trade that came again was put in just now; its cancel, which is no earlier, takes it out.
        for day, key in sorted(groups):
            dirty |= self._resolve(day, key, changes, summary)
        for window_key in dirty:
            changes.windows[window_key] = found = verdict(self._windows[window_key].sums)
            if not found.signal and self._days[window_key.day].alerts & window_key.bit:
                changes.quiet.append(window_key)
        self._sort_unusual(special, changes)
        summary.unusual, summary.windows = len(changes.unusual), len(changes.windows)
        return changes, summary

    def _load_days(self, days: set[Day]) -> None:
        missing = sorted(day for day in days if day not in self._days)
        for day, record in self._store.days(missing).items():
            self._days[day] = _DayState(day, record)
        for day in days:
            self._days.move_to_end(day)

    def _load_windows(self, keys: Iterable[WindowKey]) -> None:
        """Have these windows in memory: from the truth, if anything of them is on record, or else empty."""
        from_truth = []
        for key in keys:
            if key in self._windows:
                self._windows.move_to_end(key)
                continue
            self._windows[key] = _Window()
            if self._days[key.day].known & key.bit:
                from_truth.append(key)
        for key, trades in self._store.windows(from_truth).items():
            window, taken = self._windows[key], self._days[key.day].taken
            for trade in trades:
                if trade.trade_id not in taken:
                    self._put(window, trade.trade_id, trade.flow)

    def _put(self, window: _Window, identity: bytes, flow: Flow) -> None:
        before = len(window.flows)
        window.put(identity, flow)
        self._held += len(window.flows) - before

    def _take_out(self, window: _Window, identity: bytes) -> None:
        before = len(window.flows)
        window.take_out(identity)
        self._held += len(window.flows) - before

    def _sort(
        self, rows: dict[str, list[Any]], special: list[dict[str, Any]]
    ) -> tuple[dict[WindowKey, dict[bytes, Flow]], set[tuple[Day, int]]]:
        """The batch's flows by window, and the groups of cancels (day and match key) that it may change."""
        touched: dict[WindowKey, dict[bytes, Flow]] = defaultdict(dict)
        groups: set[tuple[Day, int]] = set()
        for identity, symbol, date, slot, ts, kind, size, price, delta, side, canceled, key in zip(
            *(rows[name] for name in (
                "trade_id", "symbol", "trade_date", "slot", "ts", "option_type", "size", "price", "delta", "side",
                "canceled", "match",
            )), strict=True,
        ):  # fmt: skip
            if canceled or symbol == CANARY_SYMBOL:
                continue
            flow = flow_of(ts, kind, side, size, price, delta)
            touched[WindowKey(symbol, date, slot, flow.window)][bytes.fromhex(identity)] = flow
            last = self._days[symbol, date].last
            if key in last and ts <= last[key]:
                groups.add(((symbol, date), key))
        for row in special:
            if row["canceled"]:
                day, cancel = (row["symbol"], row["trade_date"]), _cancel(row)
                self._days[day].add(cancel)
                groups.add((day, cancel.match))
        return touched, groups

    def _resolve(self, day: Day, key: int, changes: Changes, summary: Summary) -> set[WindowKey]:
        """Match the cancels of a group anew, against the truth; returns the windows that it touches."""
        state = self._days[day]
        by_columns: dict[Alike, list[Cancel]] = defaultdict(list)
        for cancel in state.cancels[key].values():
            by_columns[cancel.alike].append(cancel)
        dirty: set[WindowKey] = set()
        for columns, cancels in by_columns.items():
            trades = self._alike(day, key, columns, cancels)
            found = match((Candidate(c.ts, c.sequence, c.cancel_id) for c in cancels),
                          (Candidate(t.ts, t.sequence, t.trade_id) for t in trades.values()))  # fmt: skip
            taken = {trade: cancel for cancel, trade in found.items()}
            for cancel in cancels:
                state.cancels[key][cancel.cancel_id] = now = cancel._replace(
                    trade_id=found.get(cancel.cancel_id)
                )
                changes.cancels.append((day, now))
            summary.matched += len(found)
            summary.unmatched += len(cancels) - len(found)
            for trade in trades.values():
                if trade.trade_id in taken or trade.trade_id in state.taken:
                    dirty.add(self._settle(day, trade, taken.get(trade.trade_id), changes))
        return dirty

    def _settle(self, day: Day, trade: Stored, cancel: bytes | None, changes: Changes) -> WindowKey:
        """Take a trade out of everything, or (when a better match freed it) put it back into its window."""
        state = self._days[day]
        window = WindowKey(*day, trade.slot, trade.flow.window)
        changes.marks.append((day, trade.slot, trade.ts, trade.trade_id, cancel))
        if cancel is None:
            state.taken.pop(trade.trade_id, None)
            self._load_windows([window])
            self._put(self._windows[window], trade.trade_id, trade.flow)
            changes.freed.append((day, trade.ts, trade.trade_id))
        else:
            state.taken[trade.trade_id] = cancel
            self._load_windows([window])
            self._take_out(self._windows[window], trade.trade_id)
            changes.taken_back.append((day, trade.ts, trade.trade_id))
        return window

    def _alike(self, day: Day, key: int, columns: Alike, cancels: list[Cancel]) -> dict[bytes, Stored]:
        """The trades that these cancels may mean: backwards in time, until each has met its sequence number.

        What they took back so far is among them: a better match frees it.
        """
        wanted = {cancel.sequence for cancel in cancels}
        taken = {cancel.trade_id for cancel in cancels if cancel.trade_id is not None}
        found = {trade.trade_id: trade for trade in self._recent.alike(day, key, columns)}
        known = self._days[day].known  # windows that were written; what lies in others came with this batch
        latest = max(cancels, key=lambda cancel: cancel.ts)
        windows = [window for window in _windows_back(day, latest) if known & window.bit]
        start, step = 0, 1
        while start < len(windows) and not (
            wanted <= {trade.sequence for trade in found.values()} and taken <= found.keys()
        ):
            for trade in self._store.alike(columns, windows[start : start + step]):
                found[trade.trade_id] = trade
            start, step = start + step, min(2 * step, SEARCHED_AT_ONCE)
        return found

    def _sort_unusual(self, special: list[dict[str, Any]], changes: Changes) -> None:
        """Rows of UNUSUAL_COLUMNS for the trades that signal: those that count, and those taken back."""
        for row in special:
            identity, day = bytes.fromhex(row["trade_id"]), (row["symbol"], row["trade_date"])
            target = changes.unusual_canceled if identity in self._days[day].taken else changes.unusual
            for signal in TRADE_SIGNALS:
                if row[signal] is not None:
                    names = (*UNUSUAL_TRADE, *USUAL_OF[signal])
                    start = (day[1], day[0], row["ts"], identity, signal, row[signal])
                    target.append((*start, *(row[name] for name in names)))

    def _count_late(self, rows: dict[str, list[Any]], summary: Summary, changes: Changes) -> None:
        """Count what comes after the watermark of its Kafka partition; the watermark is the one before this batch."""
        newest = dict(self._newest)
        counts: dict[tuple[str, str, int], int] = defaultdict(int)
        for partition, offset, ts, date, symbol in zip(
            *(rows[name] for name in ("partition", "offset", "ts", "trade_date", "symbol")), strict=True
        ):
            summary.ends[partition] = max(summary.ends.get(partition, 0), offset + 1)
            if symbol == CANARY_SYMBOL:
                continue
            seen, seen_date = newest.get(partition, (0, ""))
            if window_start(ts) + WINDOW_MS <= seen - ALLOWED_LATENESS_MS:
                counts[date, EARLIER_DAY if date < seen_date else WINDOW_CLOSED, partition] += 1
            if ts > self._newest.get(partition, (0, ""))[0]:
                self._newest[partition] = (ts, date)
        for (date, reason, partition), count in counts.items():
            changes.late.append((date, reason, partition, summary.ends[partition], count))
            summary.late[reason] = summary.late.get(reason, 0) + count

    def _evict(self, keep: Mapping[WindowKey, Verdict]) -> None:
        """Forget the windows that were touched longest ago, but none of this batch."""
        for key in list(self._windows):
            if self._held <= self._capacity or key in keep:
                break
            self._held -= len(self._windows.pop(key).flows)
        while len(self._days) > DAYS:
            self._days.popitem(last=False)


def _windows_back(day: Day, cancel: Cancel) -> list[WindowKey]:
    """The windows that a cancel's trade may lie in: its own and all before it on its day, the latest first."""
    latest = window_start(cancel.ts)
    # New York is whole hours off UTC, so a quarter of an hour begins for both at once.
    minutes = cancel.slot * SLOT_MINUTES + latest // WINDOW_MS % SLOT_MINUTES
    return [
        WindowKey(*day, (minutes - back) // SLOT_MINUTES, latest - back * WINDOW_MS)
        for back in range(minutes + 1)
    ]


def _special(batch: Table) -> list[dict[str, Any]]:
    """All columns of the few rows that are cancels or signal."""
    import pyarrow.compute as pc

    chosen = batch.column("canceled")
    for signal in TRADE_SIGNALS:
        chosen = pc.or_(chosen, pc.is_valid(batch.column(signal)))
    rows: list[dict[str, Any]] = batch.filter(chosen).to_pylist()
    return rows


def _cancel(row: dict[str, Any]) -> Cancel:
    alike = Alike.of(row, "canceled_condition")
    return Cancel(
        bytes.fromhex(row["trade_id"]), row["ts"], row["slot"], row["sequence"], alike, row["match"], None
    )
