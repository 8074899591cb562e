"""A broker raised from Kafka 4.3.1 to 4.4.0 and brought back on the same volume, as a roll-out and its roll-back do."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.version_drill import OTHER_VERSION
from benchmarks.version_drill.broker_versions import jar_version
from kintsugi.core.errors import GuardRefused
from kintsugi.core.fleet import REPOSITORY, ControlPlaneEndpoints, Fleet, Node, Role
from kintsugi.core.settings import load_settings
from kintsugi.infra import artifacts
from kintsugi.releases import release_features
from kintsugi.releases.archive import Release
from kintsugi.wire.exchange import ask_endpoint
from kintsugi.wire.kafka import METADATA_FEATURE, Features, read_features
from tests.integration import servers

ADDRESS, TOPIC = "127.61.1.1", "kept"
NODE = Node("kafka-1", Role.KAFKA, ADDRESS, 2222)
FLEET = Fleet("test", "local", ControlPlaneEndpoints("127.61.1.9", 1, 2, 3, 4), {NODE.name: NODE})
OLD, NEW = Release("0" * 64, OTHER_VERSION), Release("1" * 64, REPOSITORY)
LEVEL = release_features.format_level(NEW)


def jars_of(release: Release) -> Path:
    settings = replace(load_settings(), repository=release.directory)
    artifacts.ensure(settings, among=["kafka"])
    return settings.jars("kafka")


class Volume:
    """The volume of one broker, on which any version of Kafka may be started."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.properties = folder / "server.properties"
        self.properties.write_text(
            "process.roles=broker,controller\nnode.id=1\ncontroller.listener.names=CONTROLLER\n"
            f"controller.quorum.bootstrap.servers={ADDRESS}:9093\n"
            f"listeners=PLAINTEXT://{ADDRESS}:9092,CONTROLLER://{ADDRESS}:9093\n"
            f"log.dirs={folder / 'data'}\noffsets.topic.replication.factor=1\nauto.create.topics.enable=false\n"
        )
        self.server: servers.Server | None = None

    def format(self, jars: Path, level: str) -> None:
        import subprocess

        subprocess.run(
            ["java", "-XX:TieredStopAtLevel=1", "-cp", f"{jars}/*", "kafka.tools.StorageTool", "format",
             "-t", "MkU3OEVBNTcwNTJENDM2Qg", "-c", str(self.properties), "--standalone",
             "--release-version", level],
            check=True, capture_output=True,
        )  # fmt: skip

    def start(self, jars: Path) -> None:
        self.stop()
        command = ["java", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", f"{jars}/*"]
        self.server = servers.launch(
            "kafka", [*command, "kafka.Kafka", str(self.properties)], self.folder, ADDRESS, 9092, seconds=120
        )

    def stop(self) -> None:
        if self.server is not None:
            self.server.stop()

    def version(self) -> str | None:
        assert self.server is not None
        return jar_version([self.server.process.pid])


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Volume]:
    made = Volume(tmp_path)
    yield made
    made.stop()


def features() -> Features:
    return asyncio.run(ask_endpoint(ADDRESS, 9092, read_features))


def produce(first: int) -> None:
    """Produce 100 messages, numbered from ``first`` on, with acks=all."""
    from kafka import KafkaProducer

    producer = KafkaProducer(bootstrap_servers=f"{ADDRESS}:9092", acks="all")
    try:
        for number in range(first, first + 100):
            producer.send(TOPIC, str(number).encode(), partition=0).get(timeout=30)
    finally:
        producer.close(timeout=10)


def consume(count: int) -> list[int]:
    """The first ``count`` messages."""
    from kafka import KafkaConsumer, TopicPartition

    consumer = KafkaConsumer(bootstrap_servers=f"{ADDRESS}:9092", consumer_timeout_ms=30_000)
    try:
        consumer.assign([TopicPartition(TOPIC, 0)])
        consumer.seek_to_beginning()
        return [int(message.value) for message, _ in zip(consumer, range(count), strict=False)]
    finally:
        consumer.close()


def test_one_volume_goes_from_4_3_to_4_4_and_back(volume: Volume) -> None:
    from kafka import KafkaAdminClient

    old_jars, new_jars = jars_of(OLD), jars_of(NEW)
    assert old_jars.parent == new_jars.parent, "both lie in one cache"
    old_level = release_features.known_levels(old_jars)[METADATA_FEATURE]
    new_level = release_features.known_levels(new_jars)[METADATA_FEATURE]
    assert new_level > old_level
    volume.format(new_jars, LEVEL)
    volume.start(old_jars)
    assert volume.version() == "4.3.1"
    admin = KafkaAdminClient(bootstrap_servers=f"{ADDRESS}:9092")
    admin.create_topics({TOPIC: {"num_partitions": 1, "replication_factor": 1}})
    admin.close()
    produce(0)
    before = features()
    assert before.supported[METADATA_FEATURE] == old_level

    volume.start(new_jars)
    assert volume.version() == "4.4.0"
    raised = features()
    assert raised.supported[METADATA_FEATURE] == new_level
    assert raised.finalized == before.finalized, "a change of the program raises no feature"
    assert consume(100) == list(range(100))
    produce(100)
    context: Any = SimpleNamespace(settings=load_settings(), fleet=FLEET)
    release_features.check_features(context, NEW, OLD)

    volume.start(old_jars)
    assert volume.version() == "4.3.1"
    assert features() == before
    assert consume(200) == list(range(200))


def test_raised_features_are_found_on_the_running_broker(volume: Volume) -> None:
    """Why: 4.3.1 does not start on this volume, so the first failed probe could not be answered by a roll-back."""
    old_jars, new_jars = jars_of(OLD), jars_of(NEW)
    volume.format(new_jars, "4.4-IV2")
    volume.start(new_jars)
    context: Any = SimpleNamespace(settings=load_settings(), fleet=FLEET)
    with pytest.raises(GuardRefused, match=r"could not be rolled back.*metadata\.version"):
        release_features.check_features(context, NEW, OLD)
    with pytest.raises(AssertionError, match="ended with"):
        volume.start(old_jars)
