"""Clusters of which too few disks are left, on real servers: refused while they aren't, recreated when they are."""

from __future__ import annotations

from typing import Any

import pytest

from kintsugi.core.errors import GuardRefused
from kintsugi.core.fleet import Role
from kintsugi.core.settings import KAFKA_PORT, TOPIC
from kintsugi.environments.local import node as nodes
from kintsugi.installation import recreate_cluster
from kintsugi.installation.progress import Progress
from kintsugi.operations.context import Context
from kintsugi.pipeline.cassandra_session import session_scope

pytestmark = pytest.mark.timeout(900)


def lose(context: Context, *names: str) -> None:
    for name in names:
        nodes.power_off(context.settings, name, lose_volume=True)


def form(context: Context, role: Role) -> None:
    recreate_cluster.check(context.settings, role)
    recreate_cluster.form(context, role, recreate_cluster.concerned(context, role), Progress())
    with pytest.raises(GuardRefused, match=r"the disk of .* is there"):
        recreate_cluster.check(context.settings, role)


def test_cassandra_without_any_disk(context: Context) -> None:
    addresses = [node.address for node in context.fleet.of(Role.CASSANDRA)]
    lose(context, "cassandra-1", "cassandra-2")
    with pytest.raises(GuardRefused, match="the disk of cassandra-3 is there"):
        recreate_cluster.check(context.settings, Role.CASSANDRA)
    lose(context, "cassandra-3")
    form(context, Role.CASSANDRA)
    with session_scope(addresses) as session:
        session.execute("CREATE TABLE written (id int PRIMARY KEY)")
        session.execute("INSERT INTO written (id) VALUES (1)")
        assert session.execute("SELECT count(*) FROM trade").one()[0] == 0
        assert {host.address for host in session.cluster.metadata.all_hosts()} == set(addresses)


def test_kafka_with_one_disk_of_three(context: Context) -> None:
    brokers = context.fleet.endpoints(Role.KAFKA, KAFKA_PORT)
    send(brokers, b"before")
    lose(context, "kafka-1")
    with pytest.raises(GuardRefused, match="the disk of kafka-2, kafka-3 is there"):
        recreate_cluster.check(context.settings, Role.KAFKA)
    lose(context, "kafka-3")
    form(context, Role.KAFKA)
    assert send(brokers, b"after") == 0, "a new topic begins at zero"


def send(brokers: list[str], value: bytes) -> int:
    """The offset of a record with acks=all in the topic's first partition."""
    from kafka import KafkaProducer

    producer = KafkaProducer(bootstrap_servers=brokers, acks="all")
    try:
        sent: Any = producer.send(TOPIC, value=value, partition=0).get(30)
    finally:
        producer.close()
    return int(sent.offset)
