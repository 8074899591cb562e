"""What lies beneath a node's SSH: the only thing that differs between environments at run time.

``local`` and ``docker`` stand today; ``aws`` will give the same answers from its own API.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime
from typing import Protocol

from kintsugi.core.errors import FleetError, KintsugiError, NewIncarnation, StepFailed
from kintsugi.core.observation import ServiceProcess
from kintsugi.core.settings import Settings

RUN_TIMEOUT_S = 30.0


class Platform(Protocol):
    """Power and disks of the nodes, by node name."""

    def obstacles(self) -> Iterator[str]:
        """What stands in the way of running nodes here, a line each that says what to do; none: all is well."""

    def power_on(self, name: str) -> None:
        """Boot a node that Terraform made and that doesn't live; a living one stays as it is. Raises StepFailed."""

    def running(self, name: str) -> bool:
        """Whether the node lives, be it frozen."""

    def incarnation(self, name: str) -> str | None:
        """Which life of the node runs (a process and its start, a container and its start); None when none runs.

        Raises StepFailed when the platform can't say.
        """

    def processor_use(self, name: str) -> tuple[float, float] | None:
        """Seconds of processor time that the node used, and that it waited for, so far; None when not to be had."""

    def make_room(self, names: Iterable[str], known: Callable[[], Collection[str]], *, living: bool) -> None:
        """Remove what a Terraform that was killed left in the place of these nodes, so that they can be made.

        ``known`` tells the ids in Terraform's state; it is asked where it matters. Raises StepFailed where what was
        left lives, unless ``living``.
        """

    def remove_all(self) -> None:
        """End and remove every node of the installation, whatever Terraform knows of them."""

    def power_off(self, name: str, expected: str | None = None) -> None:
        """End the node at once and return when nothing of it lives; its volume stays.

        ``expected``: the incarnation that was judged, empty where none ran.

        Raises NewIncarnation, and ends nothing, when another one runs.
        """

    def lose_volume(self, name: str) -> None:
        """Take the node's disk away, as a broken disk would."""

    def volume_exists(self, name: str) -> bool:
        """Whether the node's disk is still there."""

    def volume_formatted(self, name: str, mark: str | None) -> bool | None:
        """Whether the node's disk holds data: the file or directory ``mark`` within three levels (None: any disk).

        The platform looks at the disk itself, not through the node. None when it can't be read.
        """

    def discard(self, name: str) -> None:
        """Delete what is kept of the node's predecessors, now that it is verified."""

    def hold(self, name: str, until: datetime) -> bool:
        """Keep what there is of the node's predecessors until then (UTC), also from `discard`; False: nothing is."""

    def suspend(self, name: str) -> None:
        """Freeze the whole node: its addresses stay, and nobody answers."""

    def resume(self, name: str) -> None:
        """Let a frozen node go on; one that isn't frozen, or is gone, stays as it is."""

    def fill_disk(self, name: str) -> None:
        """Leave no free byte on the node's disk. Raises StepFailed when that can't be done here."""

    def free_disk(self, name: str) -> bool:
        """Take back what filled the node's disk; False when it wasn't filled, or is gone."""

    def no_full_disk(self) -> str | None:
        """Why no node here can be given a full disk; None when it can."""

    def run(self, name: str, argv: Sequence[str]) -> str:
        """Run a command on the node, without a shell; returns what it printed. Raises StepFailed when it fails."""

    def signal_service(self, name: str, service: str, signal: str) -> None:
        """Let the node's init send a signal ("KILL", "STOP", "CONT") to one of its services."""

    def kill_service(self, name: str, process: ServiceProcess) -> None:
        """SIGKILL to exactly this process of the node; its init starts the service again.

        Raises NewIncarnation when that process is gone: another life of the service was not judged.
        """


class LocalPlatform:
    """Nodes as process trees of this machine (kintsugi.environments.local.node)."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def obstacles(self) -> Iterator[str]:
        return iter(())

    def power_on(self, name: str) -> None:
        from kintsugi.environments.local import node

        node.create_node(self.settings, name)

    def running(self, name: str) -> bool:
        from kintsugi.environments.local import node

        return node.is_alive(self.settings, name)

    def incarnation(self, name: str) -> str | None:
        from kintsugi.environments.local import node

        return node.incarnation(self.settings, name)

    def processor_use(self, name: str) -> tuple[float, float] | None:
        from kintsugi.environments.local import node_process

        return node_process.processor_use(self.settings, name)

    def make_room(self, names: Iterable[str], known: Callable[[], Collection[str]], *, living: bool) -> None:
        """Nothing to do: a node is what lies in its place, and its creation ends what a killed one left."""

    def remove_all(self) -> None:
        from kintsugi.environments.local.node import destroy_node
        from kintsugi.environments.local.node_process import names_on_disk

        names = names_on_disk(self.settings)
        with suppress(KintsugiError):
            names |= set(self.settings.fleet.nodes)
        with ThreadPoolExecutor(max_workers=4) as pool:
            list(pool.map(lambda name: destroy_node(self.settings, name), sorted(names)))

    def power_off(self, name: str, expected: str | None = None) -> None:
        from kintsugi.environments.local import node

        _require_incarnation(self, name, expected)
        node.power_off(self.settings, name)

    def lose_volume(self, name: str) -> None:
        from kintsugi.environments.local import node

        node.destroy_volume(self.settings, name)

    def volume_exists(self, name: str) -> bool:
        from kintsugi.environments.local import node

        return node.volume_exists(self.settings, name)

    def volume_formatted(self, name: str, mark: str | None) -> bool | None:
        from kintsugi.environments.local import node

        return node.volume_formatted(self.settings, name, mark)

    def discard(self, name: str) -> None:
        from kintsugi.environments.local import node

        node.purge_quarantine(self.settings, name)

    def hold(self, name: str, until: datetime) -> bool:
        from kintsugi.environments.local import node

        return bool(node.hold_quarantine(self.settings, name, until))

    def suspend(self, name: str) -> None:
        from kintsugi.environments.local import node

        node.suspend(self.settings, name)

    def resume(self, name: str) -> None:
        from kintsugi.environments.local import node

        node.resume(self.settings, name)

    def fill_disk(self, name: str) -> None:
        from kintsugi.environments.local import node_disk

        node_disk.fill(self.settings, name)

    def free_disk(self, name: str) -> bool:
        from kintsugi.environments.local import node_disk

        return node_disk.free(self.settings, name)

    def no_full_disk(self) -> str | None:
        from kintsugi.environments.local import node_disk

        return node_disk.unavailable()

    def run(self, name: str, argv: Sequence[str]) -> str:
        from kintsugi.infra import ssh

        done = ssh.run(self.settings, self.settings.fleet.node(name), argv, RUN_TIMEOUT_S)
        if done.returncode:
            said = (done.stderr or done.stdout).strip()
            raise StepFailed(f"{name}: {argv[0]} ended with status {done.returncode}: {said}")
        return done.stdout

    def signal_service(self, name: str, service: str, signal: str) -> None:
        etc = self.settings.node_root(name) / "etc"
        self.run(name, ["supervisorctl", "-c", f"{etc}/supervisord.conf", "signal", signal, service])

    def kill_service(self, name: str, process: ServiceProcess) -> None:
        from kintsugi.probes.node_view import KILLED, kill_command

        if self.run(name, kill_command(process)).strip() != KILLED:
            raise NewIncarnation(f"{name}: process {process} is gone; what runs now was not judged")


class DockerPlatform(LocalPlatform):
    """Nodes as containers (kintsugi.environments.docker); their disks are directories of the state, as in ``local``."""

    def obstacles(self) -> Iterator[str]:
        from kintsugi.infra import docker_engine

        return docker_engine.obstacles(self.settings)

    def power_on(self, name: str) -> None:
        from kintsugi.environments.docker import node

        node.create_node(self.settings, name)

    def running(self, name: str) -> bool:
        from kintsugi.infra import docker_engine

        return docker_engine.running(self.settings, name)

    def make_room(self, names: Iterable[str], known: Callable[[], Collection[str]], *, living: bool) -> None:
        from kintsugi.infra import docker_engine

        ids = known()
        for name in names:
            docker_engine.remove_unknown(self.settings, name, ids, living=living)

    def remove_all(self) -> None:
        from kintsugi.infra import docker_engine

        docker_engine.remove_all(self.settings)

    def incarnation(self, name: str) -> str | None:
        from kintsugi.infra import docker_engine

        return docker_engine.incarnation(self.settings, name)

    def processor_use(self, name: str) -> tuple[float, float] | None:
        """Unknown: the control plane's container does not see the processes of other containers."""
        return None

    def power_off(self, name: str, expected: str | None = None) -> None:
        from kintsugi.infra import docker_engine

        _require_incarnation(self, name, expected)
        docker_engine.kill(self.settings, name)

    def suspend(self, name: str) -> None:
        from kintsugi.infra import docker_engine

        docker_engine.freeze(self.settings, name)

    def resume(self, name: str) -> None:
        from kintsugi.infra import docker_engine

        docker_engine.thaw(self.settings, name)

    def fill_disk(self, name: str) -> None:
        raise StepFailed(f"{name}: {self.no_full_disk()}")

    def free_disk(self, name: str) -> bool:
        return False

    def no_full_disk(self) -> str | None:
        return "a container's disk has no bound of its own here"


def _require_incarnation(platform: Platform, name: str, expected: str | None) -> None:
    """Raise NewIncarnation when another life of the node runs than the one that was judged."""
    if expected is not None and (found := platform.incarnation(name)) not in (None, expected):
        raise NewIncarnation(
            f"{name}: {found} runs, but {expected or 'none'} was judged; judge again before it is ended"
        )


PLATFORMS = {"local": LocalPlatform, "docker": DockerPlatform}


def platform_of(settings: Settings) -> Platform:
    """The platform of the fleet's environment; raises FleetError for one that isn't built yet."""
    environment = settings.fleet.environment
    if environment not in PLATFORMS:
        known = " or ".join(PLATFORMS)
        raise FleetError(f"environment {environment!r} can't run nodes yet; set 'environment:' to {known}")
    return PLATFORMS[environment](settings)
