"""The records that `derived_tables` exchanges with its repository, and the repository's interface."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from kintsugi.pipeline.stream.cancels import OPENING, Candidate
from kintsugi.pipeline.stream.flow_windows import WINDOW_MS, WindowFlow, flow_of

if TYPE_CHECKING:
    from kintsugi.pipeline.stream.derived_table_keys import Write

Day = tuple[str, str]  # symbol, trade date
TradeKey = tuple[str, str, int, int, bytes]  # symbol, trade date, slot, milliseconds, identity


class WindowKey(NamedTuple):
    """A window. ``slot``: the quarter of an hour whose partition of ``trade`` holds its trades. ``start``: ms."""

    symbol: str
    trade_date: str
    slot: int
    start: int

    @property
    def day(self) -> Day:
        return self.symbol, self.trade_date

    @property
    def bit(self) -> int:
        """Its bit in the sets of a `DayState`: a trade date has at most 24 hours, so minutes of the day are unique."""
        return 1 << (self.start // WINDOW_MS % 1440)


class MatchColumns(NamedTuple):
    """The columns that a cancel shares with its trade. ``condition``: the trade's, or the cancel's cancelled one."""

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
        """Return those of a row of a batch; ``condition``: the column with the trade's condition."""
        return cls(
            row["root"], row["expiration"], row["strike"], row["option_type"], row["exchange"], row["size"],
            row["price"], row[condition],
        )  # fmt: skip


class Cancel(NamedTuple):
    """A recorded cancel. ``trade_id``: the trade that it cancels; None if that isn't known.

    ``former``: trades that it cancelled before, until all tables are corrected. ``condition``: its kind, 40 to 44; None
    in rows of an earlier release.
    """

    cancel_id: bytes
    ts: int
    slot: int
    sequence: int
    match_columns: MatchColumns
    match: int
    trade_id: bytes | None
    former: frozenset[bytes] = frozenset()
    condition: int | None = None


class StoredTrade(NamedTuple):
    """A stored trade. ``flow``: what it adds to its window.

    ``stamp``: the version of its row (see `schema.VERSION_COLUMN`). Of two versions, the greater one is stored.
    """

    trade_id: bytes
    ts: int
    slot: int
    sequence: int
    flow: WindowFlow
    stamp: int

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> StoredTrade:
        """Return the trade in a row of a batch (columns `batch_columns.DERIVING`)."""
        flow = flow_of(row["ts"], row["option_type"], row["side"], row["size"], row["price"], row["delta"])
        return cls(
            bytes.fromhex(row["trade_id"]), row["ts"], row["slot"], row["sequence"], flow, row["stamp"]
        )


def to_candidate(record: Cancel | StoredTrade) -> Candidate:
    """Return a trade or a cancel as an argument of `cancels.match_cancels`."""
    if isinstance(record, Cancel):
        return Candidate(record.ts, record.sequence, record.cancel_id, record.condition == OPENING)
    return Candidate(record.ts, record.sequence, record.trade_id)


class DayRecord(NamedTuple):
    """The stored rows of a symbol's day: the starts of its windows, those of windows that signal, and its cancels.

    ``unusual``, ``unusual_canceled``: its rows of these tables, in the order of `schema.UNUSUAL_COLUMNS`.
    """

    windows: Iterable[int]
    alerts: Iterable[int]
    cancels: Iterable[Cancel]
    unusual: Iterable[tuple[Any, ...]] = ()
    unusual_canceled: Iterable[tuple[Any, ...]] = ()


class DriverState(NamedTuple):
    """``epoch``: start of the youngest driver; ``repair``: last repair of derived tables. Microseconds, or 0."""

    epoch: int = 0
    repair: int = 0


class DerivedRepository(Protocol):
    """Reads stored trades and writes derived rows; implemented by `cassandra_repository`, `in_memory_repository`."""

    def claim(self, epoch: int) -> None:
        """Record that a driver which started at ``epoch`` (microseconds) is the youngest."""

    def driver_state(self) -> DriverState:
        """Read the youngest driver and the last repair."""

    def days(self, days: Sequence[Day]) -> Mapping[Day, DayRecord]:
        """Read the stored rows of each day."""

    def windows(self, keys: Sequence[WindowKey]) -> Mapping[WindowKey, Iterable[StoredTrade]]:
        """Read the stored trades of each window, without cancels."""

    def matching_trades(self, columns: MatchColumns, keys: Sequence[WindowKey]) -> Iterable[StoredTrade]:
        """Read the stored trades with these columns in these windows, without cancels."""

    def write(self, writes: Sequence[Write], timestamp: int) -> None:
        """Write all of them, in any order, at ``timestamp`` (microseconds)."""
