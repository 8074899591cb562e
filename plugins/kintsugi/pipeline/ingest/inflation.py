"""Decompression in bounded pieces: Deflate up to the very byte where it breaks, and the methods of zip archives.

`zipfile` itself gives bzip2 and LZMA no limit: 4 KiB of bzip2 can become gigabytes in a single read.
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
    """How a member of a zip archive may be compressed to be read."""

    STORED = zipfile.ZIP_STORED
    DEFLATE = zipfile.ZIP_DEFLATED
    BZIP2 = zipfile.ZIP_BZIP2
    LZMA = zipfile.ZIP_LZMA


class Inflater:
    """zlib's decompression of one stream; ``window``: as zlib's ``wbits``, which also says what is around it.

    ``finished``: the stream has ended, and ``rest`` is what came after it.
    """

    def __init__(self, window: int) -> None:
        self._engine = zlib.decompressobj(window)
        self.rest = b""

    @property
    def finished(self) -> bool:
        return self._engine.eof

    def fed(self, data: bytes) -> Iterator[bytes]:
        """What ``data`` adds, in pieces of at most CHUNK bytes; raises zlib.error behind the last good byte."""
        full = False
        while (data or full) and not self._engine.eof:
            before = self._engine.copy()
            try:
                out = self._engine.decompress(data, CHUNK)
            except zlib.error:
                # zlib throws away what it had decompressed of this piece: go there again, byte by byte.
                yield from _until_error(before, data)
                raise
            yield out
            data, full = self._engine.unconsumed_tail, len(out) == CHUNK
        self.rest = self._engine.unused_data


def _until_error(engine: zlib._Decompress, data: bytes) -> Iterator[bytes]:
    for index in range(len(data)):
        try:
            yield engine.decompress(data[index : index + 1])
        except zlib.error:
            return


def method_of(info: zipfile.ZipInfo) -> Method | str:
    """How the member is compressed, or in words why it can't be read."""
    if info.flag_bits & ENCRYPTED:
        return "encrypted"
    try:
        return Method(info.compress_type)
    except ValueError:
        name = OTHER_METHODS.get(info.compress_type, f"method {info.compress_type}")
        return f"compressed with {name}"


def member_bytes(archive: zipfile.ZipFile, info: zipfile.ZipInfo, method: Method) -> Iterator[bytes]:
    """The decompressed bytes of a member in pieces of at most CHUNK bytes; they may go on behind its end.

    Raises whatever broken bytes lead to.
    """
    raw = _raw_bytes(archive, info)
    if method is Method.STORED:
        return raw
    if method is Method.DEFLATE:
        return _inflated(raw)
    if method is Method.BZIP2:
        return _decompressed(bz2.BZ2Decompressor(), raw)
    return _lzma(raw)


def _raw_bytes(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Iterator[bytes]:
    """The member as it lies in the archive: opened as one that is stored, and whose checksum isn't known."""
    stored = copy.copy(info)
    stored.compress_type, stored.file_size = zipfile.ZIP_STORED, info.compress_size
    del stored.CRC
    with archive.open(stored) as file:
        while data := file.read(SLICE):
            yield data


def _inflated(raw: Iterator[bytes]) -> Iterator[bytes]:
    inflater = Inflater(-zlib.MAX_WBITS)
    for data in raw:
        yield from inflater.fed(data)
        if inflater.finished:
            return


def _decompressed(
    engine: bz2.BZ2Decompressor | lzma.LZMADecompressor, raw: Iterator[bytes]
) -> Iterator[bytes]:
    for piece in raw:
        data = piece
        while not engine.eof:
            yield engine.decompress(data, CHUNK)
            data = b""
            if engine.needs_input:
                break


def _lzma(raw: Iterator[bytes]) -> Iterator[bytes]:
    """LZMA in a zip archive: version, length of the properties, properties, data (APPNOTE.TXT, 5.8.8)."""
    head = next(raw, b"")
    packed, dictionary = head[4:5], int.from_bytes(head[5:9], "little")
    if head[2:4] != b"\x05\x00" or len(head) < 9:
        raise lzma.LZMAError("its LZMA properties are broken")
    if dictionary > MAX_LZMA_DICTIONARY:
        raise lzma.LZMAError(f"its LZMA dictionary is larger than {MAX_LZMA_DICTIONARY} bytes")
    settings = {
        "id": lzma.FILTER_LZMA1, "dict_size": max(dictionary, 4096),
        "lc": packed[0] % 9, "lp": packed[0] // 9 % 5, "pb": packed[0] // 45,
    }  # fmt: skip
    engine = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=[settings])
    return _decompressed(engine, chain([head[9:]], raw))
