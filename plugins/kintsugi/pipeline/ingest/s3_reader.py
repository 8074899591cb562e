"""Read a large S3 object in pieces, each by a request of its own, so that the reader can pause between two of them.

An ingest that waits for the stream doesn't read. S3 and the proxies before it close a connection on which nothing is
read for seconds or minutes, so a body that is read slowly ends in an error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

PIECE = 8 << 20
CHUNK = 1 << 18


class Body(Protocol):
    """The body of a response."""

    def read(self, amt: int) -> bytes: ...

    def close(self) -> None: ...


def read_chunks(body: Body, offset: int, size: int, fetch: Callable[[int, int], bytes]) -> Iterator[bytes]:
    """Yield the bytes from ``offset`` to ``size`` of an object, in chunks of at most CHUNK bytes.

    ``body``: the body of a request for the whole object, of which ``offset`` bytes have been read. The first PIECE
    bytes are read from it, so a small object needs one request. ``fetch``: returns the bytes between two offsets.
    """
    end = min(size, PIECE)
    piece = _read_body(body, max(0, end - offset))
    body.close()
    while True:
        yield from (piece[start : start + CHUNK] for start in range(0, len(piece), CHUNK))
        offset = max(offset, end)
        if offset >= size:
            return
        end = min(size, offset + PIECE)
        piece = fetch(offset, end)


def _read_body(body: Body, length: int) -> bytes:
    parts = []
    while length > 0 and (part := body.read(length)):
        parts.append(part)
        length -= len(part)
    return b"".join(parts)
