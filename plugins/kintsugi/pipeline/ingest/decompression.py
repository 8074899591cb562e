"""Decompress a delivered file (plain, gzip or zip, by its first bytes) into members, each in pieces of bytes.

Memory is constant, whatever size the bytes expand to. Damage raises nothing: a Rejection takes its place among the
pieces, and all pieces before it are good.
"""

from __future__ import annotations

import io
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import chain

from kintsugi.core.errors import InputError
from kintsugi.core.rejections import Reason, Rejection
from kintsugi.pipeline.ingest.byte_sources import ByteSource, SourceError
from kintsugi.pipeline.ingest.inflation import SLICE, Inflater, Method, member_bytes, method_of

READ_AHEAD = 1 << 20  # bytes of a zip archive that one read request fetches
MAX_MEMBERS = 1000
MAX_DEPTH = 3  # of gzip within gzip within zip
# Delivered files are compressed to a fifth or a tenth. An archive that expands more than this is an attack or an error.
MAX_EXPANSION = 300
MAX_EXPANSION_FREE = 64 << 20
NAMED = 10  # members that a note names
START_BYTES = 512  # at the beginning; they identify the format

GZIP = b"\x1f\x8b"
PADDING = b"\0\r\n"
ZIP = (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")
# Formats that can't be read here: their bytes, the offset of these, and a name.
FOREIGN = (
    (b"BZh", 0, "bzip2 data"), (b"\xfd7zXZ\0", 0, "xz data"), (b"\x28\xb5\x2f\xfd", 0, "zstd data"),
    (b"7z\xbc\xaf\x27\x1c", 0, "a 7z archive"), (b"Rar!", 0, "a RAR archive"), (b"ustar", 257, "a tar archive"),
    (b"%PDF", 0, "a PDF document"), (b"PAR1", 0, "a Parquet file"), (b"PK\x03\x04", 0, "an archive within another"),
    (GZIP, 0, "gzip data within gzip data within gzip data"),
    (b"\xff\xfe", 0, "UTF-16 text"), (b"\xfe\xff", 0, "UTF-16 text"),
)  # fmt: skip

Piece = bytes | Rejection
Pieces = Iterator[Piece]
Note = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class ArchiveMember:
    """A file within a delivered file; a file that isn't an archive has one member."""

    name: str
    pieces: Pieces


@dataclass(slots=True)
class _Budget:
    """The bytes that a file may still expand to; ``text``: the error when it expands to more."""

    left: int
    text: str

    def limit(self, pieces: Pieces) -> Pieces:
        """Yield the pieces until the budget is used up; then a Rejection is the last one."""
        for piece in pieces:
            self.left -= len(piece) if isinstance(piece, bytes) else 0
            if self.left < 0:
                yield Rejection(Reason.EXPANSION, self.text)
                return
            yield piece


def archive_members(source: ByteSource, product: str, note: Note) -> Iterator[ArchiveMember]:
    """Yield the members of ``source`` that hold data, in their order.

    ``product``: the beginning of its file names. Members that are named for another product, or can't be data, are
    left out; ``note`` is called with a sentence about them. Raises InputError when the archive can't be opened at all,
    and what the source raises.
    """
    with closing(source.chunks()) as chunks:
        head, pieces = _peek_start(chunks)
        budget = _Budget(
            MAX_EXPANSION * source.size + MAX_EXPANSION_FREE,
            f"{source.name} expands to more than {MAX_EXPANSION} times its size; the rest was not read",
        )
        if not head.startswith(ZIP):
            yield ArchiveMember(source.name, _unpack_pieces(pieces, source.name, budget))
            return
    yield from _zip_members(source, product, note, budget)


def _peek_start(pieces: Iterator[Piece]) -> tuple[bytes, Pieces]:
    """Return at least the first START_BYTES bytes, if there are as many, and all the pieces."""
    first: list[Piece] = []
    head = b""
    for piece in pieces:
        first.append(piece)
        if isinstance(piece, Rejection):
            break
        head += piece
        if len(head) >= START_BYTES:
            break
    return head, chain(first, pieces)


def _unpack_pieces(pieces: Pieces, name: str, budget: _Budget, depth: int = 0) -> Pieces:
    """Yield the pieces, decompressed if they are gzip data; for a foreign format only a Rejection."""
    head, pieces = _peek_start(pieces)
    if head.startswith(GZIP) and depth < MAX_DEPTH:
        yield from _unpack_pieces(budget.limit(_unpack_gzip(pieces, name)), name, budget, depth + 1)
        return
    for magic, offset, kind in FOREIGN:
        if head.startswith(magic, offset):
            text = f"{name} is {kind}; deliver the CSV file in UTF-8, plain or as .gz or .zip"
            yield Rejection(Reason.UNSUPPORTED, text)
            return
    yield from pieces


def _unpack_gzip(pieces: Pieces, name: str) -> Pieces:
    """Decompress gzip data of one or several members, up to the exact byte where it is corrupt."""
    stream = _GzipStream(name)
    for piece in _slice_pieces(pieces):
        if isinstance(piece, Rejection):
            yield piece
            return
        yield from stream.inflate(piece)
        if stream.is_broken:
            return
    yield from stream.finish()


class _GzipStream:
    """Consecutive gzip members, which arrive in arbitrary pieces; padding may follow the last one."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._data = b""
        self._inflater: Inflater | None = None
        self._has_finished_member = False
        self._member_has_output = False
        self.is_broken = False

    def inflate(self, piece: bytes) -> Pieces:
        """Yield what the next piece of the data decompresses to."""
        self._data += piece
        while self._data and not self.is_broken:
            if self._inflater is None and not self._begin_member():
                if len(self._data) >= len(GZIP):  # else the next piece decides
                    yield from self._report_other_bytes()
                return
            yield from self._inflate_member()

    def finish(self) -> Pieces:
        """Yield what the end of the data adds: a Rejection if it comes too early."""
        if self._inflater is not None:
            yield from self._report_damage(Reason.TRUNCATED, f"the gzip data of {self._name} ends too early")
        elif self._data:
            yield from self._report_other_bytes()

    def _begin_member(self) -> bool:
        """Begin the next member; returns False if none begins here."""
        if self._has_finished_member:
            self._data = self._data.lstrip(PADDING)
        if not self._data.startswith(GZIP):
            return False
        self._inflater = Inflater(zlib.MAX_WBITS | 16)
        return True

    def _inflate_member(self) -> Pieces:
        assert self._inflater is not None
        try:
            for out in self._inflater.inflate(self._data):
                self._member_has_output = self._member_has_output or bool(out)
                yield out
        except zlib.error as error:
            text = f"the gzip data of {self._name} is corrupt: {error}"
            yield from self._report_damage(Reason.CORRUPT, text)
            return
        self._data = self._inflater.rest
        if self._inflater.finished:
            self._inflater, self._has_finished_member, self._member_has_output = None, True, False

    def _report_damage(self, reason: Reason, text: str) -> Pieces:
        self.is_broken = True
        if self._has_finished_member and not self._member_has_output:
            yield b"\n"  # the last line is complete: a Rejection must not replace it
        yield Rejection(reason, text)

    def _report_other_bytes(self) -> Pieces:
        first = self._data[:8].hex(" ")
        text = f"the gzip data of {self._name} is followed by other bytes ({first} …), which were not read"
        yield from self._report_damage(Reason.CORRUPT, text)


def _slice_pieces(pieces: Pieces) -> Pieces:
    """Yield small slices of the pieces, because a corrupt slice is decompressed again byte by byte."""
    for piece in pieces:
        if isinstance(piece, Rejection):
            yield piece
            return
        for start in range(0, len(piece), SLICE):
            yield piece[start : start + SLICE]


def _zip_members(source: ByteSource, product: str, note: Note, budget: _Budget) -> Iterator[ArchiveMember]:
    """Yield the data members of a zip archive."""
    name = source.name
    try:
        archive = zipfile.ZipFile(io.BufferedReader(source.seekable(), READ_AHEAD))
        infos = [info for info in archive.infolist() if not info.is_dir()]
    except SourceError as error:
        raise error.error from error
    except Exception as error:  # zipfile raises errors of many classes for a corrupt archive
        raise InputError(f"{name} is a corrupt zip archive: {error}; deliver it again") from error
    with archive:
        if len(infos) > MAX_MEMBERS:
            raise InputError(f"{name} holds {len(infos)} files; at most {MAX_MEMBERS} are read")
        if not infos:
            raise InputError(f"{name} is a zip archive without a file; deliver it again")
        data = _data_members(infos, product)
        others = [info.filename for info in infos if info not in data]
        if others:
            names = ", ".join(repr(other[:60]) for other in others[:NAMED])
            more = f" and {len(others) - NAMED} more" if len(others) > NAMED else ""
            note(f"other members were left out: {names}{more}")
        for info in data:
            label = f"{info.filename} in {name}"
            pieces = budget.limit(_member_pieces(archive, info, label))
            yield ArchiveMember(label, _unpack_pieces(pieces, label, budget))
            if budget.left < 0:
                return


def _data_members(infos: list[zipfile.ZipInfo], product: str) -> list[zipfile.ZipInfo]:
    """Return the members to read: the CSV files, or all files if none has the name of one.

    Files that operating systems add (``__MACOSX/``, names that begin with a dot) are left out, and files that are named
    for another product of the vendor.
    """
    visible = [info for info in infos if not _is_hidden(info.filename)]
    tables = [info for info in visible if re.search(r"\.(csv|txt)(\.gz)?$", info.filename, re.IGNORECASE)]
    own = [info for info in tables or visible if not _is_other_product(info.filename, product)]
    return own or tables or visible


def _is_hidden(name: str) -> bool:
    parts = re.split(r"[/\\]", name)
    return "__MACOSX" in parts or parts[-1].startswith(".")


def _is_other_product(name: str, product: str) -> bool:
    base = re.split(r"[/\\]", name)[-1]
    return base.startswith("UnderlyingOptions") and not base.startswith(product)


def _member_pieces(archive: zipfile.ZipFile, info: zipfile.ZipInfo, name: str) -> Pieces:
    """Yield one member's bytes, and check their number and checksum by the archive's directory."""
    method = method_of(info)
    if not isinstance(method, Method):
        yield Rejection(
            Reason.UNSUPPORTED, f"{name} is {method}; deliver it zipped with Deflate, without a password"
        )
        return
    left, checksum = info.file_size, 0
    try:
        for out in member_bytes(archive, info, method):
            data = out[:left]
            left -= len(data)
            checksum = zlib.crc32(data, checksum)
            yield data
            if not left:
                break
    except SourceError as error:
        raise error.error from error
    except Exception as error:  # noqa: BLE001 - zipfile, lzma and bz2 raise errors of many classes for corrupt bytes
        yield Rejection(Reason.CORRUPT, f"{name} is corrupt: {error}")
        return
    if left:
        yield Rejection(Reason.TRUNCATED, f"{name} ends {left} bytes too early")
    elif checksum != info.CRC:
        yield Rejection(Reason.CORRUPT, f"{name} is corrupt: its checksum is wrong")
