"""A client for the Docker engine: the containers of one installation, by name and by label.

The engine's socket is that of ``DOCKER_HOST``, else the usual one.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import docker
from docker.errors import APIError, DockerException, NotFound
from requests import RequestException

from kintsugi.core.errors import StepFailed
from kintsugi.core.files import write_private

if TYPE_CHECKING:
    from docker import DockerClient
    from docker.models.containers import Container

    from kintsugi.core.settings import Settings

STATE_LABEL = "kintsugi.state"  # the installation that a container or a volume belongs to
_TIMEOUT_S = 20
_ENDS_WITHIN_S = 10.0
_CONFLICT = 409  # nothing is left to do: it is in that state already, or it has ended


@contextmanager
def connect_engine() -> Iterator[DockerClient]:
    """Yield a client of the Docker engine; an error of it, or no answer, becomes StepFailed with its message."""
    try:
        client = docker.from_env(timeout=_TIMEOUT_S)
    except (DockerException, RequestException) as error:
        raise StepFailed(f"the Docker engine doesn't answer: {error}") from error
    try:
        yield client
    except (DockerException, RequestException) as error:
        raise StepFailed(f"the Docker engine refused: {error}") from error
    finally:
        client.close()


def image_in_force(settings: Settings) -> str:
    """Return the id of the image of every node, now and after a failure.

    It is read from ``$KINTSUGI_IMAGE`` at first use, and stored in the state. An image that is built later under the
    same name must not get into a running fleet by a repair. Raises StepFailed if ``$KINTSUGI_IMAGE`` is not set.
    """
    path = settings.control / "node-image"
    if not path.exists():
        name = os.environ.get("KINTSUGI_IMAGE")
        if not name:
            raise StepFailed(
                "KINTSUGI_IMAGE doesn't name the nodes' image: start the control plane by `make docker-up`"
            )
        with connect_engine() as client:
            image_id = client.images.get(name).id
        path.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
        write_private(path, image_id)
    return path.read_text()


def find_obstacles(settings: Settings) -> Iterator[str]:
    """Yield a line that says what to do, unless the engine answers and has the nodes' image."""
    try:
        with connect_engine() as client:
            client.images.get(image_in_force(settings))
    except StepFailed as error:
        yield f"{error}: run `make docker-up` on the machine whose engine it is"


def container_name(settings: Settings, node: str) -> str:
    """Return the name of a node's container: ``kintsugi-kafka-1`` in the fleet ``kintsugi``."""
    return f"{settings.fleet.name}-{node}"


def start_container(settings: Settings, node: str) -> None:
    """Start the node's container; a running one is left alone. Raises StepFailed if there is none."""
    with _find_container(settings, node) as container:
        container.start()


def kill_container(settings: Settings, node: str) -> None:
    """Kill the node's container, paused or not; returns when it has ended. It is no error if there is none.

    Raises StepFailed if it outlives SIGKILL for 10 s.
    """
    deadline = time.monotonic() + _ENDS_WITHIN_S
    with suppress(_NoContainer), _find_container(settings, node) as container:
        while container.attrs["State"]["Running"]:
            if time.monotonic() > deadline:
                raise StepFailed(f"{node}: its container outlived SIGKILL for {_ENDS_WITHIN_S:.0f} s")
            with _ignore_codes(_CONFLICT):
                container.kill()
            time.sleep(0.02)
            container.reload()


def is_running(settings: Settings, node: str) -> bool:
    """Whether the node's container runs; a paused one does."""
    with suppress(_NoContainer), _find_container(settings, node) as container:
        return bool(container.attrs["State"]["Running"])
    return False


def read_incarnation(settings: Settings, node: str) -> str | None:
    """Return the incarnation of the node that runs, ``<container id>@<its start>``; None if no container runs."""
    with suppress(_NoContainer), _find_container(settings, node) as container:
        state = container.attrs["State"]
        return f"{container.id}@{state['StartedAt']}" if state["Running"] else None
    return None


def pause_container(settings: Settings, node: str) -> None:
    """Pause the node's container: its address stays, and nothing answers.

    One that is paused already, or doesn't run, is left alone.
    """
    with suppress(_NoContainer), _find_container(settings, node) as container, _ignore_codes(_CONFLICT):
        if not container.attrs["State"]["Paused"]:
            container.pause()


def unpause_container(settings: Settings, node: str) -> None:
    """Let a paused container go on; one that isn't paused, or is gone, is left alone."""
    with suppress(_NoContainer), _find_container(settings, node) as container, _ignore_codes(_CONFLICT):
        if container.attrs["State"]["Paused"]:
            container.unpause()


def remove_unknown(settings: Settings, node: str, known: Collection[str], *, living: bool) -> None:
    """Remove a container that has the node's name and whose id is not in ``known``, the ids in Terraform's state.

    A killed Terraform leaves one behind, and no other container can get that name. Raises StepFailed if it runs, unless
    ``living``: a Terraform that has lost its state knows no container, and all may be healthy.
    """
    with suppress(_NoContainer), _find_container(settings, node) as container:
        if container.id in known:
            return
        if container.attrs["State"]["Running"] and not living:
            name = container_name(settings, node)
            raise StepFailed(
                f"the container {name} runs, and Terraform doesn't know it: look at it, and if it is left from a run "
                f"that was killed, `docker rm --force {name}`"
            )
        container.remove(force=True)


def remove_all(settings: Settings) -> None:
    """Remove every container and volume of this installation, also those that Terraform doesn't know."""
    ours = {"label": f"{STATE_LABEL}={settings.state}"}
    with connect_engine() as client:
        for container in client.containers.list(all=True, filters=ours, ignore_removed=True):
            with suppress(NotFound):
                container.remove(force=True)
        for volume in client.volumes.list(filters=ours):
            with suppress(NotFound):
                volume.remove(force=True)


class _NoContainer(StepFailed):
    """There is no container of that name."""


@contextmanager
def _find_container(settings: Settings, node: str) -> Iterator[Container]:
    """Yield the container of a node. Raises _NoContainer if there is none, also if it goes during the block."""
    with connect_engine() as client:
        try:
            yield client.containers.get(container_name(settings, node))
        except NotFound as error:
            raise _NoContainer(f"{node} has no container: {error}") from error


@contextmanager
def _ignore_codes(*codes: int) -> Iterator[None]:
    """Ignore errors of the engine with these HTTP status codes."""
    try:
        yield
    except APIError as error:
        if error.status_code not in codes:
            raise
