"""The content of a delivered file: plain, gzip or zip, told apart by its bytes → its members as pieces of bytes.

In constant memory, however much the bytes expand to. Damage raises nothing: it is a Rejection in its place among the
pieces, and what comes before it is good.
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

READ_AHEAD = 1 << 20  # bytes of a zip archive that one read fetches
MAX_MEMBERS = 1000
MAX_DEPTH = 3  # of gzip within gzip within zip
# Delivered files shrink five- to tenfold; an archive that grows beyond this is an attack or a mistake.
MAX_EXPANSION = 300
MAX_EXPANSION_FREE = 64 << 20
NAMED = 10  # members that a note names
SNIFFED = 512  # bytes of the beginning that tell the format

GZIP = b"\x1f\x8b"
PADDING = b"\0\r\n"
ZIP = (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")
# What begins with these bytes at this place can't be read here.
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
    """A file within a delivered file; one that is no archive is its own only member."""

    name: str
    pieces: Pieces


@dataclass(slots=True)
class _Budget:
    """Bytes that a file may still expand to."""

    left: int
    text: str

    def bounded(self, pieces: Pieces) -> Pieces:
        """The pieces, until they are absurdly many; a Rejection is the last one then."""
        for piece in pieces:
            self.left -= len(piece) if isinstance(piece, bytes) else 0
            if self.left < 0:
                yield Rejection(Reason.EXPANSION, self.text)
                return
            yield piece


def members(source: ByteSource, product: str, note: Note) -> Iterator[ArchiveMember]:
    """The members of ``source`` that hold data, in their order.

    ``product``: what the names of its files begin with; members that are named for another product are left out, as
    are those that can't be data. ``note`` is told of them in a sentence. Raises InputError when the archive can't be
    opened at all, and what the source raises.
    """
    with closing(source.chunks()) as chunks:
        head, pieces = _peeked(chunks)
        budget = _Budget(
            MAX_EXPANSION * source.size + MAX_EXPANSION_FREE,
            f"{source.name} expands to more than {MAX_EXPANSION} times its size; the rest was not taken",
        )
        if not head.startswith(ZIP):
            yield ArchiveMember(source.name, _unpacked(pieces, source.name, budget))
            return
    yield from _archived(source, product, note, budget)


def _peeked(pieces: Iterator[Piece]) -> tuple[bytes, Pieces]:
    """The first SNIFFED bytes or more, if there are as many, and all the pieces."""
    seen: list[Piece] = []
    head = b""
    for piece in pieces:
        seen.append(piece)
        if isinstance(piece, Rejection):
            break
        head += piece
        if len(head) >= SNIFFED:
            break
    return head, chain(seen, pieces)


def _unpacked(pieces: Pieces, name: str, budget: _Budget, depth: int = 0) -> Pieces:
    """The pieces, decompressed if they are gzip data; a single Rejection where they are something else."""
    head, pieces = _peeked(pieces)
    if head.startswith(GZIP) and depth < MAX_DEPTH:
        yield from _unpacked(budget.bounded(_gunzip(pieces, name)), name, budget, depth + 1)
        return
    for magic, at, what in FOREIGN:
        if head.startswith(magic, at):
            text = f"{name} is {what}; deliver the CSV file in UTF-8, as it is or as .gz or .zip"
            yield Rejection(Reason.UNSUPPORTED, text)
            return
    yield from pieces


def _gunzip(pieces: Pieces, name: str) -> Pieces:
    """Decompress gzip, also of several members, up to the very byte where it breaks."""
    stream = _GzipStream(name)
    for piece in _slices(pieces):
        if isinstance(piece, Rejection):
            yield piece
            return
        yield from stream.fed(piece)
        if stream.broken:
            return
    yield from stream.end()


class _GzipStream:
    """Members of gzip one after another, which may be cut anywhere; after the last one there may be padding."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._data = b""
        self._inflater: Inflater | None = None
        self._finished = False  # a member is complete
        self._wrote = False  # the member at hand has given something
        self.broken = False

    def fed(self, piece: bytes) -> Pieces:
        """What a piece adds."""
        self._data += piece
        while self._data and not self.broken:
            if self._inflater is None and not self._begins():
                if len(self._data) >= len(GZIP):  # else the next piece tells
                    yield from self._other_bytes()
                return
            yield from self._inflated()

    def end(self) -> Pieces:
        """What the end of the data adds."""
        if self._inflater is not None:
            yield from self._damaged(Reason.TRUNCATED, f"the gzip data of {self._name} ends too early")
        elif self._data:
            yield from self._other_bytes()

    def _begins(self) -> bool:
        """Whether another member begins here."""
        if self._finished:
            self._data = self._data.lstrip(PADDING)
        if not self._data.startswith(GZIP):
            return False
        self._inflater = Inflater(zlib.MAX_WBITS | 16)
        return True

    def _inflated(self) -> Pieces:
        assert self._inflater is not None
        try:
            for out in self._inflater.fed(self._data):
                self._wrote = self._wrote or bool(out)
                yield out
        except zlib.error as error:
            yield from self._damaged(Reason.CORRUPT, f"the gzip data of {self._name} is corrupt: {error}")
            return
        self._data = self._inflater.rest
        if self._inflater.finished:
            self._inflater, self._finished, self._wrote = None, True, False

    def _damaged(self, reason: Reason, text: str) -> Pieces:
        self.broken = True
        if self._finished and not self._wrote:
            yield b"\n"  # the last line came out whole
        yield Rejection(reason, text)

    def _other_bytes(self) -> Pieces:
        first = self._data[:8].hex(" ")
        text = f"after the gzip data of {self._name} come other bytes ({first} …), which were not taken"
        yield from self._damaged(Reason.CORRUPT, text)


def _slices(pieces: Pieces) -> Pieces:
    """Small, because a piece that turns out to be corrupt is decompressed again byte by byte."""
    for piece in pieces:
        if isinstance(piece, Rejection):
            yield piece
            return
        for start in range(0, len(piece), SLICE):
            yield piece[start : start + SLICE]


def _archived(source: ByteSource, product: str, note: Note, budget: _Budget) -> Iterator[ArchiveMember]:
    """The data members of a zip archive."""
    name = source.name
    try:
        archive = zipfile.ZipFile(io.BufferedReader(source.seekable(), READ_AHEAD))
        infos = [info for info in archive.infolist() if not info.is_dir()]
    except SourceError as error:
        raise error.error from error
    except Exception as error:  # zipfile raises whatever the bytes of a broken archive lead to
        raise InputError(f"{name} is a broken zip archive: {error}; deliver it again") from error
    with archive:
        if len(infos) > MAX_MEMBERS:
            raise InputError(f"{name} holds {len(infos)} files; at most {MAX_MEMBERS} are read")
        if not infos:
            raise InputError(f"{name} is a zip archive without a file; deliver it again")
        data = _data_members(infos, product)
        others = [info.filename for info in infos if info not in data]
        if others:
            named = ", ".join(repr(other[:60]) for other in others[:NAMED])
            more = f" and {len(others) - NAMED} more" if len(others) > NAMED else ""
            note(f"other members were left out: {named}{more}")
        for info in data:
            label = f"{info.filename} in {name}"
            pieces = budget.bounded(_member_pieces(archive, info, label))
            yield ArchiveMember(label, _unpacked(pieces, label, budget))
            if budget.left < 0:
                return


def _data_members(infos: list[zipfile.ZipInfo], product: str) -> list[zipfile.ZipInfo]:
    """The members to read: the CSV files, or everything where none is called one.

    Left out are what operating systems add (``__MACOSX/``, names that begin with a dot) and files that are named for
    another product of the vendor.
    """
    visible = [info for info in infos if not _is_hidden(info.filename)]
    tables = [info for info in visible if re.search(r"\.(csv|txt)(\.gz)?$", info.filename, re.IGNORECASE)]
    mine = [info for info in tables or visible if not _is_of_another(info.filename, product)]
    return mine or tables or visible


def _is_hidden(name: str) -> bool:
    parts = re.split(r"[/\\]", name)
    return "__MACOSX" in parts or parts[-1].startswith(".")


def _is_of_another(name: str, product: str) -> bool:
    base = re.split(r"[/\\]", name)[-1]
    return base.startswith("UnderlyingOptions") and not base.startswith(product)


def _member_pieces(archive: zipfile.ZipFile, info: zipfile.ZipInfo, name: str) -> Pieces:
    """One member's bytes, checked against the archive's list."""
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
    except Exception as error:  # noqa: BLE001 - zipfile, lzma and bz2 raise whatever broken bytes lead to
        yield Rejection(Reason.CORRUPT, f"{name} is corrupt: {error}")
        return
    if left:
        yield Rejection(Reason.TRUNCATED, f"{name} ends {left} bytes too early")
    elif checksum != info.CRC:
        yield Rejection(Reason.CORRUPT, f"{name} is corrupt: its checksum is wrong")
