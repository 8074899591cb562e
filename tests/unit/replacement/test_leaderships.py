"""What the other brokers' metadata says of a broker that is to be stopped."""

from __future__ import annotations

import pytest

from kintsugi.replacement.leaderships import led_partitions, out_of_sync_without
from kintsugi.wire.kafka import Replicas

ALL = frozenset({1, 2, 3})


def partition(leader: int = 1, assigned: frozenset[int] = ALL, in_sync: frozenset[int] = ALL) -> Replicas:
    return Replicas(leader, assigned, in_sync, frozenset())


def test_a_broker_leads_while_one_other_broker_still_says_so() -> None:
    early = {"trades-0": partition(leader=2), "trades-1": partition(leader=3)}
    late = {"trades-0": partition(leader=1), "trades-1": partition(leader=3)}
    assert led_partitions(2, [late, early]) == ["trades-0"]
    assert led_partitions(2, [late]) == []


@pytest.mark.parametrize(
    ("seen", "behind"),
    [
        (partition(), []),
        (partition(in_sync=frozenset({1, 2})), ["trades-0"]),
        (partition(in_sync=frozenset({1, 3})), []),  # the node itself is behind: it takes nothing with it
        (partition(assigned=frozenset({1, 3}), in_sync=frozenset({1})), []),  # none of its partitions
        (partition(assigned=frozenset({2}), in_sync=frozenset({2})), []),  # the last copy: a guard's business
    ],
)
def test_every_other_replica_must_be_in_sync(seen: Replicas, behind: list[str]) -> None:
    assert out_of_sync_without(2, [{"trades-0": seen}]) == behind
    assert out_of_sync_without(2, [{"trades-0": partition()}, {"trades-0": seen}]) == behind
