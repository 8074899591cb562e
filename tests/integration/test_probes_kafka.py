"""Three real Kafka brokers: what is found of a dead, a hung and a paused one, and how soon."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest

from kintsugi.airflow_ext.triggers.node_health import NodeHealthTrigger
from kintsugi.core.fleet import ControlPlaneEndpoints, Fleet, Node, Role
from kintsugi.core.observation import Finding, PeerOpinion, ProbeResult, Symptom
from kintsugi.core.settings import CONSUMER_GROUP, TOPIC
from kintsugi.operations import readiness
from kintsugi.operations.verification_kafka import verify_kafka
from kintsugi.probes.peers import ask_peers
from kintsugi.probes.protocols import probe_node
from kintsugi.probes.stream_progress import read_offsets
from kintsugi.recovery.guard_facts import guard_facts, kafka_facts
from tests.integration import servers

pytestmark = pytest.mark.timed

NODES = [Node(f"kafka-{n}", Role.KAFKA, f"127.35.41.{n}", 2222) for n in (1, 2, 3)]
FLEET = Fleet(
    "test", "local", ControlPlaneEndpoints("127.35.41.9", 1, 2, 3, 4), {node.name: node for node in NODES}
)
VOTERS = {node.index: node.address for node in NODES}


@dataclass
class Brokers:
    """The running brokers by node name."""

    folder: Path
    by_name: dict[str, servers.Server]
    # A server dies with the thread that started it, so the threads live as long as the servers.
    pool: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(3))

    def start(self, *nodes: Node) -> None:
        """Start them at once: a broker alone has no quorum and does not listen."""
        for node, server in zip(nodes, self.pool.map(self._start, nodes), strict=True):
            self.by_name[node.name] = server

    def _start(self, node: Node) -> servers.Server:
        return servers.kafka(self.folder / node.name, node.address, node_id=node.index, voters=VOTERS)

    def signal(self, node: Node, number: int) -> None:
        os.kill(self.by_name[node.name].process.pid, number)


@pytest.fixture(scope="module")
def brokers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Brokers]:
    from kafka import KafkaAdminClient

    running = Brokers(tmp_path_factory.mktemp("kafka"), {})
    try:
        running.start(*NODES)
        with KafkaAdminClient(bootstrap_servers=[f"{node.address}:9092" for node in NODES]) as admin:
            admin.create_topics({TOPIC: {"num_partitions": 3, "replication_factor": 3}})
        asyncio.run(readiness.poll_until(_all_in_sync, 60, "the brokers are not in sync"))
        yield running
    finally:
        servers.stop_all(list(running.by_name.values()))
        running.pool.shutdown()


async def _all_in_sync() -> str | None:
    lacks = await asyncio.gather(*(readiness.readiness_gap(FLEET, node) for node in NODES))
    return next((lack for lack in lacks if lack), None)


async def _watch(node: Node, max_watch: float) -> Finding | None:
    trigger = NodeHealthTrigger(
        name=node.name, address=node.address, role=node.role.value, max_watch=max_watch
    )
    return await trigger.watch()


async def _quorum_lacks() -> str | None:
    facts = await kafka_facts(FLEET, NODES[0])
    return None if facts.current == len(NODES) - 1 else f"{facts.current} of the others are current"


async def test_all_is_well(brokers: Brokers) -> None:
    for node in NODES:
        assert (await probe_node(node)).answer is ProbeResult.OK
        said = await ask_peers(FLEET, node)
        assert [witness.opinion for witness in said] == [PeerOpinion.UP, PeerOpinion.UP]
        assert (await kafka_facts(FLEET, node)).current == 2
    facts = await kafka_facts(FLEET, NODES[0])
    assert facts.partitions is not None
    assert set(facts.partitions) >= {f"{TOPIC}-{n}" for n in range(3)}
    assert all(copies.in_sync == {1, 2, 3} for copies in facts.partitions.values())
    assert (facts.live, facts.voters, facts.current) == (frozenset({2, 3}), 3, 2)


def test_every_broker_proves_itself_and_may_do_so_twice(brokers: Brokers) -> None:
    for node in [*NODES, NODES[0]]:
        assert f"{node.name} led" in verify_kafka(FLEET, node, 60)


def test_lag_is_what_was_produced_and_not_committed(brokers: Brokers) -> None:
    from kafka import KafkaConsumer, KafkaProducer, TopicPartition
    from kafka.structs import OffsetAndMetadata

    bootstrap = [f"{node.address}:9092" for node in NODES]
    with KafkaProducer(bootstrap_servers=bootstrap, acks="all") as producer:
        for n in range(9):
            producer.send(TOPIC, b"x", partition=n % 3).get(10)
    # The first question makes Kafka create the topic of offsets; until it is there, the answer is unknown.
    servers.wait_until(lambda: read_offsets(bootstrap) == (0, 9), 30, "the group's offsets are known")
    consumer = KafkaConsumer(bootstrap_servers=bootstrap, group_id=CONSUMER_GROUP, enable_auto_commit=False)
    consumer.commit({TopicPartition(TOPIC, 1): OffsetAndMetadata(2, "", -1)})
    consumer.close()
    assert read_offsets(bootstrap) == (2, 9)


async def test_a_pause_of_five_seconds_is_no_incident(brokers: Brokers) -> None:
    node = NODES[1]
    watch = asyncio.create_task(_watch(node, max_watch=14))
    await asyncio.sleep(1.5)
    brokers.signal(node, signal.SIGSTOP)
    await asyncio.sleep(5)
    brokers.signal(node, signal.SIGCONT)
    assert await watch is None


async def test_a_hung_broker_is_found_within_twenty_seconds_and_its_peers_say_so(brokers: Brokers) -> None:
    node = NODES[1]
    watch = asyncio.create_task(_watch(node, max_watch=40))
    await asyncio.sleep(1.5)
    stopped = datetime.now(UTC)
    brokers.signal(node, signal.SIGSTOP)
    try:
        finding = await watch
        assert finding is not None
        assert finding.symptom is Symptom.HUNG
        assert 8 <= (finding.detected_at - stopped).total_seconds() <= 20
        opinions = {witness.opinion for witness in await ask_peers(FLEET, node)}
        assert PeerOpinion.UP not in opinions
        facts = await guard_facts(FLEET, node)
        assert facts.service is ProbeResult.TIMEOUT
        assert facts.last_seen_at is None or (facts.at - facts.last_seen_at).total_seconds() > 5
    finally:
        brokers.signal(node, signal.SIGCONT)
    await readiness.poll_until(_all_in_sync, 60, "the brokers are not in sync")


async def test_a_killed_broker_is_found_in_seconds_and_is_redundant_when_it_is_back(brokers: Brokers) -> None:
    node = NODES[2]
    watch = asyncio.create_task(_watch(node, max_watch=30))
    await asyncio.sleep(1.5)
    killed = datetime.now(UTC)
    brokers.by_name[node.name].kill()
    finding = await watch
    assert finding is not None
    assert finding.symptom is Symptom.DOWN
    assert (finding.detected_at - killed).total_seconds() < 9
    lacks = await readiness.readiness_gap(FLEET, node)
    assert lacks is not None
    assert "doesn't answer" in lacks
    assert not (await guard_facts(FLEET, node)).proven_dead, "a refused connection proves nothing"
    facts = await guard_facts(FLEET, node, running=False)  # as its platform says
    assert facts.proven_dead
    assert facts.sick == 1
    assert facts.kafka is not None
    assert (facts.kafka.live, facts.kafka.voters, facts.kafka.current) == (frozenset({1, 2}), 3, 2)
    await asyncio.to_thread(brokers.start, node)
    await readiness.poll_until(lambda: readiness.readiness_gap(FLEET, node), 60, "not ready")
    await readiness.poll_until(_quorum_lacks, 60, "not a voter")
    assert "led" in await asyncio.to_thread(verify_kafka, FLEET, node, 60)
