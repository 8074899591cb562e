"""The containers of one installation, found by name and by label, through the engine's API.

The engine's socket is where ``DOCKER_HOST`` says, else in its usual place.
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
from kintsugi.infra.supervisord import write_private

if TYPE_CHECKING:
    from docker import DockerClient
    from docker.models.containers import Container

    from kintsugi.core.settings import Settings

STATE_LABEL = "kintsugi.state"  # which installation a container or a volume belongs to
_TIMEOUT_S = 20
_ENDS_WITHIN_S = 10.0
_CONFLICT = 409  # it is already as it was to be, or it ended meanwhile


@contextmanager
def connect_engine() -> Iterator[DockerClient]:
    """A client of the Docker engine; what it refuses, and its silence, become StepFailed with its words."""
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
    """The id of the image that every node is made of, now and after a failure.

    It is settled at first use, by what ``$KINTSUGI_IMAGE`` is then, and kept in the state: an image that is built later
    under the same name must not get into a living fleet by a repair. Raises StepFailed when nothing says which.
    """
    kept = settings.control / "node-image"
    if not kept.exists():
        name = os.environ.get("KINTSUGI_IMAGE")
        if not name:
            raise StepFailed(
                "KINTSUGI_IMAGE doesn't name the nodes' image: start the control plane by `make docker-up`"
            )
        with connect_engine() as client:
            found = client.images.get(name).id
        kept.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
        write_private(kept, found)
    return kept.read_text()


def find_obstacles(settings: Settings) -> Iterator[str]:
    """A line that says what to do, unless the engine answers and has the nodes' image."""
    try:
        with connect_engine() as client:
            client.images.get(image_in_force(settings))
    except StepFailed as error:
        yield f"{error}: run `make docker-up` on the machine whose engine it is"


def container_name(settings: Settings, node: str) -> str:
    """What the container of a node is called: ``kintsugi-kafka-1`` in the fleet ``kintsugi``."""
    return f"{settings.fleet.name}-{node}"


def start_container(settings: Settings, node: str) -> None:
    """Start the node's container; one that runs is left alone. Raises StepFailed when there is none."""
    with _find_container(settings, node) as container:
        container.start()


def kill_container(settings: Settings, node: str) -> None:
    """SIGKILL to all of a node at once, frozen or not; returns when nothing of it lives. No container: no error.

    Raises StepFailed when it outlives the signal for 10 s.
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
    """Whether the node's container runs (it may be frozen)."""
    with suppress(_NoContainer), _find_container(settings, node) as container:
        return bool(container.attrs["State"]["Running"])
    return False


def read_incarnation(settings: Settings, node: str) -> str | None:
    """The life of the node that runs now, ``<container id>@<its start>``; None when its container doesn't run."""
    with suppress(_NoContainer), _find_container(settings, node) as container:
        state = container.attrs["State"]
        return f"{container.id}@{state['StartedAt']}" if state["Running"] else None
    return None


def pause_container(settings: Settings, node: str) -> None:
    """Stop every process of the node where it is; its address stays, and nobody answers.

    One that is frozen already, or doesn't live, stays as it is.
    """
    with suppress(_NoContainer), _find_container(settings, node) as container, _ignore_codes(_CONFLICT):
        if not container.attrs["State"]["Paused"]:
            container.pause()


def unpause_container(settings: Settings, node: str) -> None:
    """Let a frozen node go on; one that isn't frozen, or is gone, stays as it is."""
    with suppress(_NoContainer), _find_container(settings, node) as container, _ignore_codes(_CONFLICT):
        if container.attrs["State"]["Paused"]:
            container.unpause()


def remove_unknown(settings: Settings, node: str, known: Collection[str], *, living: bool) -> None:
    """Remove a container that has the node's name and that Terraform doesn't know (``known``: the ids that it does).

    A Terraform that was killed leaves one behind, and nobody else can have that name then. Raises StepFailed where
    it runs, unless ``living`` allows it: without its state Terraform knows none, and all may be well.
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
    """Remove every container and volume of this installation, whatever Terraform knows of them."""
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
    """The container of a node. Raises _Gone when there is none, also when it goes meanwhile."""
    with connect_engine() as client:
        try:
            yield client.containers.get(container_name(settings, node))
        except NotFound as error:
            raise _NoContainer(f"{node} has no container: {error}") from error


@contextmanager
def _ignore_codes(*codes: int) -> Iterator[None]:
    """Let these answers of the engine pass."""
    try:
        yield
    except APIError as error:
        if error.status_code not in codes:
            raise
