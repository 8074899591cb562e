from __future__ import annotations

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kafka.partitioner import DefaultPartitioner

from kintsugi.core.errors import NotAcknowledged
from kintsugi.pipeline import kafka_producer

SIX = set(range(6))
# What kafka-python's own partitioner asks of a cluster.
CLUSTER = SimpleNamespace(
    topics=lambda: {"trades"},
    partitions_for_topic=lambda _: SIX,
    available_partitions_for_topic=lambda _: SIX,
)


@given(st.binary(min_size=1, max_size=40))
def test_a_key_goes_where_kafkas_clients_send_it(key: bytes) -> None:
    theirs = DefaultPartitioner().partition("trades", key, key, None, None, CLUSTER)
    assert kafka_producer.partition_of(key, 6) == theirs


def test_brokers_that_nobody_reaches_are_an_error_and_nothing_waits_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in (
        ("bootstrap_timeout_ms", 500),
        ("max_block_ms", 300),
        ("delivery_timeout_ms", 600),
        ("request_timeout_ms", 300),
    ):
        monkeypatch.setitem(kafka_producer.PRODUCER, name, value)

    def send() -> None:
        with kafka_producer.open_producer(["127.0.0.1:1"]) as kafka:
            kafka.send("trades", key=b"AAPL", value=b"{}")
            kafka.flush(timeout=2)

    with pytest.raises(NotAcknowledged):
        send()
