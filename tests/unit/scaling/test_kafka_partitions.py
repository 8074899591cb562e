"""Which partitions the moves wait for."""

from __future__ import annotations

import pytest

from kintsugi.scaling.kafka_partitions import PartitionState, hosted_on, open_partitions
from kintsugi.scaling.partition_moves import Brokers

STAYING = Brokers({1: None, 3: None, 4: None})
ONE = ("trades", 0)


def state(replicas: tuple[int, ...], in_sync: set[int], *, moving: bool = False) -> PartitionState:
    return PartitionState(replicas, frozenset(in_sync), moving)


@pytest.mark.parametrize(
    ("seen", "asked", "waits"),
    [
        (state((1, 3, 4), {1, 3, 4}), {}, False),
        (state((1, 3, 4), {1, 3}), {}, True),
        (state((1, 3, 4), {1, 3, 4}, moving=True), {}, True),
        (state((1, 2, 3), {1, 3}), {}, False),  # the broker that leaves is dead
        (state((1, 2, 3), {1, 2, 3}), {ONE: (1, 3, 4)}, True),  # described by a broker that is behind
        (state((4, 3, 1), {1, 3, 4}), {ONE: (1, 3, 4)}, False),
        (state((1, 2, 3, 4), {1, 2, 3, 4}), {}, True),
    ],
)
def test_a_move_begins_only_when_nothing_is_waited_for(
    seen: PartitionState, asked: dict[tuple[str, int], tuple[int, ...]], waits: bool
) -> None:
    assert bool(open_partitions({ONE: seen}, STAYING, asked)) is waits


def test_a_broker_hosts_what_it_has_or_is_in_sync_with() -> None:
    states = {ONE: state((1, 3, 4), {1, 2, 3}), ("trades", 1): state((1, 3, 4), {1, 3, 4})}
    assert hosted_on(states, 2) == ["trades-0"]
    assert hosted_on(states, 4) == ["trades-0", "trades-1"]
