"""The fleet on real servers, by the hooks alone: stand, converge, lose a node with its disk, stand again.

Airflow has no part in it: shown here is that Terraform, Ansible and the rejoin make a dead server whole.
Prints the seconds that each step took (``pytest -s``).
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.request import Request, urlopen
from uuid import UUID

import pytest

from kintsugi.controlplane.postgres import Postgres
from kintsugi.core.connections import store_dsn
from kintsugi.core.errors import StepFailed
from kintsugi.core.fleet import Fleet, Node, Role
from kintsugi.core.settings import SPARK_UI_SECRET, Settings
from kintsugi.core.spark_security import sign_page_token
from kintsugi.db.store import Store
from kintsugi.environments.local import node as nodes
from kintsugi.environments.local.node_identity import kafka_cluster_id
from kintsugi.environments.local.node_process import read_record
from kintsugi.infra.ansible import Ansible
from kintsugi.infra.terraform import Terraform
from kintsugi.operations import readiness
from kintsugi.operations.cassandra_repair import repair_tonight
from kintsugi.operations.context import Context
from kintsugi.operations.kafka_voters import rejoin_voter
from kintsugi.recovery.plan_policy import planned_changes
from kintsugi.wire.kafka import Quorum
from kintsugi.wire.kafka_quorum import find_leader
from tests.installations import installation, open_directory

ROWS, MISSED = 2000, 50


@dataclass
class Clock:
    """Seconds since its start, told as they pass."""

    began: float = field(default_factory=time.monotonic)

    def tell(self, what: str) -> float:
        seconds = time.monotonic() - self.began
        print(f"{seconds:6.1f} s  {what}")
        return seconds


@contextmanager
def postgres(settings: Settings) -> Iterator[None]:
    """The database that holds Terraform's state."""
    server = Postgres.of(settings)
    server.prepare()
    path = {"PATH": os.environ["PATH"]}
    process = subprocess.Popen(server.program().command, cwd="/", env=path, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while not server.accepts():
            assert time.monotonic() < deadline, "Postgres did not start"
            time.sleep(0.1)
        server.create_databases()
        yield
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture(scope="module")
def settings() -> Iterator[Settings]:
    with open_directory() as directory:
        made = installation(directory, "127.37")
        try:
            with postgres(made):
                Terraform(made).apply_all()
                yield made
        finally:
            for node in made.fleet:
                nodes.destroy_node(made, node.name)


@pytest.fixture(scope="module")
def standing(settings: Settings) -> Settings:
    clock = Clock()
    Ansible(settings).run("site.yml", timeout_s=600)
    clock.tell("all nine serve")
    return settings


def rebuild(settings: Settings, node: Node, clock: Clock) -> None:
    """What a recovery does between the fence and the rejoin."""
    terraform = Terraform(settings)
    addresses = [f'module.{kind}["{node.name}"].terraform_data.this' for kind in ("node", "volume")]
    plan = terraform.plan(replace=addresses, targets=addresses)
    assert planned_changes(plan.document) == {address: ["delete", "create"] for address in addresses}
    terraform.apply(plan)
    clock.tell(f"{node.name} is a new server")
    Ansible(settings).run("site.yml", limit=node.name, timeout_s=400)
    clock.tell(f"{node.name} serves")


def cassandra_session(settings: Settings, addresses: list[str]) -> Any:
    from cassandra import ConsistencyLevel
    from cassandra.cluster import EXEC_PROFILE_DEFAULT, Cluster, ExecutionProfile
    from cassandra.policies import WhiteListRoundRobinPolicy

    profile = ExecutionProfile(
        load_balancing_policy=WhiteListRoundRobinPolicy(addresses),
        consistency_level=ConsistencyLevel.ONE if len(addresses) == 1 else ConsistencyLevel.LOCAL_QUORUM,
        request_timeout=30,
    )
    return Cluster(
        addresses,
        execution_profiles={EXEC_PROFILE_DEFAULT: profile},
        connect_timeout=20,
        control_connection_timeout=20,
    ).connect()


def test_a_second_run_changes_nothing(standing: Settings) -> None:
    before = {node.name: read_record(standing, node.name) for node in standing.fleet}
    Terraform(standing).apply_all()
    told: list[str] = []
    Ansible(standing).run("site.yml", timeout_s=300, on_progress=told.append)
    assert {node.name: read_record(standing, node.name) for node in standing.fleet} == before
    assert not [line for line in told if line.endswith("failed")]


def test_workers_are_registered_with_their_cores(standing: Settings) -> None:
    key = bytes.fromhex(standing.secret(SPARK_UI_SECRET))
    master = standing.fleet.of(Role.SPARK_MASTER)[0]
    page = f"http://{master.address}:8080/json/"
    request = Request(page, headers={"Authorization": f"Bearer {sign_page_token(key)}"})
    with urlopen(request, timeout=10) as answer:
        workers = json.load(answer)["workers"]
    expected = {node.address for node in standing.fleet.of(Role.SPARK_WORKER)}
    assert {worker["host"] for worker in workers if worker["state"] == "ALIVE"} == expected


def quorum_of(fleet: Fleet) -> Quorum:
    _, quorum = find_leader([f"{node.address}:9093" for node in fleet.of(Role.KAFKA)])
    return quorum


def voters_of(fleet: Fleet) -> dict[int, UUID]:
    """The voters by node id, with the directory each votes with."""
    return {voter.node_id: voter.directory for voter in quorum_of(fleet).voters}


def test_the_leading_broker_comes_back_as_a_voter_with_a_new_disk(standing: Settings) -> None:
    from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
    from kafka.admin import NewTopic

    fleet = standing.fleet
    brokers = fleet.endpoints(Role.KAFKA, 9092)
    admin = KafkaAdminClient(bootstrap_servers=brokers)
    admin.create_topics([NewTopic("healing", 3, 3)])
    admin.close()
    producer = KafkaProducer(bootstrap_servers=brokers, acks="all")
    for number in range(300):
        producer.send("healing", str(number).encode(), partition=number % 3)
    producer.flush(60)
    producer.close()
    quorum = quorum_of(fleet)
    before = voters_of(fleet)
    victim = next(node for node in fleet.of(Role.KAFKA) if node.index == quorum.leader_id)

    clock = Clock()
    nodes.power_off(standing, victim.name, lose_volume=True)
    rebuild(standing, victim, clock)
    rejoin_voter(fleet, victim, kafka_cluster_id(standing), timeout_s=120)
    clock.tell(f"{victim.name} votes")
    for broker in fleet.of(Role.KAFKA):
        readiness.wait_until_ready(standing, fleet, broker, 120)
    clock.tell("no partition is under-replicated")

    after = voters_of(fleet)
    assert after.keys() == before.keys()
    assert after[victim.index] != before[victim.index]
    assert {index: disk for index, disk in after.items() if index != victim.index} == {
        index: disk for index, disk in before.items() if index != victim.index
    }
    consumer = KafkaConsumer(bootstrap_servers=[f"{victim.address}:9092"], consumer_timeout_ms=20000)
    partitions = [TopicPartition("healing", number) for number in range(3)]
    assert sum(consumer.end_offsets(partitions).values()) == 300
    consumer.close()
    rejoin_voter(fleet, victim, kafka_cluster_id(standing), timeout_s=20)  # a second time finds nothing to do
    assert voters_of(fleet) == after


def test_a_replaced_cassandra_node_holds_every_row(standing: Settings) -> None:
    fleet = standing.fleet
    victim = fleet.node("cassandra-2")
    addresses = [node.address for node in fleet.of(Role.CASSANDRA)]
    session = cassandra_session(standing, addresses)
    session.execute(
        "CREATE KEYSPACE trades WITH replication = {'class': 'NetworkTopologyStrategy', 'datacenter1': 3}"
    )
    session.execute("CREATE TABLE trades.rows (id int PRIMARY KEY, text text)")
    insert = session.prepare("INSERT INTO trades.rows (id, text) VALUES (?, ?)")
    for number in range(ROWS):
        session.execute(insert, (number, "x" * 50))

    clock = Clock()
    nodes.power_off(standing, victim.name, lose_volume=True)
    session.execute(insert, (ROWS, "written while it was dead"))
    rebuild(standing, victim, clock)
    Ansible(standing).run("rejoin_cassandra.yml", limit=victim.name, timeout_s=300)
    clock.tell(f"{victim.name} is repaired")
    session.cluster.shutdown()
    for peer in fleet.peers(victim):
        told = (standing.node_root(peer.name) / "log/cassandra.log").read_text(errors="replace")
        assert f"/{victim.address}:7000 is now DOWN" in told, "its log ends with its start"

    assert held_alone(standing, victim) == set(range(ROWS + 1))
    assert (standing.node_volume(victim.name) / "data/cassandra/begun-by").read_text() == "replace\n"


def test_what_a_replica_missed_is_found_at_night_and_goes_on_record(standing: Settings) -> None:
    """Rows written while it was away, of which no hint was kept."""
    fleet, store = standing.fleet, Store(store_dsn(standing))
    store.migrate()
    context = Context(standing, fleet, store)
    victim = fleet.node("cassandra-1")
    session = cassandra_session(standing, [peer.address for peer in fleet.peers(victim)])
    for peer in fleet.peers(victim):
        context.platform().run(peer.name, [f"{standing.node_root(peer.name)}/bin/nodetool", "disablehandoff"])
    context.platform().run(victim.name, supervisorctl(standing, victim, "stop"))
    insert = session.prepare("INSERT INTO trades.rows (id, text) VALUES (?, ?)")
    for number in range(1, MISSED + 1):
        session.execute(insert, (-number, "missed"))
    session.cluster.shutdown()
    for peer in fleet.peers(victim):
        context.platform().run(peer.name, [f"{standing.node_root(peer.name)}/bin/nodetool", "enablehandoff"])
    context.platform().run(victim.name, supervisorctl(standing, victim, "start"))
    readiness.wait_until_ready(standing, fleet, victim, 120)
    assert held_alone(standing, victim) == set(range(ROWS + 1))

    for node in fleet.of(Role.CASSANDRA):
        repair_tonight(context, node.name, by="night/1")
    assert held_alone(standing, victim) == set(range(-MISSED, ROWS + 1))
    compared = store.replica_repairs()
    assert compared.keys() == {node.name for node in fleet.of(Role.CASSANDRA)}
    assert sum(known.differed or 0 for known in compared.values()) > 0
    assert {known.failure for known in compared.values()} == {None}

    repair_tonight(context, victim.name, by="night/2")
    assert store.replica_repairs()[victim.name].differed == 0


def supervisorctl(settings: Settings, node: Node, verb: str) -> list[str]:
    return ["supervisorctl", "-c", f"{settings.node_root(node.name)}/etc/supervisord.conf", verb, "cassandra"]


def held_alone(settings: Settings, node: Node) -> set[int]:
    """The rows that the node itself holds: nobody else can answer."""
    for peer in settings.fleet.peers(node):
        nodes.suspend_node(settings, peer.name)
    try:
        alone = cassandra_session(settings, [node.address])
        rows = {row.id for row in alone.execute("SELECT id FROM trades.rows")}
        alone.cluster.shutdown()
    finally:
        for peer in settings.fleet.peers(node):
            nodes.resume_node(settings, peer.name)
    return rows


def test_a_replacement_that_is_killed_midway_is_finished(standing: Settings) -> None:
    victim = standing.fleet.node("cassandra-3")
    nodes.power_off(standing, victim.name, lose_volume=True)
    nodes.create_node(standing, victim.name)
    log = standing.node_root(victim.name) / "log" / "cassandra.log"

    def kill_it_while_it_joins() -> None:
        deadline = time.monotonic() + 120
        while not (log.exists() and "JOINING: " in log.read_text(errors="replace")):
            assert time.monotonic() < deadline, "it did not begin to join"
            time.sleep(0.05)
        nodes.power_off(standing, victim.name)

    with ThreadPoolExecutor(1) as killer:
        killed = killer.submit(kill_it_while_it_joins)
        with pytest.raises(StepFailed):
            Ansible(standing).run("site.yml", limit=victim.name, timeout_s=200)
        killed.result()

    nodes.create_node(standing, victim.name)
    Ansible(standing).run("site.yml", limit=victim.name, timeout_s=300)
    Ansible(standing).run("rejoin_cassandra.yml", limit=victim.name, timeout_s=300)
    for node in standing.fleet.of(Role.CASSANDRA):
        session = cassandra_session(standing, [node.address])
        peers = {row.peer for row in session.execute("SELECT peer FROM system.peers")}
        rows = session.execute("SELECT count(*) FROM trades.rows").one()[0]
        session.cluster.shutdown()
        assert peers == {peer.address for peer in standing.fleet.peers(node)}
        assert rows == ROWS + 1 + MISSED


def test_nodes_that_were_all_replaced_once_come_back_when_all_were_off(standing: Settings) -> None:
    """None of them had formed the cluster, and nobody is there to be joined."""
    clock, cassandra = Clock(), standing.fleet.of(Role.CASSANDRA)
    nodes.power_off(standing, "cassandra-1", lose_volume=True)
    rebuild(standing, standing.fleet.node("cassandra-1"), clock)
    begun = {(standing.node_volume(node.name) / "data/cassandra/begun-by").read_text() for node in cassandra}
    assert begun == {"replace\n"}
    for node in cassandra:
        nodes.power_off(standing, node.name)
    for node in cassandra:
        nodes.create_node(standing, node.name)
    Ansible(standing).run("site.yml", limit="cassandra", extra_vars={"volume_kept": True}, timeout_s=300)
    clock.tell("all three serve again")
    session = cassandra_session(standing, [node.address for node in cassandra])
    assert session.execute("SELECT count(*) FROM trades.rows").one()[0] == ROWS + 1 + MISSED
    session.cluster.shutdown()


def test_all_is_destroyed_and_nothing_lives_on(standing: Settings) -> None:
    Terraform(standing).destroy_all()
    assert [node.name for node in standing.fleet if nodes.node_pids(standing, node.name)] == []
    assert Terraform(standing).outputs() == {}
