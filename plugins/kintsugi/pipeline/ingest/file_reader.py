"""A delivered file as a stream of lines, in constant memory: one reader for trades and for end of day.

Bytes become members (`decompression`), members become lines, and headers are checked and left out. A line ends with
LF, CRLF or CR. Whatever a file holds, nothing but InputError leaves the reader; errors of S3 pass through, they are
worth a retry.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Protocol, Self, TypeVar

from kintsugi.core.errors import InputError
from kintsugi.core.rejections import Reason, Rejection
from kintsugi.pipeline import row_parser
from kintsugi.pipeline.ingest import end_of_day, trade_header
from kintsugi.pipeline.ingest.byte_sources import ByteSource, S3Source
from kintsugi.pipeline.ingest.decompression import Note, Pieces, members
from kintsugi.pipeline.ingest.end_of_day import EOD_NAME, EodHeader, EodRow

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

MAX_LINE = 1 << 16
TRADES_NAME = "UnderlyingOptionsTradesCalcs_"
MAX_HELD = 100
MAX_NOTES = 20
_BLANK = " \t\0\x1a"
_ODD_STARTS = frozenset('uU"\ufeff' + _BLANK)  # a header, or a line without content, begins with one of them


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that is no row, or the place where bytes are missing; ``raw``: its first MAX_LINE bytes."""

    rejection: Rejection
    raw: bytes


class Narrowed(str):
    """A line without the columns that aren't known; ``raw``: the line as it was delivered."""

    __slots__ = ("raw",)

    def __new__(cls, text: str, raw: str) -> Self:
        made = super().__new__(cls, text)
        made.raw = raw
        return made

    raw: str


Header = TypeVar("Header")


class Layout(Protocol[Header]):
    """What one kind of file looks like."""

    product: str

    def is_header(self, line: str) -> bool:
        """Whether the line names columns."""

    def fault(self, line: str) -> str | None:
        """What is wrong with a header, as a sentence."""

    def header(self, line: str, note: Note) -> Header:
        """What a faultless header says of the lines that follow."""

    def without_header(self, line: str, last: Header | None) -> Header | None:
        """The same for rows that have no header, by the first of them; None when it is no row."""


class _TradeLayout:
    """The columns stand in a fixed order; a header says which others there are (name by place)."""

    product = TRADES_NAME

    def is_header(self, line: str) -> bool:
        return trade_header.is_header(line)

    def fault(self, line: str) -> str | None:
        return trade_header.header_fault(line)

    def header(self, line: str, note: Note) -> dict[int, str]:
        unknown = trade_header.unknown_columns(line)
        if unknown:
            note(f"unknown columns were left out: {', '.join(name[:40] for name in unknown.values())}")
        return unknown

    def without_header(self, line: str, last: dict[int, str] | None) -> dict[int, str] | None:
        if last is not None and line.count(",") >= row_parser.USED_COLUMNS - 1:
            return last  # a later member of an archive
        return None if isinstance(row_parser.parse(line), Rejection) else {}


class _EodLayout:
    """The header says where the columns stand."""

    product = EOD_NAME

    def is_header(self, line: str) -> bool:
        return end_of_day.is_header(line)

    def fault(self, line: str) -> str | None:
        return end_of_day.header_fault(line)

    def header(self, line: str, note: Note) -> EodHeader:
        return end_of_day.header_of(line)

    def without_header(self, line: str, last: EodHeader | None) -> EodHeader | None:
        return last


def read_lines(
    s3: S3Client, bucket: str, key: str, etag: str, note: Note | None = None
) -> Iterator[tuple[int, str | BadLine]]:
    """`trade_lines` of one content of an S3 object; raises InputError when the object no longer has it."""
    return trade_lines(S3Source(s3, bucket, key, etag), note)


def trade_lines(source: ByteSource, note: Note | None = None) -> Iterator[tuple[int, str | BadLine]]:
    """The lines of a trade file that aren't blank, with their numbers (from 1, headers and blank ones included).

    Headers are checked and left out: the first line, and those in which a later member of an archive begins.
    Columns that aren't known are taken out of every line (`Narrowed`). Where bytes are missing stands a BadLine.
    ``note`` is told in sentences what was left out without being a row. Raises InputError when nothing of the file
    can be used: no text, unknown columns, a broken archive.
    """
    for number, line, unknown in _Reader(source, _TradeLayout(), note).rows():
        if unknown and not isinstance(line, BadLine):
            yield number, Narrowed(trade_header.without(line, unknown), line)
        else:
            yield number, line


def eod_rows(source: ByteSource, note: Note | None = None) -> Iterator[tuple[int, EodRow | BadLine]]:
    """The rows of an end-of-day file, with their numbers, as `trade_lines` reads them; a bad one is a BadLine."""
    for number, line, header in _Reader(source, _EodLayout(), note).rows():
        if isinstance(line, BadLine):
            yield number, line
        elif header is not None:
            row = end_of_day.parse(line, header)
            yield number, BadLine(row, raw_bytes(line)) if isinstance(row, Rejection) else row


def raw_bytes(line: str) -> bytes:
    """The bytes of a line as it was delivered."""
    return getattr(line, "raw", line).encode("utf-8", "surrogateescape")


class _Reader(Generic[Header]):
    """Reads one file of a layout."""

    def __init__(self, source: ByteSource, layout: Layout[Header], note: Note | None) -> None:
        self._source, self._layout = source, layout
        self._told: set[str] = set()
        self._listener = note
        self._splitter = _Splitter()
        self._header: Header | None = None
        self._held: list[tuple[int, BadLine]] = []  # problems before the first row or header
        self._usable = False

    def _note(self, text: str) -> None:
        """Tell each thing once: every part of a file may have the same header."""
        if self._listener is not None and text not in self._told and len(self._told) < MAX_NOTES:
            self._told.add(text)
            self._listener(text)

    def rows(self) -> Iterator[tuple[int, str | BadLine, Header | None]]:
        """Every row and every problem, with its line's number and what the last header says."""
        for member in members(self._source, self._layout.product, self._note):
            for number, line in self._member(member.name, member.pieces):
                if isinstance(line, BadLine) and not self._usable:
                    self._held.append((number, line))
                    if len(self._held) > MAX_HELD:
                        raise InputError(self._why_unusable())
                    continue
                if self._held:
                    yield from ((at, problem, None) for at, problem in self._held)
                    self._held.clear()
                yield number, line, self._header
        if not self._usable:
            raise InputError(self._why_unusable())

    def _member(self, name: str, pieces: Pieces) -> Iterator[tuple[int, str | BadLine]]:
        """Its lines without headers; it ends early where another kind of header begins."""
        first = True
        for number, found in self._splitter.lines(pieces):
            line = found
            if isinstance(line, BadLine):
                yield number, line
            elif first or line[0] in _ODD_STARTS:
                line = line.removeprefix("\ufeff")
                if not line.strip(_BLANK):
                    continue
                is_row, fault = self._begin(line, first)
                if fault is not None:
                    text = f"{name}: {fault}; what follows was not taken"
                    yield number, BadLine(Rejection(Reason.HEADER, text), raw_bytes(line)[:MAX_LINE])
                    self._splitter.number = number
                    return
                first = False
                if is_row:
                    yield number, line
            else:
                yield number, line

    def _begin(self, line: str, first: bool) -> tuple[bool, str | None]:
        """Whether the line is a row, not a header; and what is wrong with it as the beginning of lines."""
        layout = self._layout
        if layout.is_header(line):
            if fault := layout.fault(line):
                return False, fault
            self._header, self._usable = layout.header(line, self._note), True
            return False, None
        if first:
            header = layout.without_header(line, self._header)
            if header is None:
                what = f"it begins with neither a header nor a row of {layout.product}…"
                return False, f"{what} ({line[:40]!r})"
            self._header, self._usable = header, True
        return True, None

    def _why_unusable(self) -> str:
        if not self._held:
            return f"{self._source.name} is empty; deliver it again"
        text = self._held[0][1].rejection.text
        return f"{self._source.name} can't be read: {text}; no row of it was taken, deliver it again"


def first_lines(pieces: Pieces, count: int = 5) -> Iterator[str]:
    """The first lines of a member that hold text."""
    for number, line in _Splitter().lines(pieces):
        if number > count:
            return
        if not isinstance(line, BadLine) and line.strip(_BLANK):
            yield line.removeprefix("\ufeff")


class _Splitter:
    """Bytes → numbered lines, over all members of a file; ``number``: of the last line so far."""

    def __init__(self) -> None:
        self.number = 0

    def lines(self, pieces: Pieces) -> Iterator[tuple[int, str | BadLine]]:
        """The lines that aren't empty. A Rejection cuts the line in which it stands, and takes its place."""
        number = self.number
        rest = b""
        skipping = False  # a line that is too long
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
                for line in _decoded(whole):
                    number += 1
                    if line:
                        yield number, line
            if len(rest) > MAX_LINE:
                if rest.strip(b"\0"):  # else a hole or padding, which may be large
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
    """The same, every line ending with LF: CRLF and CR become one."""
    carried = b""  # a CR at the end of a piece: the LF that belongs to it may follow
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


def _decoded(whole: bytes) -> Iterable[str | BadLine]:
    """Lines as text; a byte that isn't UTF-8 becomes a lone surrogate (PEP 383), so that no other cell suffers."""
    lines = whole.decode("utf-8", "surrogateescape").split("\n")
    if len(whole) > MAX_LINE and max(map(len, lines)) > MAX_LINE:
        return [
            BadLine(TOO_LONG, raw_bytes(line)[:MAX_LINE]) if len(line) > MAX_LINE else line for line in lines
        ]
    return lines
