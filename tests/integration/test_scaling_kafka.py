"""Real Kafka brokers, three of them, then four, then three again, while records are written with acks=all.

Brokers are started and stopped by the test as Ansible and supervisord would; what moves partitions and voters, and what
checks and unregisters a broker that leaves, is the product's. In between the one who moves is killed and goes on.
"""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from kintsugi.core.errors import GuardRefused, StepFailed
from kintsugi.core.fleet import Fleet, Node, Role
from kintsugi.core.settings import KAFKA_CONTROLLER_PORT, KAFKA_PORT
from kintsugi.environments.local.node_identity import kafka_cluster_id, kafka_directory_id
from kintsugi.operations.context import Context
from kintsugi.operations.kafka_voters import voter_ids
from kintsugi.operations.verification_kafka import verify_kafka
from kintsugi.scaling import clusters, kafka_partitions
from kintsugi.scaling.kafka_partitions import (
    PartitionState,
    hosted_on,
    move_replicas,
    open_admin,
    read_partition_states,
)
from kintsugi.scaling.partition_moves import Brokers
from kintsugi.wire.kafka_quorum import find_leader
from tests.installations import installation
from tests.integration import servers

NODES = [Node(f"kafka-{n}", Role.KAFKA, f"127.58.1.{n}", 2222) for n in (1, 2, 3, 4)]
NEW = NODES[3]
TOPIC = "records"
pytestmark = pytest.mark.timeout(900)

RATE = 50 * 2**20
JAVA = [
    "java",
    "-Xmx256m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-cp",
    f"{servers.JARS('kafka')}/*",
]


@dataclass
class Cluster:
    """The running brokers by node name, and what was said while they changed."""

    folder: Path
    context: Context
    by_name: dict[str, servers.Server] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)
    # A server dies with the thread that started it, so the threads live as long as the servers.
    pool: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(4))

    def start(self, nodes: Sequence[Node], *, form: bool = False) -> None:
        started = self.pool.map(lambda node: self._start(node, form=form), nodes)
        for node, server in zip(nodes, started, strict=True):
            self.by_name[node.name] = server

    def _start(self, node: Node, *, form: bool) -> servers.Server:
        """As the role kafka does: the first three name each other as voters, a later one joins as an observer."""
        settings, folder = self.context.settings, self.folder / node.name
        folder.mkdir(parents=True, exist_ok=True)
        properties = folder / "server.properties"
        properties.write_text(
            "\n".join(
                [
                    "process.roles=broker,controller", f"node.id={node.index}",
                    "controller.quorum.bootstrap.servers=" + ",".join(f"{n.address}:9093" for n in NODES),
                    f"listeners=PLAINTEXT://{node.address}:9092,CONTROLLER://{node.address}:9093",
                    f"advertised.listeners=PLAINTEXT://{node.address}:9092,CONTROLLER://{node.address}:9093",
                    "controller.listener.names=CONTROLLER", f"log.dirs={folder / 'data'}",
                    "default.replication.factor=3", "min.insync.replicas=2", "offsets.topic.replication.factor=3",
                    "offsets.topic.num.partitions=3", "auto.create.topics.enable=false",
                    "broker.session.timeout.ms=20000", "broker.heartbeat.interval.ms=500",
                    # On a machine that is busy with other tests, a quorum with the defaults elects leaders for ever.
                    "controller.quorum.fetch.timeout.ms=15000",
                    "controller.quorum.election.timeout.ms=5000",
                    "controller.quorum.request.timeout.ms=10000",
                ]
            )
        )  # fmt: skip
        voters = ",".join(
            f"{n.index}@{n.address}:9093:{kafka_directory_id(settings, n.name)}" for n in NODES[:3]
        )
        how = ["--initial-controllers", voters] if form else ["--no-initial-controllers"]
        subprocess.run(
            [*JAVA, "kafka.tools.StorageTool", "format", "-t", kafka_cluster_id(settings), "-c", str(properties),
             *how],
            check=True, capture_output=True,
        )  # fmt: skip
        command = [*JAVA, "kafka.Kafka", str(properties)]
        return servers.launch(node.name, command, folder, node.address, KAFKA_PORT, seconds=120)

    def stop(self, node: Node) -> bool:
        server = self.by_name.pop(node.name, None)
        if server is not None:
            server.stop()
        return server is not None

    def admin(self) -> Any:
        return open_admin([f"{node.address}:{KAFKA_PORT}" for node in NODES[:3]])

    def states(self) -> dict[tuple[str, int], PartitionState]:
        with self.admin() as admin:
            return read_partition_states(admin)

    def voters(self) -> set[int]:
        _, quorum = find_leader([f"{node.address}:{KAFKA_CONTROLLER_PORT}" for node in NODES])
        return voter_ids(quorum)


class Writer(threading.Thread):
    """Writes numbered records with acks=all until it is stopped; ``acknowledged`` has those that Kafka took."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.stopping = threading.Event()
        self.acknowledged: set[int] = set()
        self.failed: list[str] = []

    def run(self) -> None:
        from kafka import KafkaProducer

        producer = KafkaProducer(
            bootstrap_servers=[f"{node.address}:{KAFKA_PORT}" for node in NODES[:3]],
            acks="all", linger_ms=5, request_timeout_ms=30_000, delivery_timeout_ms=200_000,
        )  # fmt: skip
        number = 0
        while not self.stopping.wait(0.01):
            sent = producer.send(TOPIC, str(number).encode(), key=str(number % 50).encode())
            sent.add_callback(lambda _, n=number: self.acknowledged.add(n))
            sent.add_errback(lambda error: self.failed.append(repr(error)))
            number += 1
        producer.flush(60)
        producer.close()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("scaling")
    settings = installation(folder, "127.58")
    fleet = replace(settings.fleet, nodes={node.name: node for node in NODES})
    context = Context(settings=settings, fleet=fleet, store=None)  # type: ignore[arg-type]
    made = Cluster(folder, context)
    try:
        made.start(NODES[:3], form=True)
        with made.admin() as admin:
            admin.create_topics({TOPIC: {"num_partitions": 6, "replication_factor": 3}})
        yield made
    finally:
        servers.stop_all(list(made.by_name.values()))
        made.pool.shutdown()


@pytest.fixture(scope="module")
def writer(cluster: Cluster) -> Iterator[Writer]:
    thread = Writer()
    thread.start()
    servers.wait_until(lambda: len(thread.acknowledged) > 100, 60, "records are written")
    yield thread
    thread.stopping.set()
    thread.join(90)


def load_of(states: dict[tuple[str, int], PartitionState], topic: str) -> dict[int, int]:
    counts = dict.fromkeys((node.index for node in NODES), 0)
    for (name, _), state in states.items():
        for broker in state.replicas if name == topic else ():
            counts[broker] += 1
    return counts


def test_a_new_broker_gets_its_share_although_the_moves_were_killed(cluster: Cluster, writer: Writer) -> None:
    verify_kafka(
        three(cluster.context.fleet), NODES[0], 60
    )  # makes its topic for three brokers, as a recovery does
    cluster.start([NEW])
    brokers = Brokers({node.index: None for node in NODES})
    looks = iter([None, "killed"])  # after the first two partitions of four at least were asked for
    with pytest.raises(StepFailed, match="killed"):
        move_replicas(
            [f"{NODES[0].address}:{KAFKA_PORT}"], brokers, rate=RATE, say=cluster.said.append,
            give_up=lambda: next(looks),
        )  # fmt: skip
    clusters.spread_partitions(cluster.context, [], RATE, cluster.said.append, held)
    states = cluster.states()
    load = load_of(states, TOPIC)
    assert max(load.values()) - min(load.values()) <= 2
    assert sum(load.values()) == 18
    assert all(set(state.replicas) == state.in_sync for state in states.values())
    assert cluster.voters() == {1, 2, 3}, "a fourth voter would make the quorum no safer"
    assert not limits(cluster), "no bound of the rate is left"
    assert NEW.name in verify_kafka(cluster.context.fleet, NEW, 60)
    assert not writer.failed


def held() -> None:
    """The step holds the lease of the fleet."""


def test_a_broker_that_holds_replicas_is_not_stopped(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped: list[Node] = []
    monkeypatch.setattr(clusters, "stop_service", lambda _, node, __: stopped.append(node))
    with pytest.raises(GuardRefused, match="replicas"):
        clusters.stop_broker(cluster.context, NEW, cluster.said.append, held)
    assert not stopped


def test_a_voter_leaves_and_the_observer_takes_its_place(
    cluster: Cluster, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of the first three goes: the fourth becomes a voter before the quorum loses one."""
    leaving = NODES[1]
    monkeypatch.setattr(clusters, "stop_service", lambda _, node, __: cluster.stop(node))
    clusters.spread_partitions(cluster.context, [leaving], RATE, cluster.said.append, held)
    assert cluster.voters() == {1, 3, 4}
    assert not hosted_on(cluster.states(), leaving.index)
    clusters.stop_broker(cluster.context, leaving, cluster.said.append, held)
    clusters.stop_broker(cluster.context, leaving, cluster.said.append, held)  # as after a kill
    with cluster.admin() as admin:
        known = {broker["broker_id"] for broker in admin.describe_cluster()["brokers"]}
    assert known == {1, 3, 4}
    assert all(set(state.replicas) == state.in_sync for state in cluster.states().values())
    assert not writer.failed


def test_no_acknowledged_record_is_lost(cluster: Cluster, writer: Writer) -> None:
    from kafka import KafkaConsumer, TopicPartition

    before = len(writer.acknowledged)
    servers.wait_until(lambda: len(writer.acknowledged) > before + 100, 60, "records are still written")
    writer.stopping.set()
    writer.join(90)
    assert not writer.failed
    consumer = KafkaConsumer(
        bootstrap_servers=[f"{NODES[0].address}:{KAFKA_PORT}"], auto_offset_reset="earliest",
        enable_auto_commit=False,
    )  # fmt: skip
    parts = [TopicPartition(TOPIC, number) for number in range(6)]
    consumer.assign(parts)
    ends = consumer.end_offsets(parts)
    consumer.seek_to_beginning(*parts)
    read: list[int] = []
    deadline = time.monotonic() + 60
    while any(consumer.position(part) < ends[part] for part in parts) and time.monotonic() < deadline:
        read += [int(record.value) for batch in consumer.poll(1000).values() for record in batch]
    consumer.close()
    assert not writer.acknowledged - set(read)
    assert len(read) == len(set(read)), "a record is there twice"


def three(fleet: Fleet) -> Fleet:
    return replace(fleet, nodes={node.name: node for node in NODES[:3]})


def limits(cluster: Cluster) -> list[str]:
    """The bounds of the rate that are in force."""
    from kafka.admin import ConfigResource

    with cluster.admin() as admin:
        wanted = [ConfigResource("TOPIC", TOPIC)] + [ConfigResource("BROKER", str(n.index)) for n in NODES]
        answer = admin.describe_configs(wanted)
    text = str(answer)
    return [key for key in (*kafka_partitions.RATES, *kafka_partitions.REPLICAS) if f"'{key}'" in text]
