"""The trades that the files in S3 hold, and the partitions of Cassandra that must hold them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import TYPE_CHECKING

from kintsugi.pipeline.failures import format_reason, is_s3_error, is_transient
from kintsugi.pipeline.ingest.file_reader import BadLine, read_lines
from kintsugi.pipeline.reconcile.derived_tables_audit import SLOTS
from kintsugi.pipeline.reconcile.progress import OLD, FileKey, FlowProgress
from kintsugi.pipeline.reconcile.report import NAMED, ReconciliationReport
from kintsugi.pipeline.row_parser import NEW_YORK, SLOT_MINUTES, Rejection, Trade, parse_trade
from kintsugi.pipeline.stream.stored_trades import ALWAYS, PartitionRange, trade_fingerprint

if TYPE_CHECKING:
    from kintsugi.core.data_source import DataSource
    from kintsugi.pipeline.object_listing import S3Object
    from kintsugi.pipeline.reconcile.disk_sets import Spill

SLOT_MS = SLOT_MINUTES * 60_000


@dataclass(slots=True)
class _Symbols:
    """A number for each symbol."""

    numbers: dict[str, int] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)

    def number_of(self, symbol: str) -> int:
        number = self.numbers.setdefault(symbol, len(self.names))
        if number == len(self.names):
            self.names.append(symbol)
        return number


class FileTrades:
    """The trades of ``files``; ``partial``: they aren't all files there are.

    ``trades``: a record for each row: identity, fingerprint, symbol, day and slot, index of the file, requirement.
    ``unreadable``: files that S3 didn't return or whose content can't be used. ``old_days``: symbols and days of which
    Cassandra may have expired trades.

    A partition is one number here (``partition code``): the symbol's number, then the day and the slot.
    """

    def __init__(
        self, files: Sequence[S3Object], sources: Sequence[DataSource], trades: Spill, *, partial: bool
    ) -> None:
        self.files, self._sources, self._partial = files, sources, partial
        self.trades = trades
        self.unreadable: set[FileKey] = set()
        self.old_days: set[tuple[str, str]] = set()
        self._symbols = _Symbols()
        self.partitions: dict[
            int, int
        ] = {}  # partition code → first and last millisecond in the slot, packed

    @property
    def keys(self) -> set[FileKey]:
        """The files as (key, ETag)."""
        return {(file.key, file.etag) for file in self.files}

    def read(self, progress: FlowProgress, report: ReconciliationReport) -> None:
        """Read every trade of every file, and fill in the report's counts of files and rows."""
        for index, file in enumerate(self.files):
            requirement = progress.requirement(file)
            report.files += 1
            try:
                for trade in self._read_file(file, report):
                    symbol = self._symbols.number_of(trade.symbol)
                    day_slot = date.fromisoformat(trade.trade_date).toordinal() * SLOTS + trade.slot
                    identity = bytes.fromhex(trade.trade_id)
                    self.trades.add(identity, trade_fingerprint(trade), symbol, day_slot, index, requirement)
                    self._note_time(symbol << 32 | day_slot, trade.ts % SLOT_MS)
                    if requirement == OLD:
                        self.old_days.add((trade.symbol, trade.trade_date))
            except Exception as error:
                if is_transient(error) and not is_s3_error(error):
                    raise
                report.unreadable.append(f"{file.key}: {format_reason(error)}")
                self.unreadable.add((file.key, file.etag))
            if (state := progress.unread_state(file)) is not None:
                report.unread_count += 1
                if len(report.unread) < NAMED:
                    report.unread.append(f"{file.key}: {state}")

    def _read_file(self, file: S3Object, report: ReconciliationReport) -> Iterator[Trade]:
        source = file.source or self._sources[0]
        for _, line in read_lines(source.client, source.bucket, file.key, file.etag):
            report.read += 1
            trade = line.rejection if isinstance(line, BadLine) else parse_trade(line)
            if isinstance(trade, Rejection):
                reason = trade.reason.value
                report.rejected[reason] = report.rejected.get(reason, 0) + 1
            else:
                report.accepted += 1
                yield trade

    def _note_time(self, code: int, millisecond: int) -> None:
        packed = self.partitions.get(code)
        if packed is None:
            self.partitions[code] = millisecond << 20 | millisecond
        elif millisecond < packed >> 20 or millisecond > packed & 0xFFFFF:
            first, last = min(millisecond, packed >> 20), max(millisecond, packed & 0xFFFFF)
            self.partitions[code] = first << 20 | last

    def ranges(self, codes: Iterable[int]) -> Iterator[PartitionRange]:
        """Return what to read of these partitions: all, or, of ``partial`` files, from the first to the last trade."""
        for code in sorted(codes):
            ordinal, slot = divmod(code & 0xFFFFFFFF, SLOTS)
            symbol, day = self._symbols.names[code >> 32], date.fromordinal(ordinal).isoformat()
            if not self._partial:
                yield symbol, day, slot, *ALWAYS
                continue
            start = slot_start(day, slot)
            packed = self.partitions[code]
            yield symbol, day, slot, start + (packed >> 20), start + (packed & 0xFFFFF)

    def has_partition(self, symbol: str, day: str, slot: int) -> bool:
        """Whether any trade of the files belongs into this partition."""
        number = self._symbols.numbers.get(symbol)
        day_slot = date.fromisoformat(day).toordinal() * SLOTS + slot
        return number is not None and (number << 32 | day_slot) in self.partitions


def slot_start(day: str, slot: int) -> int:
    """Return when a slot of New York's day begins, in milliseconds since 1970 UTC."""
    minutes = slot * SLOT_MINUTES
    local = datetime.fromisoformat(f"{day}T{minutes // 60:02d}:{minutes % 60:02d}").replace(tzinfo=NEW_YORK)
    return int(local.timestamp()) * 1000
