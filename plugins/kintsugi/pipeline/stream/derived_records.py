"""The records that pass between `derived` and the place where the truth is kept, and what that place must offer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from kintsugi.pipeline.stream.cancels import OPENING, Candidate
from kintsugi.pipeline.stream.flow_windows import WINDOW_MS, WindowFlow, flow_of

if TYPE_CHECKING:
    from kintsugi.pipeline.stream.derived_table_keys import Write

Day = tuple[str, str]  # symbol, trade date
TradeKey = tuple[str, str, int, int, bytes]  # a trade's key: symbol, trade date, slot, milliseconds, identity


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


class MatchColumns(NamedTuple):
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
    def of(cls, row: Mapping[str, Any], condition: str = "condition") -> MatchColumns:
        """Of a row of a batch; ``condition``: the column that holds the trade's condition."""
        return cls(
            row["root"], row["expiration"], row["strike"], row["option_type"], row["exchange"], row["size"],
            row["price"], row[condition],
        )  # fmt: skip


class Cancel(NamedTuple):
    """A cancel on record; ``trade_id`` is what it takes back, if that is known.

    ``former``: what it took back before, as long as that isn't settled in all tables. ``condition``: its kind, 40 to
    44; None where an earlier release wrote it.
    """

    cancel_id: bytes
    ts: int
    slot: int
    sequence: int
    alike: MatchColumns
    match: int
    trade_id: bytes | None
    former: frozenset[bytes] = frozenset()
    condition: int | None = None


class StoredTrade(NamedTuple):
    """A trade as the truth has it; ``flow`` is what it adds to its window.

    ``stamp``: the version of its row (see `schema.VERSION_COLUMN`). Of two versions the greater one is stored.
    """

    trade_id: bytes
    ts: int
    slot: int
    sequence: int
    flow: WindowFlow
    stamp: int

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> StoredTrade:
        """Of a row of a batch (columns `derived_tables.DERIVING`)."""
        flow = flow_of(row["ts"], row["option_type"], row["side"], row["size"], row["price"], row["delta"])
        return cls(
            bytes.fromhex(row["trade_id"]), row["ts"], row["slot"], row["sequence"], flow, row["stamp"]
        )


def to_candidate(one: Cancel | StoredTrade) -> Candidate:
    """A trade or a cancel as `cancels.match_cancels` takes it."""
    if isinstance(one, Cancel):
        return Candidate(one.ts, one.sequence, one.cancel_id, one.condition == OPENING)
    return Candidate(one.ts, one.sequence, one.trade_id)


class DayRecord(NamedTuple):
    """What is on record of a symbol's day: starts of its windows, those that signal, its cancels.

    ``unusual``, ``unusual_canceled``: its rows of these tables, in the order of `schema.UNUSUAL_COLUMNS`.
    """

    windows: Iterable[int]
    alerts: Iterable[int]
    cancels: Iterable[Cancel]
    unusual: Iterable[tuple[Any, ...]] = ()
    unusual_canceled: Iterable[tuple[Any, ...]] = ()


class DriverState(NamedTuple):
    """``epoch``: of the youngest driver; ``repair``: of the last repair of derived tables. Microseconds, or 0."""

    epoch: int = 0
    repair: int = 0


class DerivedRepository(Protocol):
    """Where the truth is read and what follows is written; see `derived_store` for Cassandra's."""

    def claim(self, epoch: int) -> None:
        """Declare a driver that began at ``epoch`` (microseconds) the youngest."""

    def driver_state(self) -> DriverState:
        """The youngest driver, and the last repair."""

    def days(self, days: Sequence[Day]) -> Mapping[Day, DayRecord]:
        """What is on record of each."""

    def windows(self, keys: Sequence[WindowKey]) -> Mapping[WindowKey, Iterable[StoredTrade]]:
        """The stored trades of each window, without cancels (the rows that take others back)."""

    def alike(self, columns: MatchColumns, keys: Sequence[WindowKey]) -> Iterable[StoredTrade]:
        """The stored trades with these columns in these windows, without cancels."""

    def write(self, writes: Sequence[Write], timestamp: int) -> None:
        """Write all of them, in any order, at ``timestamp`` (microseconds)."""
