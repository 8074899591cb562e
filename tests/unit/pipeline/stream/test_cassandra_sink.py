from __future__ import annotations

from datetime import date

from kintsugi.pipeline.stream import cassandra_sink


def test_rows_are_grouped_by_the_partition_key_and_keep_their_order() -> None:
    rows = [("A", 1, 1, "x"), ("B", 1, 1, "y"), ("A", 1, 1, "z"), ("A", 2, 1, "w")]
    assert cassandra_sink.by_partition(rows, 3) == [[rows[0], rows[2]], [rows[1]], [rows[3]]]


def test_dates_are_what_the_driver_puts_on_the_wire() -> None:
    from cassandra.cqltypes import SimpleDateType

    wire = SimpleDateType.serialize(cassandra_sink.cassandra_date("2024-10-08"), 4)
    assert SimpleDateType.deserialize(wire, 4).date() == date(2024, 10, 8)
