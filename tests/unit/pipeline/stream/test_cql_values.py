from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

import pyarrow as pa
import pytest
from cassandra import cqltypes
from hypothesis import given, settings
from hypothesis import strategies as st

from kintsugi.core.errors import KintsugiError
from kintsugi.pipeline.stream import cql_values

TYPES = {
    "double": (cqltypes.DoubleType, pa.float64()), "bigint": (cqltypes.LongType, pa.int64()),
    "timestamp": (cqltypes.DateType, pa.int64()), "int": (cqltypes.Int32Type, pa.int32()),
    "smallint": (cqltypes.ShortType, pa.int32()), "text": (cqltypes.UTF8Type, pa.string()),
    "boolean": (cqltypes.BooleanType, pa.bool_()), "date": (cqltypes.SimpleDateType, pa.string()),
    "blob": (cqltypes.BytesType, pa.string()),
}  # fmt: skip


def encoded(kind: str, values: list[Any]) -> list[Any]:
    batch = pa.RecordBatch.from_pydict({"it": pa.array(values, TYPES[kind][1])})
    return [row[0] for row in cql_values.encode_rows(batch, [("it", kind)])]


@pytest.mark.parametrize(
    ("kind", "values", "drivers"),
    [
        ("double", st.floats(), lambda value: value),
        ("bigint", st.integers(-(2**63), 2**63 - 1), lambda value: value),
        ("timestamp", st.integers(-(2**40), 2**40), lambda value: value),
        ("int", st.integers(-(2**31), 2**31 - 1), lambda value: value),
        ("smallint", st.integers(-(2**15), 2**15 - 1), lambda value: value),
        ("text", st.text(), lambda value: value),
        ("boolean", st.booleans(), lambda value: value),
        ("date", st.dates().map(str), date.fromisoformat),
        ("blob", st.binary().map(bytes.hex), bytes.fromhex),
    ],
)
def test_a_value_is_encoded_as_the_driver_does(kind, values, drivers) -> None:
    @settings(deadline=None)  # how long it takes is not what is tested
    @given(st.lists(st.none() | values, min_size=1))
    def same(given_values: list[Any]) -> None:
        expected = [None if v is None else TYPES[kind][0].serialize(drivers(v), 4) for v in given_values]
        assert encoded(kind, given_values) == expected

    same()


def test_a_slice_of_an_arrow_batch_is_encoded_from_its_own_beginning() -> None:
    batch = pa.RecordBatch.from_pydict({"n": pa.array([1, None, 3, 4]), "t": pa.array(["a", "b", None, "d"])})
    rows = cql_values.encode_rows(batch.slice(1, 2), [("t", "text"), ("n", "int")])
    assert rows == [(b"b", None), (None, b"\0\0\0\3")]


def test_a_number_too_large_for_its_type_is_an_error_that_names_the_column() -> None:
    with pytest.raises(KintsugiError, match=r"column it .*smallint"):
        encoded("smallint", [1, 2**15])


def test_a_type_without_an_encoding_is_an_error_that_names_the_column() -> None:
    batch = pa.RecordBatch.from_pydict({"it": pa.array(["x"])})
    with pytest.raises(KintsugiError, match=r"column it .*inet"):
        cql_values.encode_rows(batch, [("it", "inet")])


def test_a_timestamp_means_what_it_says() -> None:
    (wire,) = encoded("timestamp", [1_728_400_000_123])
    assert cqltypes.DateType.deserialize(wire, 4).replace(tzinfo=UTC) == datetime(
        2024, 10, 8, 15, 6, 40, 123_000, tzinfo=UTC
    )


def test_dates_are_what_the_driver_puts_on_the_wire() -> None:
    wire = cqltypes.SimpleDateType.serialize(cql_values.cassandra_date("2024-10-08"), 4)
    assert cqltypes.SimpleDateType.deserialize(wire, 4).date() == date(2024, 10, 8)
