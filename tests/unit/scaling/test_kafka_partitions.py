"""Which partitions the moves wait for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from kafka.errors import KafkaTimeoutError

from kintsugi.core.errors import StepFailed
from kintsugi.scaling import kafka_partitions
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


@pytest.fixture
def lifted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Kafka with one partition that is to move; how often the limits were lifted."""
    calls: list[str] = []

    @contextmanager
    def open_admin(_: list[str]) -> Iterator[object]:
        yield object()

    monkeypatch.setattr(kafka_partitions, "open_admin", open_admin)
    monkeypatch.setattr(
        kafka_partitions, "read_partition_states", lambda _: {ONE: state((1, 2, 3), {1, 2, 3})}
    )
    monkeypatch.setattr(kafka_partitions, "lift_limits", lambda *_: calls.append("lifted"))
    return calls


def move(reason: str) -> None:
    kafka_partitions.move_replicas(["a:1"], STAYING, rate=1, say=lambda _: None, give_up=lambda: reason)


def test_moves_that_are_stopped_leave_no_limits(lifted: list[str]) -> None:
    with pytest.raises(StepFailed, match="kafka-3"):
        move("kafka-3 does not answer")
    assert lifted == ["lifted"]


def test_limits_that_stay_do_not_hide_why_the_moves_stopped(
    lifted: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise KafkaTimeoutError

    monkeypatch.setattr(kafka_partitions, "lift_limits", fail)
    with pytest.raises(StepFailed, match="kafka-3"):
        move("kafka-3 does not answer")
