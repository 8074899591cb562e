from __future__ import annotations

from kintsugi.pipeline.stream import cassandra_sink


def test_rows_are_grouped_by_the_partition_key_and_keep_their_order() -> None:
    rows = [("A", 1, 1, "x"), ("B", 1, 1, "y"), ("A", 1, 1, "z"), ("A", 2, 1, "w")]
    assert cassandra_sink.group_by_partition(rows, 3) == [[rows[0], rows[2]], [rows[1]], [rows[3]]]
