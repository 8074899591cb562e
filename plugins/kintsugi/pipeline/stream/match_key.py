"""The column ``match`` of a cancel, computed in Python: the same as Spark's ``xxhash64`` in `columns.match_key`.

The stream computes it with Spark; a repair of the table ``cancel`` has no Spark. It is xxHash 64 by its specification
(github.com/Cyan4973/xxHash, doc/xxhash_spec.md). As in Spark, the hash of a column is the seed of the next one, and the
first seed is 42.
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
_STRIPE = 32  # bytes; the columns are shorter, so the algorithm's part for longer input isn't needed


def match_number(columns: MatchColumns) -> int:
    """Return the hash as a signed number of 64 bits; raises ValueError for a column of 32 bytes or more."""
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
    digest = (seed + _P5 + len(data)) & _MASK
    for offset in range(0, len(data) - 7, 8):
        (lane,) = struct.unpack_from("<Q", data, offset)
        digest = (_rotate_left(digest ^ _rotate_left(lane * _P2, 31) * _P1 & _MASK, 27) * _P1 + _P4) & _MASK
    offset = len(data) // 8 * 8
    if len(data) - offset >= 4:
        (word,) = struct.unpack_from("<I", data, offset)
        digest = (_rotate_left(digest ^ word * _P1 & _MASK, 23) * _P2 + _P3) & _MASK
        offset += 4
    for byte in data[offset:]:
        digest = _rotate_left(digest ^ byte * _P5 & _MASK, 11) * _P1 & _MASK
    digest = (digest ^ digest >> 33) * _P2 & _MASK
    digest = (digest ^ digest >> 29) * _P3 & _MASK
    return digest ^ digest >> 32


def _rotate_left(value: int, bits: int) -> int:
    value &= _MASK
    return (value << bits | value >> 64 - bits) & _MASK
