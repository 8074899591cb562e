"""The records that pass between `derived` and the place where the truth is kept, and what that place must offer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from kintsugi.trades.windows import WINDOW_MS, Flow, Verdict, flow_of

Day = tuple[str, str]  # symbol, trade date


class WindowKey(NamedTuple):
    """A window: ``slot`` is the quarter of an hour whose partition of ``trade`` holds it, ``start`` milliseconds."""

    symbol: str
    trade_date: str
    slot: int
    start: int

    @property
    def day(self) -> Day:
        return self.symbol, self.trade_date

    @property
    def bit(self) -> int:
        """Its place in a `DayState`'s sets: a trade date has at most 24 hours, so minutes of the day are unique."""
        return 1 << (self.start // WINDOW_MS % 1440)


class Alike(NamedTuple):
    """What a cancel and its trade have in common; ``condition`` is the trade's, the cancelled one of the cancel."""

    root: str
    expiration: str
    strike: float
    option_type: str
    exchange: int
    size: int
    price: float
    condition: int

    @classmethod
    def of(cls, row: Mapping[str, Any], condition: str = "condition") -> Alike:
        """Of a row of a batch; ``condition``: the column that holds the trade's condition."""
        return cls(
            row["root"], row["expiration"], row["strike"], row["option_type"], row["exchange"], row["size"],
            row["price"], row[condition],
        )  # fmt: skip


class Cancel(NamedTuple):
    """A cancel on record; ``trade_id`` is what it takes back, if that is known."""

    cancel_id: bytes
    ts: int
    slot: int
    sequence: int
    alike: Alike
    match: int
    trade_id: bytes | None


class Stored(NamedTuple):
    """A trade as the truth has it; ``flow`` is what it adds to its window."""

    trade_id: bytes
    ts: int
    slot: int
    sequence: int
    flow: Flow

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Stored:
        """Of a row of a batch (columns `derived.DERIVING`)."""
        flow = flow_of(row["ts"], row["option_type"], row["side"], row["size"], row["price"], row["delta"])
        return cls(bytes.fromhex(row["trade_id"]), row["ts"], row["slot"], row["sequence"], flow)


class DayRecord(NamedTuple):
    """What is on record of a symbol's day: starts of its windows, those that signal, its cancels."""

    windows: Iterable[int]
    alerts: Iterable[int]
    cancels: Iterable[Cancel]


@dataclass(slots=True)
class Changes:
    """The rows of one batch, all absolute.

    ``marks``: stored trade → the cancel that takes it back, or None. ``taken_back``: trades to remove from
    the unusual ones, ``freed``: trades to bring back among them, because a cancel found a better match.
    ``unusual``, ``unusual_canceled``: rows of `schema.UNUSUAL_COLUMNS`, dates as text. ``late``: (trade date,
    reason, partition, end offset, trades).
    """

    windows: dict[WindowKey, Verdict] = field(default_factory=dict)
    quiet: list[WindowKey] = field(default_factory=list)
    cancels: list[tuple[Day, Cancel]] = field(default_factory=list)
    marks: list[tuple[Day, int, int, bytes, bytes | None]] = field(default_factory=list)
    taken_back: list[tuple[Day, int, bytes]] = field(default_factory=list)
    freed: list[tuple[Day, int, bytes]] = field(default_factory=list)
    unusual: list[tuple[Any, ...]] = field(default_factory=list)
    unusual_canceled: list[tuple[Any, ...]] = field(default_factory=list)
    late: list[tuple[str, str, int, int, int]] = field(default_factory=list)


class Store(Protocol):
    """Where the truth is read and what follows is written; see `derived_store` for Cassandra's."""

    def claim(self, epoch: int) -> None:
        """Declare a driver that began at ``epoch`` (microseconds) the youngest."""

    def youngest(self) -> int:
        """The epoch of the youngest driver."""

    def days(self, days: Sequence[Day]) -> Mapping[Day, DayRecord]:
        """What is on record of each."""

    def windows(self, keys: Sequence[WindowKey]) -> Mapping[WindowKey, Iterable[Stored]]:
        """The stored trades of each window, without cancels (the rows that take others back)."""

    def alike(self, columns: Alike, keys: Sequence[WindowKey]) -> Iterable[Stored]:
        """The stored trades with these columns in these windows, without cancels."""

    def write(self, changes: Changes, timestamp: int) -> None:
        """Write all of it, at ``timestamp`` (microseconds)."""
