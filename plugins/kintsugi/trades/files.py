"""A trade file in S3 as a stream of lines, in constant memory: plain, gzip or zip, told apart by content."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

from kintsugi.errors import InputError
from kintsugi.trades import s3_pieces
from kintsugi.trades.rows import (
    Reason,
    Rejection,
    header_fault,
    is_header,
    parse,
    unknown_columns,
    without,
)

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

RANGE = 1 << 20
CHUNK = 1 << 18  # of nothing but line ends it makes a list of 24 MiB
PIECE = 1 << 14
MAX_LINE = 1 << 16
MAX_MEMBERS = 1000
# Trade files shrink five- to tenfold; an archive that grows beyond this is an attack or a mistake.
MAX_EXPANSION = 300
MAX_EXPANSION_FREE = 64 << 20


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that can't even be read as text; ``raw`` holds at most its first 1024 bytes."""

    rejection: Rejection
    raw: bytes


class _Damaged(Exception):
    """The bytes end or break here; what came before is good."""

    def __init__(self, reason: Reason, text: str) -> None:
        super().__init__(text)
        self.rejection = Rejection(reason, text)


def read_lines(
    s3: S3Client, bucket: str, key: str, etag: str, ignored: Callable[[list[str]], None] | None = None
) -> Iterator[tuple[int, str | BadLine]]:
    """The lines of one object that aren't empty, with their numbers (from 1, headers included).

    Headers are checked and left out: the first line, and those in which a later member of an archive begins.
    Columns that aren't known are taken out of every line; ``ignored`` is told their names. A file that
    is damaged midway ends with one BadLine. Raises InputError when nothing of the file can be used (no text,
    unknown columns, a broken archive) or when the object is no longer the one with ``etag``; errors of S3
    itself pass through, they are worth a retry.
    """
    lines = _split(_content(s3, bucket, key, etag))
    at, first = next(lines, (0, ""))
    first = _usable(key, first)
    unknown: dict[int, str] = {}
    for number, line in chain([(at, first)], lines):
        if isinstance(line, BadLine):
            yield number, line
        elif line[0] in _HEADER_STARTS and is_header(line):
            if fault := header_fault(line):
                text = f"another header begins here, and {fault}; the rest of the file was not taken"
                yield number, BadLine(Rejection(Reason.HEADER, text), line.encode()[:1024])
                return
            unknown = unknown_columns(line)
            if unknown and ignored:
                ignored(list(unknown.values()))
        else:
            yield number, without(line, unknown) if unknown else line


def _usable(key: str, first: str | BadLine) -> str:
    """The first line of a file that can be used at all; else InputError."""
    if not first:
        raise InputError(f"{key} is empty; deliver it again")
    if isinstance(first, BadLine):
        raise InputError(f"{key} can't be read: {first.rejection.text}; deliver it again")
    first = first.removeprefix("\ufeff")
    if not is_header(first):
        if isinstance(parse(first), Rejection):
            raise InputError(
                f"{key} begins with neither a header nor a trade ({first[:40]!r}); is it a trade file?"
            )
    elif fault := header_fault(first):
        raise InputError(f"{key}: {fault}; no row of it was taken, deliver it with the known columns")
    return first


_HEADER_STARTS = frozenset('uU"\ufeff')


GONE = ("PreconditionFailed", "412", "NoSuchKey", "404")


def _content(s3: S3Client, bucket: str, key: str, etag: str) -> Iterator[bytes]:
    """The decompressed bytes, in pieces; ends with _Damaged where the archive breaks."""
    from botocore.exceptions import ClientError

    try:
        response = s3.get_object(Bucket=bucket, Key=key, IfMatch=etag)
    except ClientError as error:
        if error.response["Error"]["Code"] in GONE:
            raise InputError(
                f"{key} changed or vanished while it was being read; its new content is a new file"
            ) from error
        raise
    body, size = response["Body"], response["ContentLength"]
    ranges = _Ranges(s3, bucket, key, etag, size)
    with body:
        head = body.read(4)
        if head[:2] == b"\x1f\x8b":
            yield from _bounded(_gunzip(_chunks(head, body, ranges, size), key), size, key)
            return
        if head != b"PK\x03\x04":
            yield from _chunks(head, body, ranges, size)
            return
    yield from _bounded(_unzip(ranges, key), size, key)


def _bounded(pieces: Iterator[bytes], size: int, key: str) -> Iterator[bytes]:
    """The pieces, until they are absurdly more than the ``size`` bytes that they were made of."""
    limit = MAX_EXPANSION * size + MAX_EXPANSION_FREE
    for piece in pieces:
        limit -= len(piece)
        if limit < 0:
            text = f"{key} expands to more than {MAX_EXPANSION} times its size; the rest was not taken"
            raise _Damaged(Reason.EXPANSION, text)
        yield piece


def _chunks(head: bytes, body: Any, ranges: _Ranges, size: int) -> Iterator[bytes]:
    yield head
    yield from s3_pieces.chunks(body, len(head), size, ranges.fetch)


def _gunzip(chunks: Iterator[bytes], key: str) -> Iterator[bytes]:
    """Decompress gzip, also of several members, up to the very byte where it breaks."""
    engine = zlib.decompressobj(31)
    started = False
    for piece in _pieces(chunks):
        data, full = piece, False
        while data or full:
            before = engine.copy()
            started = True
            try:
                out = engine.decompress(data, CHUNK)
            except zlib.error as error:
                # zlib throws away what it had decompressed of this piece: go there again, byte by byte.
                yield from _until_error(before, data)
                raise _Damaged(Reason.CORRUPT, f"the gzip data of {key} is corrupt: {error}") from error
            yield out
            data, full = engine.unconsumed_tail, len(out) == CHUNK
            if engine.eof:
                data, full = engine.unused_data.lstrip(b"\0"), False
                engine = zlib.decompressobj(31)
                started = False
    if started:
        raise _Damaged(Reason.TRUNCATED, f"the gzip data of {key} ends too early")


def _pieces(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Small, because a piece that turns out to be corrupt is decompressed again byte by byte."""
    for chunk in chunks:
        for start in range(0, len(chunk), PIECE):
            yield chunk[start : start + PIECE]


def _until_error(engine: Any, data: bytes) -> Iterator[bytes]:
    for index in range(len(data)):
        try:
            yield engine.decompress(data[index : index + 1])
        except zlib.error:
            return


def _unzip(source: io.RawIOBase, key: str) -> Iterator[bytes]:
    """Every file of a zip archive, one after another, each ending with a line end."""
    try:
        archive = zipfile.ZipFile(io.BufferedReader(source, RANGE))
        members = [member for member in archive.infolist() if not member.is_dir()]
    except zipfile.BadZipFile as error:
        raise InputError(f"{key} is a broken zip archive: {error}; deliver it again") from error
    if len(members) > MAX_MEMBERS:
        raise InputError(
            f"{key} holds {len(members)} files; is it a trade file? At most {MAX_MEMBERS} are read"
        )
    for member in members:
        try:
            data = b"\n"
            with archive.open(member) as file:
                while more := file.read(CHUNK):
                    data = more
                    yield data
            if not data.endswith(b"\n"):
                yield b"\n"
        except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
            raise _Damaged(Reason.CORRUPT, f"{member.filename} in {key} is corrupt: {error}") from error


class _Ranges(io.RawIOBase):
    """A seekable view of an S3 object by ranged reads: a zip archive's directory is at its end."""

    def __init__(self, s3: S3Client, bucket: str, key: str, etag: str, size: int) -> None:
        super().__init__()
        self._s3, self._bucket, self._key, self._etag = s3, bucket, key, etag
        self._size = size
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def fetch(self, start: int, end: int) -> bytes:
        """The bytes from ``start`` to before ``end``; raises InputError when the object has other content now."""
        from botocore.exceptions import ClientError

        try:
            response = self._s3.get_object(
                Bucket=self._bucket, Key=self._key, IfMatch=self._etag, Range=f"bytes={start}-{end - 1}"
            )
        except ClientError as error:
            if error.response["Error"]["Code"] in GONE:
                raise InputError(
                    f"{self._key} changed or vanished while it was being read; its new content is a new file"
                ) from error
            raise
        data: bytes = response["Body"].read()
        return data

    def readinto(self, buffer: Any) -> int:
        end = min(self._at + len(buffer), self._size)
        if end <= self._at:
            return 0
        data = self.fetch(self._at, end)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


def _split(chunks: Iterator[bytes]) -> Iterator[tuple[int, str | BadLine]]:
    """Bytes → numbered lines; the line that damage cuts off is its BadLine."""
    number = 0
    rest = b""
    skipping = False
    try:
        for chunk in chunks:
            data = chunk
            if skipping:
                _, newline, data = chunk.partition(b"\n")
                skipping = not newline
            *lines, rest = (rest + data).split(b"\n")
            for line in _decoded(lines):
                number += 1
                if line:
                    yield number, line
            if len(rest) > MAX_LINE:
                number += 1
                why = Rejection(Reason.TOO_LONG, f"a line of more than {MAX_LINE} bytes")
                yield number, BadLine(why, rest[:1024])
                rest, skipping = b"", True
    except _Damaged as damaged:
        yield number + 1, BadLine(damaged.rejection, rest[:1024])
        return
    for line in _decoded([rest]):
        if line:  # nothing, or a lone CR
            yield number + 1, line


def _decoded(lines: list[bytes]) -> Iterator[str | BadLine]:
    """Lines as text without CR; all at once when they are valid, one by one when one of them isn't."""
    try:
        text = b"\n".join(lines).decode()
    except UnicodeDecodeError:
        yield from map(_decode, lines)
        return
    if not lines:
        return
    for line in text.split("\n"):
        yield line.removesuffix("\r")


def _decode(line: bytes) -> str | BadLine:
    try:
        return line.decode().removesuffix("\r")
    except UnicodeDecodeError as error:
        text = f"byte {error.start} of the line, 0x{line[error.start]:02x}, is not UTF-8"
        return BadLine(Rejection(Reason.ENCODING, text), line[:1024])
