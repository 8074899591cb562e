"""Sets of trades that are larger than memory: records on disk, divided by identity so that two sets can be compared.

An identity is a digest, so its first byte divides trades evenly into buckets. Records with the same identity are in
the same bucket of every Spill. One bucket at a time fits into memory: of 29 million trades it holds half a million.
"""

from __future__ import annotations

import struct
import tempfile
from collections.abc import Iterator
from typing import IO, Any

BUCKETS = 64
BUFFER = 1 << 14  # bytes of a bucket that are kept in memory before they are written


class Spill:
    """Records that begin with an identity (16 bytes); ``fields``: the other fields, in the notation of `struct`.

    The files have no names, so they are deleted when the process ends, however it ends.
    """

    def __init__(self, fields: str = "") -> None:
        self._record = struct.Struct(f"<16s{fields}")
        self._buffers = [bytearray() for _ in range(BUCKETS)]
        self._files: list[IO[bytes] | None] = [None] * BUCKETS
        self.count = 0

    def add(self, identity: bytes, *values: int) -> None:
        """Append one record."""
        bucket = identity[0] % BUCKETS
        buffer = self._buffers[bucket]
        buffer += self._record.pack(identity, *values)
        self.count += 1
        if len(buffer) >= BUFFER:
            file = self._files[bucket]
            if file is None:
                file = self._files[bucket] = tempfile.TemporaryFile()  # noqa: SIM115 - see close
            file.write(buffer)
            buffer.clear()

    def bucket(self, number: int) -> Iterator[tuple[Any, ...]]:
        """Yield the records of one bucket, in the order in which they were added."""
        file = self._files[number]
        if file is not None:
            file.seek(0)
            while block := file.read(self._record.size * 4096):
                yield from self._record.iter_unpack(block)
            file.seek(0, 2)
        yield from self._record.iter_unpack(bytes(self._buffers[number]))

    def close(self) -> None:
        for file in self._files:
            if file is not None:
                file.close()
