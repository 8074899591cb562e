"""A large S3 object in pieces, each by a request of its own: a reader may pause between two of them.

An ingest that waits for the stream doesn't read. S3 and what lies before it close a connection on which nothing was
read for some seconds to minutes, so a body that is read slowly ends in an error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

PIECE = 8 << 20
CHUNK = 1 << 18


class Body(Protocol):
    """A response's body."""

    def read(self, amt: int) -> bytes: ...

    def close(self) -> None: ...


def chunks(body: Body, at: int, size: int, fetch: Callable[[int, int], bytes]) -> Iterator[bytes]:
    """The bytes ``at`` to ``size`` of an object, in chunks of at most CHUNK bytes.

    ``body``: of a request for all of it, of which ``at`` bytes have been read. Its first PIECE bytes are taken from it,
    so a small object needs one request. ``fetch``: returns the bytes from the first to before the second offset.
    """
    end = min(size, PIECE)
    piece = _read(body, max(0, end - at))
    body.close()
    while True:
        yield from (piece[start : start + CHUNK] for start in range(0, len(piece), CHUNK))
        at = max(at, end)
        if at >= size:
            return
        end = min(size, at + PIECE)
        piece = fetch(at, end)


def _read(body: Body, length: int) -> bytes:
    parts = []
    while length > 0 and (part := body.read(length)):
        parts.append(part)
        length -= len(part)
    return b"".join(parts)
