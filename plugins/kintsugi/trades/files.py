"""A trade file in S3 as a stream of lines, in constant memory: plain, gzip or zip, told apart by content."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kintsugi.errors import InputError
from kintsugi.trades.rows import Reason, Rejection, header_fault, is_header, parse

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

CHUNK = 1 << 20
PIECE = 1 << 14
MAX_LINE = 1 << 16


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


def read_lines(s3: S3Client, bucket: str, key: str, etag: str) -> Iterator[tuple[int, str | BadLine]]:
    """The lines of one object that aren't empty, with their numbers (from 1, the header included).

    The header is checked and left out. A file that is damaged midway ends with one BadLine. Raises InputError
    when nothing of the file can be used (no text, unknown columns, a broken archive) or when the object is no
    longer the one with ``etag``; errors of S3 itself pass through, they are worth a retry.
    """
    lines = _split(_content(s3, bucket, key, etag))
    number, first = next(lines, (0, ""))
    if not number:
        raise InputError(f"{key} is empty; deliver it again")
    if isinstance(first, BadLine):
        raise InputError(f"{key} can't be read: {first.rejection.text}; deliver it again")
    first = first.removeprefix("\ufeff")
    if not is_header(first):
        if isinstance(parse(first), Rejection):
            raise InputError(
                f"{key} begins with neither a header nor a trade ({first[:40]!r}); is it a trade file?"
            )
        yield number, first
    elif fault := header_fault(first):
        raise InputError(f"{key}: {fault}; no row of it was taken, deliver it with the known columns")
    yield from lines


def _content(s3: S3Client, bucket: str, key: str, etag: str) -> Iterator[bytes]:
    """The decompressed bytes, in pieces; ends with _Damaged where the archive breaks."""
    from botocore.exceptions import ClientError

    try:
        response = s3.get_object(Bucket=bucket, Key=key, IfMatch=etag)
    except ClientError as error:
        if error.response["Error"]["Code"] in ("PreconditionFailed", "412", "NoSuchKey", "404"):
            raise InputError(
                f"{key} changed or vanished while it was being read; its new content is a new file"
            ) from error
        raise
    body = response["Body"]
    with body:
        head = body.read(4)
        if head == b"PK\x03\x04":
            pass
        elif head[:2] == b"\x1f\x8b":
            yield from _gunzip(_chunks(head, body), key)
            return
        else:
            yield from _chunks(head, body)
            return
    yield from _unzip(_Ranges(s3, bucket, key, etag, response["ContentLength"]), key)


def _chunks(head: bytes, body: Any) -> Iterator[bytes]:
    yield head
    while data := body.read(CHUNK):
        yield data


def _gunzip(chunks: Iterator[bytes], key: str) -> Iterator[bytes]:
    """Decompress gzip, also of several members, up to the very byte where it breaks."""
    engine = zlib.decompressobj(31)
    started = False
    for piece in _pieces(chunks):
        data = piece
        while data:
            before = engine.copy()
            started = True
            try:
                yield engine.decompress(data)
            except zlib.error as error:
                # zlib throws away what it had decompressed of this piece: go there again, byte by byte.
                yield from _until_error(before, data)
                raise _Damaged(Reason.CORRUPT, f"the gzip data of {key} is corrupt: {error}") from error
            data = b""
            if engine.eof:
                data = engine.unused_data.lstrip(b"\0")
                engine = zlib.decompressobj(31)
                started = False
    if started:
        raise _Damaged(Reason.TRUNCATED, f"the gzip data of {key} ends too early")


def _pieces(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Small enough that what one piece decompresses to (at most 1032 times as much) fits into memory."""
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
    """Every file of a zip archive, one after another."""
    try:
        archive = zipfile.ZipFile(io.BufferedReader(source, CHUNK))
        members = [member for member in archive.infolist() if not member.is_dir()]
    except zipfile.BadZipFile as error:
        raise InputError(f"{key} is a broken zip archive: {error}; deliver it again") from error
    for member in members:
        try:
            with archive.open(member) as file:
                while data := file.read(CHUNK):
                    yield data
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

    def readinto(self, buffer: Any) -> int:
        end = min(self._at + len(buffer), self._size)
        if end <= self._at:
            return 0
        response = self._s3.get_object(
            Bucket=self._bucket, Key=self._key, IfMatch=self._etag, Range=f"bytes={self._at}-{end - 1}"
        )
        data = response["Body"].read()
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
    for line in _decoded([rest] if rest else []):
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
