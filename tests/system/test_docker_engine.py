"""What the docker environment does to containers, on a real engine with the image that `bin/docker-image` made."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest
from docker.errors import DockerException

from kintsugi.core.processes import wait_until
from kintsugi.core.settings import Settings
from kintsugi.environments.docker.platform import DockerPlatform
from kintsugi.infra import docker_engine
from tests.installations import installation

IMAGE = os.environ.get("KINTSUGI_IMAGE", "kintsugi:latest")


@pytest.fixture(scope="module")
def client() -> Iterator[docker.DockerClient]:
    try:
        found = docker.from_env()
        found.images.get(IMAGE)
    except DockerException as error:
        pytest.skip(f"no Docker engine with the image {IMAGE} answers ({error}): run `bin/docker-image`")
    yield found
    found.close()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return installation(tmp_path, "127.38")


@pytest.fixture
def node(client: docker.DockerClient, settings: Settings) -> Iterator[str]:
    """A container as Terraform makes it: not started; it counts as long as it lives."""
    name = f"kafka-{uuid.uuid4().int % 10**8}"
    container = client.containers.create(
        IMAGE,
        ["sh", "-c", "n=0; while :; do echo $((n=n+1)); sleep 0.05; done"],
        name=docker_engine.container_name(settings, name),
        labels={docker_engine.STATE_LABEL: str(settings.state)},
        network_mode="none",
    )
    try:
        yield name
    finally:
        for left in client.containers.list(all=True, filters={"id": container.id}):
            left.remove(force=True)


def lines(client: docker.DockerClient, settings: Settings, node: str) -> int:
    said: bytes = client.containers.get(docker_engine.container_name(settings, node)).logs()
    return said.count(b"\n")


def test_a_container_is_frozen_thawed_and_ended_frozen(
    client: docker.DockerClient, settings: Settings, node: str
) -> None:
    platform = DockerPlatform(settings)
    assert not docker_engine.running(settings, node)
    docker_engine.start(settings, node)
    docker_engine.start(settings, node)
    assert wait_until(lambda: lines(client, settings, node) > 2, 10)

    platform.suspend(node)
    platform.suspend(node)
    frozen_at = lines(client, settings, node)
    assert docker_engine.running(settings, node)
    assert not wait_until(lambda: lines(client, settings, node) > frozen_at + 1, 1)
    platform.resume(node)
    platform.resume(node)
    assert wait_until(lambda: lines(client, settings, node) > frozen_at + 1, 10)

    platform.suspend(node)
    platform.power_off(node)
    assert not docker_engine.running(settings, node)
    platform.power_off(node)


def test_what_is_left_of_an_installation_is_removed(
    client: docker.DockerClient, settings: Settings, node: str
) -> None:
    docker_engine.start(settings, node)
    label = {docker_engine.STATE_LABEL: str(settings.state)}
    ours = client.volumes.create(f"ours-{uuid.uuid4().hex}", labels=label)
    theirs = client.volumes.create(
        f"theirs-{uuid.uuid4().hex}", labels={docker_engine.STATE_LABEL: "/elsewhere"}
    )
    try:
        DockerPlatform(settings).remove_all()
        left = {volume.name for volume in client.volumes.list()}
        assert theirs.name in left
        assert ours.name not in left
        assert not client.containers.list(
            all=True, filters={"label": f"{docker_engine.STATE_LABEL}={settings.state}"}
        )
    finally:
        theirs.remove()
