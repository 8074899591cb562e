"""The column ``match`` of a cancel in Python: what Spark's ``xxhash64`` makes of it in `columns.match_key`.

The stream computes it with Spark; a repair of the table ``cancel`` has no Spark. xxHash 64 as its specification has it
(github.com/Cyan4973/xxHash, doc/xxhash_spec.md), chained over the columns as Spark does, from seed 42.
"""

from __future__ import annotations

import struct
from functools import reduce

from kintsugi.pipeline.stream.derived_records import MatchColumns

_P1, _P2, _P3, _P4, _P5 = (
    0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5,
)  # fmt: skip
_MASK = 2**64 - 1
_SEED = 42
_STRIPE = 32  # bytes; the columns are shorter, so the part of the algorithm for longer input isn't needed


def match_number(columns: MatchColumns) -> int:
    """What a trade and its cancel share, as a signed number of 64 bits. Raises ValueError for a column of 32 bytes."""
    values: tuple[str | float, ...] = columns
    number = reduce(lambda seed, value: _hash_bytes(_encode_column(value), seed), values, _SEED)
    return number - 2**64 if number >= 2**63 else number


def _encode_column(value: str | float) -> bytes:
    if isinstance(value, str):
        return value.encode()
    return struct.pack("<i", value) if isinstance(value, int) else struct.pack("<d", value + 0.0)


def _hash_bytes(data: bytes, seed: int) -> int:
    if len(data) >= _STRIPE:
        raise ValueError(f"{data!r} is too long for a column of a trade")
    found = (seed + _P5 + len(data)) & _MASK
    at = 0
    for at in range(0, len(data) - 7, 8):
        (lane,) = struct.unpack_from("<Q", data, at)
        found = (_rotate_left(found ^ _rotate_left(lane * _P2, 31) * _P1 & _MASK, 27) * _P1 + _P4) & _MASK
    at = len(data) // 8 * 8
    if len(data) - at >= 4:
        (word,) = struct.unpack_from("<I", data, at)
        found = (_rotate_left(found ^ word * _P1 & _MASK, 23) * _P2 + _P3) & _MASK
        at += 4
    for byte in data[at:]:
        found = _rotate_left(found ^ byte * _P5 & _MASK, 11) * _P1 & _MASK
    found = (found ^ found >> 33) * _P2 & _MASK
    found = (found ^ found >> 29) * _P3 & _MASK
    return found ^ found >> 32


def _rotate_left(value: int, bits: int) -> int:
    value &= _MASK
    return (value << bits | value >> 64 - bits) & _MASK
