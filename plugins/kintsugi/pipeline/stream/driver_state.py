"""What the streaming driver holds in memory: windows, and what is on record of a symbol's day."""

from __future__ import annotations

from collections import defaultdict

from kintsugi.pipeline.stream.derived_records import Cancel, Day, DayRecord, WindowKey
from kintsugi.pipeline.stream.derived_table_keys import UNUSUAL_CANCELED, UNUSUAL_TRADE, Row, Table
from kintsugi.pipeline.stream.flow_windows import Sums, WindowFlow

Placed = tuple[Table, Row]  # a row of an unusual trade, and the table it stands in


class Window:
    """The trades of a window, by identity, each with the version of its row; ``out``: those that don't count."""

    __slots__ = ("flows", "out", "sums")

    def __init__(self) -> None:
        self.flows: dict[bytes, tuple[int, WindowFlow]] = {}
        self.out: set[bytes] = set()
        self.sums = Sums()

    def put(self, identity: bytes, stamp: int, flow: WindowFlow) -> None:
        """Take in a version of a trade; an older one than is known changes nothing."""
        known = self.flows.get(identity)
        if known is not None:
            if stamp < known[0]:
                return
            if identity not in self.out:
                self.sums.add(known[1], -1)
        self.flows[identity] = (stamp, flow)
        if identity not in self.out:
            self.sums.add(flow)

    def take_out(self, identity: bytes) -> None:
        """Let a trade no longer count."""
        if identity not in self.out:
            self.out.add(identity)
            if identity in self.flows:
                self.sums.add(self.flows[identity][1], -1)

    def put_back(self, identity: bytes) -> None:
        """Let a trade count again."""
        if identity in self.out:
            self.out.discard(identity)
            if identity in self.flows:
                self.sums.add(self.flows[identity][1])


class DayState:
    """A symbol's day: which windows are on record and signal (sets of bits), the cancels, and the unusual trades."""

    __slots__ = ("alerts", "cancels", "known", "last", "taken", "unusual")

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
        self.unusual: dict[bytes, list[Placed]] = defaultdict(list)
        for table, rows in ((UNUSUAL_TRADE, record.unusual), (UNUSUAL_CANCELED, record.unusual_canceled)):
            for row in rows:
                self.unusual[row[3]].append((table, row))

    def add(self, cancel: Cancel) -> None:
        known = self.cancels[cancel.match].setdefault(cancel.cancel_id, cancel)
        self.last[known.match] = max(self.last.get(known.match, 0), known.ts)
