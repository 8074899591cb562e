"""Decompression in bounded pieces: Deflate up to the exact byte where it is corrupt, and the methods of zip archives.

`zipfile` doesn't limit bzip2 and LZMA: 4 KiB of bzip2 can become gigabytes in a single read.
"""

from __future__ import annotations

import bz2
import copy
import lzma
import zipfile
import zlib
from collections.abc import Iterator
from enum import IntEnum
from itertools import chain

from kintsugi.pipeline.ingest.byte_sources import CHUNK

SLICE = 1 << 14
MAX_LZMA_DICTIONARY = 128 << 20
ENCRYPTED = 0x1
# APPNOTE.TXT of PKWARE, section 4.4.5.
OTHER_METHODS = {9: "Deflate64", 93: "zstd", 95: "xz", 98: "PPMd", 99: "AES"}


class Method(IntEnum):
    """The compression methods of zip archives that can be read."""

    STORED = zipfile.ZIP_STORED
    DEFLATE = zipfile.ZIP_DEFLATED
    BZIP2 = zipfile.ZIP_BZIP2
    LZMA = zipfile.ZIP_LZMA


class Inflater:
    """Decompresses one zlib stream; ``window``: zlib's ``wbits``, which also selects the container format.

    ``finished``: the stream has ended; ``rest``: the bytes after it.
    """

    def __init__(self, window: int) -> None:
        self._engine = zlib.decompressobj(window)
        self.rest = b""

    @property
    def finished(self) -> bool:
        return self._engine.eof

    def inflate(self, data: bytes) -> Iterator[bytes]:
        """Decompress ``data`` in pieces of at most CHUNK bytes; raises zlib.error after the last good byte."""
        is_full = False
        while (data or is_full) and not self._engine.eof:
            before = self._engine.copy()
            try:
                out = self._engine.decompress(data, CHUNK)
            except zlib.error:
                # zlib drops what it decompressed of this piece, so it is decompressed again, byte by byte.
                yield from _inflate_until_error(before, data)
                raise
            yield out
            data, is_full = self._engine.unconsumed_tail, len(out) == CHUNK
        self.rest = self._engine.unused_data


def _inflate_until_error(engine: zlib._Decompress, data: bytes) -> Iterator[bytes]:
    for index in range(len(data)):
        try:
            yield engine.decompress(data[index : index + 1])
        except zlib.error:
            return


def method_of(info: zipfile.ZipInfo) -> Method | str:
    """Return how the member is compressed, or a text that says why it can't be read."""
    if info.flag_bits & ENCRYPTED:
        return "encrypted"
    try:
        return Method(info.compress_type)
    except ValueError:
        name = OTHER_METHODS.get(info.compress_type, f"method {info.compress_type}")
        return f"compressed with {name}"


def member_bytes(archive: zipfile.ZipFile, info: zipfile.ZipInfo, method: Method) -> Iterator[bytes]:
    """Yield the decompressed bytes of a member in pieces of at most CHUNK bytes; there may be more than its size.

    Raises the errors of zlib, bz2, lzma and zipfile for corrupt bytes.
    """
    raw = _raw_bytes(archive, info)
    if method is Method.STORED:
        return raw
    if method is Method.DEFLATE:
        return _inflate_raw(raw)
    if method is Method.BZIP2:
        return _decompress_raw(bz2.BZ2Decompressor(), raw)
    return _decompress_lzma(raw)


def _raw_bytes(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Iterator[bytes]:
    """Yield the compressed bytes of a member: it is opened as a stored member without a checksum."""
    stored = copy.copy(info)
    stored.compress_type, stored.file_size = zipfile.ZIP_STORED, info.compress_size
    del stored.CRC
    with archive.open(stored) as file:
        while data := file.read(SLICE):
            yield data


def _inflate_raw(raw: Iterator[bytes]) -> Iterator[bytes]:
    inflater = Inflater(-zlib.MAX_WBITS)
    for data in raw:
        yield from inflater.inflate(data)
        if inflater.finished:
            return


def _decompress_raw(
    engine: bz2.BZ2Decompressor | lzma.LZMADecompressor, raw: Iterator[bytes]
) -> Iterator[bytes]:
    for piece in raw:
        data = piece
        while not engine.eof:
            yield engine.decompress(data, CHUNK)
            data = b""
            if engine.needs_input:
                break


def _decompress_lzma(raw: Iterator[bytes]) -> Iterator[bytes]:
    """Decompress LZMA of a zip archive: version, length of the properties, properties, data (APPNOTE.TXT, 5.8.8)."""
    head = next(raw, b"")
    packed, dictionary = head[4:5], int.from_bytes(head[5:9], "little")
    if head[2:4] != b"\x05\x00" or len(head) < 9:
        raise lzma.LZMAError("its LZMA properties are corrupt")
    if dictionary > MAX_LZMA_DICTIONARY:
        raise lzma.LZMAError(f"its LZMA dictionary is larger than {MAX_LZMA_DICTIONARY} bytes")
    settings = {
        "id": lzma.FILTER_LZMA1, "dict_size": max(dictionary, 4096),
        "lc": packed[0] % 9, "lp": packed[0] // 9 % 5, "pb": packed[0] // 45,
    }  # fmt: skip
    engine = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=[settings])
    return _decompress_raw(engine, chain([head[9:]], raw))
