"""Read a delivered file line by line, in constant memory: one reader for trades and for end-of-day files.

1. Bytes become members (`decompression`).
2. Members become lines. A line ends with LF, CRLF or CR.
3. Headers are checked and left out.

Whatever a file holds, the reader raises only InputError. Errors of S3 pass through, so that they are tried again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Protocol, Self, TypeVar

from kintsugi.core.errors import InputError
from kintsugi.core.file_names import EOD_NAME, TRADES_NAME
from kintsugi.core.rejections import Reason, Rejection
from kintsugi.pipeline import row_parser
from kintsugi.pipeline.ingest import end_of_day, trade_header
from kintsugi.pipeline.ingest.byte_sources import ByteSource, S3Source
from kintsugi.pipeline.ingest.decompression import Note, Pieces, archive_members
from kintsugi.pipeline.ingest.end_of_day import EodHeader, EodRow

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

MAX_LINE = 1 << 16
MAX_EARLY_FAULTS = 100
MAX_NOTES = 20
_BLANK = " \t\0\x1a"
_UNUSUAL_STARTS = frozenset('uU"\ufeff' + _BLANK)  # a header or a blank line begins with one of them


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that isn't a valid row, or that stands for missing bytes; ``raw``: its first MAX_LINE bytes."""

    rejection: Rejection
    raw: bytes


class NarrowedLine(str):
    """A line without the unknown columns; ``raw``: the line as it was delivered."""

    __slots__ = ("raw",)

    def __new__(cls, text: str, raw: str) -> Self:
        line = super().__new__(cls, text)
        line.raw = raw
        return line

    raw: str


Header = TypeVar("Header")


class Layout(Protocol[Header]):
    """The header and rows of one kind of file."""

    product: str

    def is_header(self, line: str) -> bool:
        """Whether the line names columns."""

    def fault(self, line: str) -> str | None:
        """Say what is wrong with a header; None if nothing is."""

    def parse_header(self, line: str, note: Note) -> Header:
        """Return how the lines after this faultless header are read."""

    def assume_header(self, line: str, last: Header | None) -> Header | None:
        """Return how rows without a header are read, by the first of them; None if it isn't a row.

        ``last``: the header of an earlier member.
        """


class _TradeLayout:
    """The columns have a fixed order. The parsed header: the unknown columns, name by position."""

    product = TRADES_NAME

    def is_header(self, line: str) -> bool:
        return trade_header.is_header(line)

    def fault(self, line: str) -> str | None:
        return trade_header.header_fault(line)

    def parse_header(self, line: str, note: Note) -> dict[int, str]:
        unknown = trade_header.unknown_columns(line)
        if unknown:
            note(f"unknown columns were left out: {', '.join(name[:40] for name in unknown.values())}")
        return unknown

    def assume_header(self, line: str, last: dict[int, str] | None) -> dict[int, str] | None:
        if last is not None and line.count(",") >= row_parser.USED_COLUMNS - 1:
            return last  # a later member of an archive
        return None if isinstance(row_parser.parse_trade(line), Rejection) else {}


class _EodLayout:
    """The header gives the positions of the columns."""

    product = EOD_NAME

    def is_header(self, line: str) -> bool:
        return end_of_day.is_header(line)

    def fault(self, line: str) -> str | None:
        return end_of_day.header_fault(line)

    def parse_header(self, line: str, note: Note) -> EodHeader:
        return end_of_day.parse_header(line)

    def assume_header(self, line: str, last: EodHeader | None) -> EodHeader | None:
        return last


def read_lines(
    s3: S3Client, bucket: str, key: str, etag: str, note: Note | None = None
) -> Iterator[tuple[int, str | BadLine]]:
    """`trade_lines` of one content of an S3 object; raises InputError when the object no longer has it."""
    return trade_lines(S3Source(s3, bucket, key, etag), note)


def trade_lines(source: ByteSource, note: Note | None = None) -> Iterator[tuple[int, str | BadLine]]:
    """Yield the lines of a trade file that aren't blank, with their numbers (from 1; headers and blank lines count).

    Headers are checked and left out: the first line of the file and of each member of an archive. Unknown columns are
    removed from every line (`NarrowedLine`). A BadLine stands for missing bytes. ``note`` is called with a sentence
    about content that was left out and isn't a row. Raises InputError when nothing of the file can be used: no text,
    wrong columns, a corrupt archive.
    """
    for number, line, unknown in _Reader(source, _TradeLayout(), note).rows():
        if unknown and not isinstance(line, BadLine):
            yield number, NarrowedLine(trade_header.drop_columns(line, unknown), line)
        else:
            yield number, line


def eod_rows(source: ByteSource, note: Note | None = None) -> Iterator[tuple[int, EodRow | BadLine]]:
    """Yield the rows of an end-of-day file with their numbers, as `trade_lines` does; an invalid one is a BadLine."""
    for number, line, header in _Reader(source, _EodLayout(), note).rows():
        if isinstance(line, BadLine):
            yield number, line
        elif header is not None:
            row = end_of_day.parse_eod_row(line, header)
            yield number, BadLine(row, raw_bytes(line)) if isinstance(row, Rejection) else row


def raw_bytes(line: str) -> bytes:
    """Return the bytes of a line as it was delivered."""
    return getattr(line, "raw", line).encode("utf-8", "surrogateescape")


class _Reader(Generic[Header]):
    """Reads one file of a layout."""

    def __init__(self, source: ByteSource, layout: Layout[Header], note: Note | None) -> None:
        self._source, self._layout = source, layout
        self._notes: set[str] = set()
        self._listener = note
        self._splitter = _Splitter()
        self._header: Header | None = None
        self._early_faults: list[tuple[int, BadLine]] = []  # before the first row or header
        self._is_usable = False

    def _note(self, text: str) -> None:
        """Pass each note on once: every part of a file may have the same header."""
        if self._listener is not None and text not in self._notes and len(self._notes) < MAX_NOTES:
            self._notes.add(text)
            self._listener(text)

    def rows(self) -> Iterator[tuple[int, str | BadLine, Header | None]]:
        """Yield every row and every BadLine, with its line number and the header that applies to it."""
        for member in archive_members(self._source, self._layout.product, self._note):
            for number, line in self._member_lines(member.name, member.pieces):
                if isinstance(line, BadLine) and not self._is_usable:
                    self._early_faults.append((number, line))
                    if len(self._early_faults) > MAX_EARLY_FAULTS:
                        raise InputError(self._why_unusable())
                    continue
                if self._early_faults:
                    yield from ((early, fault, None) for early, fault in self._early_faults)
                    self._early_faults.clear()
                yield number, line, self._header
        if not self._is_usable:
            raise InputError(self._why_unusable())

    def _member_lines(self, name: str, pieces: Pieces) -> Iterator[tuple[int, str | BadLine]]:
        """Yield the lines of a member without headers; it ends early at a header with a fault."""
        is_first = True
        for number, raw_line in self._splitter.lines(pieces):
            line = raw_line
            if isinstance(line, BadLine):
                yield number, line
            elif is_first or line[0] in _UNUSUAL_STARTS:
                line = line.removeprefix("\ufeff")
                if not line.strip(_BLANK):
                    continue
                is_row, fault = self._check_header(line, is_first)
                if fault is not None:
                    text = f"{name}: {fault}; the lines after it were not read"
                    yield number, BadLine(Rejection(Reason.HEADER, text), raw_bytes(line)[:MAX_LINE])
                    self._splitter.number = number
                    return
                is_first = False
                if is_row:
                    yield number, line
            else:
                yield number, line

    def _check_header(self, line: str, is_first: bool) -> tuple[bool, str | None]:
        """Return whether the line is a row and not a header, and what is wrong with it as a header or first row."""
        layout = self._layout
        if layout.is_header(line):
            if fault := layout.fault(line):
                return False, fault
            self._header, self._is_usable = layout.parse_header(line, self._note), True
            return False, None
        if is_first:
            header = layout.assume_header(line, self._header)
            if header is None:
                fault = f"its first line is neither a header nor a row of {layout.product}… ({line[:40]!r})"
                return False, fault
            self._header, self._is_usable = header, True
        return True, None

    def _why_unusable(self) -> str:
        if not self._early_faults:
            return f"{self._source.name} is empty; deliver it again"
        text = self._early_faults[0][1].rejection.text
        return f"{self._source.name} can't be read: {text}; no row of it was ingested, deliver it again"


def first_lines(pieces: Pieces, count: int = 5) -> Iterator[str]:
    """Yield the first lines of a member that hold text."""
    for number, line in _Splitter().lines(pieces):
        if number > count:
            return
        if not isinstance(line, BadLine) and line.strip(_BLANK):
            yield line.removeprefix("\ufeff")


class _Splitter:
    """Splits bytes into numbered lines, over all members of a file; ``number``: the number of the last line so far."""

    def __init__(self) -> None:
        self.number = 0

    def lines(self, pieces: Pieces) -> Iterator[tuple[int, str | BadLine]]:
        """Yield the lines that aren't empty. A Rejection among the pieces replaces the line that it interrupts."""
        number = self.number
        rest = b""
        skipping = False  # the rest of a line that is too long
        for piece in _with_line_feeds(pieces):
            if isinstance(piece, Rejection):
                number += 1
                yield number, BadLine(piece, rest[:MAX_LINE])
                rest, skipping = b"", False
                continue
            data = piece
            if skipping:
                _, newline, data = piece.partition(b"\n")
                skipping = not newline
            whole, newline, rest = (rest + data).rpartition(b"\n")
            if newline:
                for line in _decode_lines(whole):
                    number += 1
                    if line:
                        yield number, line
            if len(rest) > MAX_LINE:
                if rest.strip(b"\0"):  # else it is a hole or padding, which may be large
                    number += 1
                    yield number, BadLine(TOO_LONG, rest[:MAX_LINE])
                    skipping = True
                rest = b""
        if rest:
            number += 1
            yield number, rest.decode("utf-8", "surrogateescape")
        self.number = number


TOO_LONG = Rejection(Reason.TOO_LONG, f"a line of more than {MAX_LINE} bytes")


def _with_line_feeds(pieces: Pieces) -> Pieces:
    """Yield the pieces with LF as the end of every line, instead of CRLF and CR."""
    carried = b""  # a CR at the end of a piece: its LF may be in the next one
    for piece in pieces:
        if isinstance(piece, Rejection):
            yield carried.replace(b"\r", b"\n")
            carried = b""
            yield piece
            continue
        data = carried + piece
        carried = b""
        if b"\r" in data:
            if data.endswith(b"\r"):
                data, carried = data[:-1], b"\r"
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        yield data
    if carried:
        yield b"\n"


def _decode_lines(whole: bytes) -> Iterable[str | BadLine]:
    """Decode lines; a byte that isn't UTF-8 becomes a lone surrogate (PEP 383), so that all other cells stay valid."""
    lines = whole.decode("utf-8", "surrogateescape").split("\n")
    if len(whole) > MAX_LINE and max(map(len, lines)) > MAX_LINE:
        return [
            BadLine(TOO_LONG, raw_bytes(line)[:MAX_LINE]) if len(line) > MAX_LINE else line for line in lines
        ]
    return lines
