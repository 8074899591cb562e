"""A delivered file that is only in memory, for tests that read thousands."""

from __future__ import annotations

import io
from collections.abc import Generator

from kintsugi.trades import sources


class MemorySource:
    """``name``, ``size`` and bytes, as `sources.Source` wants them."""

    def __init__(self, body: bytes, name: str = "trades/f.csv") -> None:
        self.name, self.size, self._body = name, len(body), body

    def chunks(self) -> Generator[bytes, None, None]:
        for start in range(0, self.size, sources.CHUNK):
            yield self._body[start : start + sources.CHUNK]

    def seekable(self) -> io.RawIOBase:
        return sources._Ranges(lambda start, end: self._body[start:end], self.size)
