"""Kafka and Cassandra with an authority, started by the real roles: who gets in, and what each may do."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cassandra import Unauthorized
from cassandra.auth import PlainTextAuthProvider
from cassandra.cluster import Cluster, NoHostAvailable
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.errors import GroupAuthorizationFailedError, KafkaError, TopicAuthorizationFailedError

from kintsugi.core import certificates
from kintsugi.core.certificates import Principal
from kintsugi.core.client_tls import client_context, current_login, kafka_options
from kintsugi.core.errors import KintsugiError
from kintsugi.core.fleet import Node, Role, load_fleet
from kintsugi.core.observation import ProbeResult
from kintsugi.core.settings import KAFKA_CONTROLLER_PORT, KEYSPACE, TOPIC, Settings
from kintsugi.environments.local import node as nodes
from kintsugi.infra.ansible import Ansible
from kintsugi.infra.ssh import accepts_next_key, key_directory, run_over_ssh
from kintsugi.infra.terraform import Terraform
from kintsugi.operations.gossip_generation import KEEP, KEPT
from kintsugi.operations.readiness import READ_RANGE
from kintsugi.operations.verification_cassandra import RestrictedSession
from kintsugi.pipeline.cassandra_session import session_scope
from kintsugi.pipeline.consumer_offsets import commit_offsets, group_consumer
from kintsugi.pipeline.ingest.backlog import BacklogGauge
from kintsugi.pipeline.kafka_producer import open_producer
from kintsugi.pipeline.schema import TOPIC_RETENTION_BYTES, ensure_tables, ensure_topics
from kintsugi.pipeline.stream.submission import connector_jars
from kintsugi.probes.node_view import parse_view, service_command
from kintsugi.probes.peers import query_cassandra
from kintsugi.probes.protocols import probe_cassandra, probe_kafka, probe_node
from kintsugi.probes.stream_progress import read_offsets
from kintsugi.releases import secret_rotation
from kintsugi.wire import cql
from kintsugi.wire.kafka_quorum import find_leader
from tests import strangers
from tests.installations import installation, open_directory
from tests.integration.servers import wait_until
from tests.integration.test_fleet_heal import postgres

BLOCK = "127.38"


@pytest.fixture(scope="module")
def settings() -> Iterator[Settings]:
    """One broker and one Cassandra node that serve, with topics, tables and rights."""
    with open_directory() as directory, pytest.MonkeyPatch.context() as patch:
        made = installation(directory, BLOCK)
        certificates.create_authority(made)
        keep_nodes(made.fleet_file, "kafka-1", "cassandra-1")
        patch.setenv("KINTSUGI_STATE", str(made.state))
        patch.setenv("KINTSUGI_FLEET", str(made.fleet_file))
        patch.delenv("KINTSUGI_TLS_DIRECTORY", raising=False)
        try:
            with postgres(made):
                Terraform(made).apply_all()
                Ansible(made).run("site.yml", timeout_s=600)
                ensure_topics(brokers(made), replication=1)
                ensure_tables(contact_points(made), replication=1)
                yield made
        finally:
            for node in made.fleet:
                nodes.destroy_node(made, node.name)


def keep_nodes(fleet_file: Path, *names: str) -> None:
    lines = fleet_file.read_text().splitlines(keepends=True)
    kept = [
        line for line in lines if "{name: " not in line or any(f"{{name: {name}," in line for name in names)
    ]
    fleet_file.write_text("".join(kept))


def brokers(settings: Settings) -> list[str]:
    return settings.fleet.endpoints(Role.KAFKA, 9092)


def contact_points(settings: Settings) -> list[str]:
    return [node.address for node in settings.fleet.of(Role.CASSANDRA)]


def the(settings: Settings, role: Role) -> Node:
    (node,) = settings.fleet.of(role)
    return node


def test_a_probe_gets_its_answers(settings: Settings) -> None:
    for node in settings.fleet:
        assert asyncio.run(probe_node(node)).answer is ProbeResult.OK
    cassandra = the(settings, Role.CASSANDRA)
    rows = asyncio.run(query_cassandra(cassandra, "SELECT address FROM system_views.gossip_info"))
    assert rows == [{"address": cassandra.address}]
    told = asyncio.run(query_cassandra(cassandra, READ_RANGE.format(token=0), cql.ALL))
    assert "0x2100" not in str(told), "the probe has no right to read a range"
    # The first question about a group makes Kafka create the topic of all groups.
    wait_until(lambda: read_offsets(brokers(settings)) == (0, 0), 60, "the offsets can be read", interval=0.5)
    leader, _ = find_leader(settings.fleet.endpoints(Role.KAFKA, KAFKA_CONTROLLER_PORT))
    assert leader.startswith(the(settings, Role.KAFKA).address)


@pytest.mark.parametrize("role", [Role.KAFKA, Role.CASSANDRA])
def test_a_node_can_probe_itself(settings: Settings, role: Role) -> None:
    node = the(settings, role)
    told = run_over_ssh(settings, node, service_command(settings, node, role.value), 20)
    assert parse_view(told.stdout).answer is ProbeResult.OK


@pytest.mark.parametrize("port", [9092, 9093, 9042, 7000])
def test_no_port_answers_who_has_no_certificate_of_ours(
    settings: Settings, port: int, tmp_path: Path
) -> None:
    node = the(settings, Role.KAFKA if port in (9092, 9093) else Role.CASSANDRA)
    attack = strangers.attack_on(settings, strangers.OpenPort(node.name, node.address, port))
    assert attack is not None
    attack(strangers.OpenPort(node.name, node.address, port), tmp_path)


def test_a_probe_without_tls_is_no_sign_of_life(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KINTSUGI_TLS_DIRECTORY", "")
    kafka = asyncio.run(probe_kafka(the(settings, Role.KAFKA).address))
    cassandra = asyncio.run(probe_cassandra(the(settings, Role.CASSANDRA).address))
    assert (kafka.answer, cassandra.answer) == (ProbeResult.WRONG, ProbeResult.WRONG)


def test_the_ingest_can_tell_how_far_the_stream_is_behind(settings: Settings) -> None:
    gauge = BacklogGauge(brokers(settings))
    try:
        wait_until(lambda: gauge.read() is not None, 60, "the ingest can read the backlog", interval=0.5)
        backlog = gauge.read()
    finally:
        gauge.close()
    assert backlog is not None
    assert backlog.retention == TOPIC_RETENTION_BYTES


def test_kafka_allows_each_principal_its_work_and_no_more(settings: Settings) -> None:
    with open_producer(brokers(settings)) as producer:
        producer.send(TOPIC, value=b"a trade", key=b"SPY")
        producer.flush(20)
    assert read_one(settings, Principal.STREAM).value == b"a trade"
    with pytest.raises(TopicAuthorizationFailedError):
        read_one(settings, Principal.INGEST)
    for principal in (Principal.STREAM, Principal.PROBE, Principal.PAGE):
        with pytest.raises(KafkaError):
            write_one(settings, principal)
    with pytest.raises(GroupAuthorizationFailedError):
        commit_one(settings, Principal.INGEST)


def read_one(settings: Settings, principal: Principal) -> Any:
    consumer = KafkaConsumer(
        bootstrap_servers=brokers(settings), auto_offset_reset="earliest", **kafka_options(principal)
    )
    with consumer:
        parts = [TopicPartition(TOPIC, number) for number in range(6)]
        consumer.assign(parts)
        for records in consumer.poll(timeout_ms=10_000).values():
            return records[0]
        raise AssertionError("no message within 10 s")


def commit_one(settings: Settings, principal: Principal) -> None:
    with group_consumer(brokers(settings), principal) as consumer:
        commit_offsets(consumer, {0: 0})


def write_one(settings: Settings, principal: Principal) -> None:
    producer = KafkaProducer(
        bootstrap_servers=brokers(settings), max_block_ms=5_000, **kafka_options(principal)
    )
    try:
        producer.send(TOPIC, b"forged").get(timeout=10)
    finally:
        producer.close(timeout=1)


READ = """
import sys
from pyspark.sql import SparkSession
from kintsugi.core.certificates import Principal
from kintsugi.core.client_tls import spark_kafka_options

spark = SparkSession.builder.master("local[1]").config("spark.jars", sys.argv[2])
spark = spark.config("spark.ui.enabled", "false").config("spark.driver.host", "127.0.0.1").getOrCreate()
options = {"kafka.bootstrap.servers": sys.argv[1], "subscribe": sys.argv[3], **spark_kafka_options(Principal.STREAM)}
print("read:", [bytes(row.value) for row in spark.read.format("kafka").options(**options).load().collect()])
"""


def test_spark_reads_trades_with_the_files_of_its_node(settings: Settings, tmp_path: Path) -> None:
    with open_producer(brokers(settings)) as producer:
        producer.send(TOPIC, value=b"for Spark", key=b"SPY")
        producer.flush(20)
    for name, text in certificates.node_files(
        settings, load_fleet(settings.repository / "fleet.yaml").of(Role.SPARK_WORKER)[0]
    ).items():
        (tmp_path / name).write_text(text)
    jars = ",".join(str(jar) for jar in connector_jars(settings.jars("spark")))
    done = subprocess.run(
        [sys.executable, "-c", READ, brokers(settings)[0], jars, TOPIC],
        env={**os.environ, "KINTSUGI_TLS_DIRECTORY": str(tmp_path), "PYTHONPATH": str(settings.repository / "plugins")},
        capture_output=True, text=True, check=False, timeout=240,
    )  # fmt: skip
    assert "b'for Spark'" in done.stdout, done.stderr[-3000:]
    assert "BEGIN PRIVATE KEY" not in done.stdout + done.stderr


@pytest.mark.parametrize("principal", [Principal.INGEST, Principal.STREAM, Principal.PAGE, Principal.PROBE])
def test_only_recovery_deletes_a_topic(settings: Settings, principal: Principal) -> None:
    admin = KafkaAdminClient(bootstrap_servers=brokers(settings), **kafka_options(principal))
    try:
        with pytest.raises(KafkaError):
            admin.delete_topics([TOPIC])
    finally:
        admin.close()
    keeper = KafkaAdminClient(bootstrap_servers=brokers(settings), **kafka_options(Principal.RECOVERY))
    try:
        assert TOPIC in keeper.list_topics()
    finally:
        keeper.close()


def test_the_role_that_everybody_knows_is_gone(settings: Settings) -> None:
    cluster = Cluster(
        contact_points(settings),
        ssl_context=client_context(Principal.RECOVERY),
        auth_provider=PlainTextAuthProvider("cassandra", "cassandra"),
    )
    with pytest.raises(NoHostAvailable):
        cluster.connect()
    cluster.shutdown()
    with session_scope(contact_points(settings), Principal.RECOVERY) as session:
        roles = {row.role for row in session.execute("LIST ROLES")}
    assert "cassandra" not in roles
    assert {role.partition("_")[0] for role in roles} == {"recovery", "stream", "page", "probe"}


@pytest.mark.parametrize(
    ("principal", "allowed", "refused"),
    [
        (
            Principal.STREAM,
            ("INSERT INTO stream_driver (name, epoch) VALUES ('x', 1)", "SELECT * FROM baseline LIMIT 1"),
            ("DROP TABLE trade", f"DROP KEYSPACE {KEYSPACE}", "CREATE ROLE mine WITH LOGIN = true"),
        ),
        (
            Principal.PAGE,
            ("SELECT * FROM trade LIMIT 1",),
            ("INSERT INTO stream_driver (name, epoch) VALUES ('x', 1)", f"DROP KEYSPACE {KEYSPACE}"),
        ),
        (
            Principal.PROBE,
            ("SELECT * FROM trade LIMIT 1",),
            ("DELETE FROM stream_driver WHERE name = 'x'", "CREATE ROLE mine WITH SUPERUSER = true"),
        ),
    ],
)
def test_cassandra_allows_each_role_its_work_and_no_more(
    settings: Settings, principal: Principal, allowed: tuple[str, ...], refused: tuple[str, ...]
) -> None:
    with session_scope(contact_points(settings), principal) as session:
        for statement in allowed:
            session.execute(statement)
        for statement in refused:
            with pytest.raises(Unauthorized):
                session.execute(statement)


def test_recovery_may_keep_the_gossip_generation_of_a_node(settings: Settings) -> None:
    with RestrictedSession(contact_points(settings)) as session:
        kept = session.execute(KEPT).one()
        session.execute(KEEP, (kept.written_us + 1, kept.gossip_generation))
        assert session.execute(KEPT).one() == (kept.gossip_generation, kept.written_us + 1)


def test_ingest_has_no_role_in_cassandra(settings: Settings) -> None:
    with (
        pytest.raises(KintsugiError),
        session_scope(contact_points(settings), Principal.INGEST),
    ):
        pass


def test_a_rotation_ends_no_connection_and_locks_nobody_out(settings: Settings) -> None:
    node = the(settings, Role.CASSANDRA)
    with session_scope(contact_points(settings), Principal.STREAM) as old:
        before = current_login(Principal.STREAM)
        assert secret_rotation.renew_secrets(settings, authority=True).startswith("renewed: ")
        assert current_login(Principal.STREAM) != before
        old.execute("SELECT * FROM trade LIMIT 1")
        with session_scope(contact_points(settings), Principal.STREAM) as new:
            new.execute("SELECT * FROM trade LIMIT 1")
        current = current_login(Principal.STREAM)
        assert "not finished" in secret_rotation.renew_secrets(settings)
        assert current_login(Principal.STREAM) == current
    served = server_certificate(node, 9042)
    key = (key_directory(settings) / "user").read_text()
    assert not [one for one in settings.fleet if accepts_next_key(settings, one)], (
        "nobody has given it to them"
    )
    Ansible(settings).run("restart.yml", timeout_s=300)
    assert server_certificate(node, 9042) != served
    for one in settings.fleet:
        assert asyncio.run(probe_node(one)).answer is ProbeResult.OK
    told = secret_rotation.finish_rotation(settings)
    assert before.role in told
    assert "the key of SSH is replaced" in told
    assert (key_directory(settings) / "user").read_text() != key
    for one in settings.fleet:
        assert run_over_ssh(settings, one, ["true"]).returncode == 0
    with session_scope(contact_points(settings), Principal.RECOVERY) as session:
        roles = {row.role for row in session.execute("LIST ROLES")}
    assert current.role in roles
    assert before.role not in roles
    with open_producer(brokers(settings)) as producer:
        producer.send(TOPIC, value=b"after the rotation", key=b"SPY")
        producer.flush(20)


def server_certificate(node: Node, port: int) -> bytes:
    """The certificate that the server shows."""
    context = client_context(Principal.PROBE)
    assert context is not None
    with (
        socket.create_connection((node.address, port), timeout=10) as connection,
        context.wrap_socket(connection, server_hostname=node.address) as secure,
    ):
        shown = secure.getpeercert(binary_form=True)
    assert shown is not None
    return shown


def test_no_key_and_no_password_is_in_a_log_or_an_argument(settings: Settings) -> None:
    secrets = [path.read_text().split()[1] for path in settings.tls.glob("*.login")]
    secrets += [
        line
        for path in settings.tls.glob("*.pem")
        for line in path.read_text().splitlines()[1:3]
        if "PRIVATE KEY" in path.read_text()
    ]
    logs = [path for path in settings.state.rglob("*.log") if path.is_file()]
    logs += [path for path in (settings.control / "ansible").rglob("*") if path.is_file()]
    assert len(logs) > 4
    for path in logs:
        text = path.read_text(errors="replace")
        assert not [secret for secret in secrets if secret in text], path
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            arguments = process.read_bytes().decode(errors="replace")
        except OSError:
            continue
        assert not [secret for secret in secrets if secret in arguments], process


def test_a_second_start_changes_nothing(settings: Settings) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in settings.tls.iterdir()}
    ensure_topics(brokers(settings), replication=1)
    ensure_tables(contact_points(settings), replication=1)
    assert {path.name: path.stat().st_mtime_ns for path in settings.tls.iterdir()} == before
    assert os.environ["KINTSUGI_STATE"] == str(settings.state)
