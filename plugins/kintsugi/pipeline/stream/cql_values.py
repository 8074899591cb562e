"""Arrow columns → the values of Cassandra's native protocol, a column at a time.

The driver's own binding looks each value up and packs it alone: 25 µs for a trade of 27 columns. Whole columns
turned to big-endian bytes and sliced cost a fifth of that. The encodings are those of the native protocol's
specification (version 4, section 6): numbers big-endian, a date as days since 2^31 days before 1970, a time
stamp as milliseconds since 1970, None for null.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import date
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from kintsugi.core.errors import KintsugiError

if TYPE_CHECKING:
    from pyarrow import Array, RecordBatch

EPOCH = date(1970, 1, 1).toordinal() - 2**31  # Cassandra counts days from 2^31 days before 1970
FIXED = {
    "double": ">f8",
    "float": ">f4",
    "bigint": ">i8",
    "timestamp": ">i8",
    "int": ">i4",
    "smallint": ">i2",
}

Value = bytes | None
Encoder = Callable[["Array"], list[Value]]


def encode_rows(batch: RecordBatch, columns: Sequence[tuple[str, str]]) -> list[tuple[Value, ...]]:
    """The rows of an Arrow batch as tuples of encoded values, in the order of ``columns`` (name, CQL type).

    A ``date`` comes as ``YYYY-MM-DD``, a ``blob`` as hex digits or bytes. Raises KintsugiError, naming the column, for
    a type without an encoding and for a number that its type can't hold.
    """
    encoded = []
    for name, kind in columns:
        try:
            encoded.append(ENCODERS[kind](batch.column(name)))
        except (KeyError, ValueError, OverflowError) as error:
            raise KintsugiError(f"column {name} can't be stored as {kind}: {error!r}") from error
    return list(zip(*encoded, strict=True))


@lru_cache(maxsize=65536)
def cassandra_date(text: str) -> int:
    """``YYYY-MM-DD`` → days as Cassandra's type ``date`` counts them; the driver takes this number as it is."""
    return date.fromisoformat(text).toordinal() - EPOCH


@lru_cache(maxsize=65536)
def _encode_date(text: str) -> bytes:
    return cassandra_date(text).to_bytes(4, "big")


def _encode_dates(column: Array) -> list[Value]:
    return [None if text is None else _encode_date(text) for text in column.to_pylist()]


def _encode_texts(column: Array) -> list[Value]:
    import pyarrow as pa

    found: list[Value] = column.cast(pa.binary()).to_pylist()
    return found


def _encode_blobs(column: Array) -> list[Value]:
    return [bytes.fromhex(value) if isinstance(value, str) else value for value in column.to_pylist()]


def _encode_booleans(column: Array) -> list[Value]:
    return [None if value is None else b"\x01" if value else b"\x00" for value in column.to_pylist()]


def _number_encoder(code: str) -> Encoder:
    """The encoder of a number with a width."""
    width = int(code[-1])

    def encode(column: Array) -> list[Value]:
        import pyarrow.compute as pc

        nulls = column.null_count
        given = (pc.fill_null(column, 0) if nulls else column).to_numpy(zero_copy_only=False)
        packed = given.astype(code)
        if given.dtype.kind == "i" and (packed != given).any():
            raise OverflowError(f"a number needs more than {width} bytes")
        raw = packed.tobytes()
        values: list[Value] = [raw[at : at + width] for at in range(0, len(raw), width)]
        if nulls:
            for index in np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False)).tolist():
                values[index] = None
        return values

    return encode


ENCODERS: dict[str, Encoder] = {
    **{kind: _number_encoder(code) for kind, code in FIXED.items()},
    "text": _encode_texts, "blob": _encode_blobs, "boolean": _encode_booleans, "date": _encode_dates,
}  # fmt: skip
