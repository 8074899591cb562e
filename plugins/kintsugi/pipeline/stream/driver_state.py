"""The streaming driver's memory: windows, and the stored rows of a symbol's day."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from kintsugi.pipeline.stream.derived_records import Cancel, Day, DayRecord, WindowKey
from kintsugi.pipeline.stream.derived_table_keys import UNUSUAL_CANCELED, UNUSUAL_TRADE, Row, Table
from kintsugi.pipeline.stream.flow_windows import Sums, WindowFlow

UnusualRow = tuple[Table, Row]  # a row of an unusual trade, and its table


class Window:
    """The trades of a window, by identity, each with the version of its row.

    ``excluded``: trades that don't count in the ``sums``, because they are cancelled.
    """

    __slots__ = ("excluded", "flows", "sums")

    def __init__(self) -> None:
        self.flows: dict[bytes, tuple[int, WindowFlow]] = {}
        self.excluded: set[bytes] = set()
        self.sums = Sums()

    def put(self, identity: bytes, stamp: int, flow: WindowFlow) -> None:
        """Add a version of a trade; an older version than the known one changes nothing."""
        known = self.flows.get(identity)
        if known is not None:
            if stamp < known[0]:
                return
            if identity not in self.excluded:
                self.sums.add(known[1], -1)
        self.flows[identity] = (stamp, flow)
        if identity not in self.excluded:
            self.sums.add(flow)

    def put_new(self, versions: Mapping[bytes, tuple[int, WindowFlow]], sums: Sums) -> None:
        """Add trades that are neither known nor excluded; ``sums``: theirs."""
        self.flows.update(versions)
        self.sums.merge(sums)

    def exclude(self, identity: bytes) -> None:
        """Exclude a trade from the sums."""
        if identity not in self.excluded:
            self.excluded.add(identity)
            if identity in self.flows:
                self.sums.add(self.flows[identity][1], -1)

    def include(self, identity: bytes) -> None:
        """Include a trade in the sums again."""
        if identity in self.excluded:
            self.excluded.discard(identity)
            if identity in self.flows:
                self.sums.add(self.flows[identity][1])


class DayState:
    """A symbol's day.

    ``windows``, ``alerts``: its stored windows, and those that signal (sets of bits). ``cancels``: by match key and
    identity. ``last_cancel_ts``: time of the latest cancel, by match key. ``canceled_by``: cancel by trade.
    ``unusual``: the rows of its unusual trades, by identity.
    """

    __slots__ = ("alerts", "canceled_by", "cancels", "last_cancel_ts", "unusual", "windows")

    def __init__(self, day: Day, record: DayRecord) -> None:
        self.windows = self.alerts = 0
        for start in record.windows:
            self.windows |= WindowKey(*day, 0, start).bit
        for start in record.alerts:
            self.alerts |= WindowKey(*day, 0, start).bit
        self.cancels: dict[int, dict[bytes, Cancel]] = defaultdict(dict)
        self.last_cancel_ts: dict[int, int] = {}
        self.canceled_by: dict[bytes, bytes] = {}
        for cancel in record.cancels:
            self.add(cancel)
            if cancel.trade_id is not None:
                self.canceled_by[cancel.trade_id] = cancel.cancel_id
        self.unusual: dict[bytes, list[UnusualRow]] = defaultdict(list)
        for table, rows in (
            (UNUSUAL_TRADE, record.unusual),
            (UNUSUAL_CANCELED, record.unusual_canceled),
        ):
            for row in rows:
                self.unusual[row[3]].append((table, row))

    def add(self, cancel: Cancel) -> None:
        """Add a cancel; one that is known already isn't changed."""
        known = self.cancels[cancel.match].setdefault(cancel.cancel_id, cancel)
        self.last_cancel_ts[known.match] = max(self.last_cancel_ts.get(known.match, 0), known.ts)
