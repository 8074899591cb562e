"""The containers of one installation, found by name and by label, through the engine's API.

The engine's socket is where ``DOCKER_HOST`` says, else in its usual place.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import docker
from docker.errors import DockerException, NotFound

from kintsugi.errors import StepFailed

if TYPE_CHECKING:
    from docker import DockerClient

    from kintsugi.settings import Settings

STATE_LABEL = "kintsugi.state"  # which installation a container or a volume belongs to
_TIMEOUT_S = 20
_ENDS_WITHIN_S = 10.0


@contextmanager
def engine() -> Iterator[DockerClient]:
    """A client of the Docker engine; what it refuses becomes StepFailed with its words."""
    try:
        client = docker.from_env(timeout=_TIMEOUT_S)
    except DockerException as error:
        raise StepFailed(f"the Docker engine doesn't answer: {error}") from error
    try:
        yield client
    except DockerException as error:
        raise StepFailed(f"the Docker engine refused: {error}") from error
    finally:
        client.close()


def obstacles() -> Iterator[str]:
    """A line that says what is missing, unless the engine answers and has the nodes' image (``$KINTSUGI_IMAGE``)."""
    image = os.environ.get("KINTSUGI_IMAGE")
    if not image:
        yield "KINTSUGI_IMAGE doesn't name the nodes' image: start the control plane by `make docker-up`"
        return
    try:
        with engine() as client:
            client.images.get(image)
    except StepFailed as error:
        yield f"{error}: run `make docker-up` on the machine whose engine it is"


def container_name(settings: Settings, node: str) -> str:
    """What the container of a node is called: ``kintsugi-kafka-1`` in the fleet ``kintsugi``."""
    return f"{settings.fleet.name}-{node}"


def start(settings: Settings, node: str) -> None:
    """Start the node's container; one that runs is left alone. Raises StepFailed when there is none."""
    with engine() as client:
        client.containers.get(container_name(settings, node)).start()


def kill(settings: Settings, node: str) -> None:
    """SIGKILL to all of a node at once, frozen or not; returns when nothing of it lives. No container: no error.

    Raises StepFailed when it outlives the signal for 10 s.
    """
    deadline = time.monotonic() + _ENDS_WITHIN_S
    with engine() as client, suppress(NotFound):
        container = client.containers.get(container_name(settings, node))
        while container.attrs["State"]["Running"]:
            if time.monotonic() > deadline:
                raise StepFailed(f"{node}: its container outlived SIGKILL for {_ENDS_WITHIN_S:.0f} s")
            with suppress(DockerException):  # it ended meanwhile
                container.kill()
            time.sleep(0.02)
            container.reload()


def running(settings: Settings, node: str) -> bool:
    """Whether the node's container runs (it may be frozen)."""
    with engine() as client, suppress(NotFound):
        return bool(client.containers.get(container_name(settings, node)).attrs["State"]["Running"])
    return False


def freeze(settings: Settings, node: str) -> None:
    """Stop every process of the node where it is; its address stays, and nobody answers. Frozen already: no error."""
    with engine() as client:
        container = client.containers.get(container_name(settings, node))
        if not container.attrs["State"]["Paused"]:
            container.pause()


def thaw(settings: Settings, node: str) -> None:
    """Let a frozen node go on; one that isn't frozen, or is gone, stays as it is."""
    with engine() as client, suppress(NotFound):
        container = client.containers.get(container_name(settings, node))
        if container.attrs["State"]["Paused"]:
            container.unpause()


def remove_all(settings: Settings) -> None:
    """Remove every container and volume of this installation, whatever Terraform knows of them."""
    ours = {"label": f"{STATE_LABEL}={settings.state}"}
    with engine() as client:
        for container in client.containers.list(all=True, filters=ours):
            with suppress(NotFound):
                container.remove(force=True)
        for volume in client.volumes.list(filters=ours):
            with suppress(NotFound):
                volume.remove(force=True)
