"""The logs of an incident in S3, read with a bound.

A node writes its logs, and gzip makes a thousand bytes out of one: what an object holds says nothing of what it costs.
So it is inflated piece by piece, only its end is kept, and no more than INFLATED_BYTES are inflated.
"""

from __future__ import annotations

import zlib

PACKED_BYTES = 8 * 2**20
"""So much of an object is read. `kintsugi.recovery.report` archives at most 5 MiB of a log, before compression."""
INFLATED_BYTES = 16 * 2**20
TAIL_BYTES = 256 * 1024
LINE_LENGTH = 2000
CUT = "(The end of this log was not read: it is larger than any log that a repair archives.)"
_PIECE = 64 * 1024


def last_lines(body: bytes, count: int, width: int = LINE_LENGTH) -> list[str]:
    """Return the last lines of a gzipped log, each cut to ``width``; of a damaged one those of its readable part. Pure.

    Where there is more than INFLATED_BYTES, the last line says so.
    """
    engine = zlib.decompressobj(wbits=31)
    tail, inflated, rest = b"", 0, body
    while rest and not engine.eof and inflated <= INFLATED_BYTES:
        try:
            piece = engine.decompress(rest, _PIECE)
        except zlib.error:
            break
        if not piece and not engine.unconsumed_tail:
            break
        inflated += len(piece)
        tail, rest = (tail + piece)[-TAIL_BYTES:], engine.unconsumed_tail
    lines = [line[:width] for line in tail.decode(errors="replace").splitlines()[-count:]]
    return [*lines, CUT] if inflated > INFLATED_BYTES else lines
