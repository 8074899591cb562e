from __future__ import annotations

import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from kintsugi.pipeline.reconcile import disk_sets
from kintsugi.pipeline.reconcile.disk_sets import BUCKETS, Spill


@given(
    st.lists(st.tuples(st.binary(min_size=16, max_size=16), st.integers(-(2**63), 2**63 - 1)), max_size=300)
)
def test_every_record_comes_back_once_and_in_order(records: list[tuple[bytes, int]]) -> None:
    held = Spill("q")
    for record in records:
        held.add(*record)
    found = [record for number in range(BUCKETS) for record in held.bucket(number)]
    held.close()
    assert sorted(found) == sorted(records)
    assert held.count == len(records)
    assert found == sorted(records, key=lambda record: record[0][0] % BUCKETS)


def test_memory_is_bounded_and_what_was_written_can_be_read_between_writes() -> None:
    held = Spill("q")
    tracemalloc.start()
    for number in range(60_000):
        held.add(number.to_bytes(16, "little"), number)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * BUCKETS * disk_sets.BUFFER + (1 << 20)
    before = list(held.bucket(3))
    held.add(bytes([3, *[0] * 15]), -1)
    assert list(held.bucket(3)) == [*before, (bytes([3, *[0] * 15]), -1)]
    assert sum(1 for number in range(BUCKETS) for _ in held.bucket(number)) == 60_001
    held.close()
