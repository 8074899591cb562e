"""The platform `docker`: nodes are containers, their disks directories of the state, as in ``local``."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator

from kintsugi.core.errors import StepFailed
from kintsugi.environments.base import require_incarnation
from kintsugi.environments.docker import node
from kintsugi.environments.local.platform import LocalPlatform
from kintsugi.infra import docker_engine


class DockerPlatform(LocalPlatform):
    """Nodes as containers (kintsugi.environments.docker); their disks are directories of the state, as in ``local``."""

    def obstacles(self) -> Iterator[str]:
        return docker_engine.find_obstacles(self.settings)

    def power_on(self, name: str) -> None:
        node.create_node(self.settings, name)

    def running(self, name: str) -> bool:
        return docker_engine.is_running(self.settings, name)

    def make_room(self, names: Iterable[str], known: Callable[[], Collection[str]], *, living: bool) -> None:
        ids = known()
        for name in names:
            docker_engine.remove_unknown(self.settings, name, ids, living=living)

    def remove_all(self) -> None:
        docker_engine.remove_all(self.settings)

    def incarnation(self, name: str) -> str | None:
        return docker_engine.read_incarnation(self.settings, name)

    def processor_use(self, name: str) -> tuple[float, float] | None:
        """Return None: the control plane's container does not see the processes of other containers."""
        return None

    def power_off(self, name: str, expected: str | None = None) -> None:
        require_incarnation(name, expected, lambda: self.incarnation(name))
        docker_engine.kill_container(self.settings, name)

    def suspend(self, name: str) -> None:
        docker_engine.pause_container(self.settings, name)

    def resume(self, name: str) -> None:
        docker_engine.unpause_container(self.settings, name)

    def fill_disk(self, name: str) -> None:
        raise StepFailed(f"{name}: {self.no_full_disk()}")

    def free_disk(self, name: str) -> bool:
        return False

    def no_full_disk(self) -> str | None:
        return "a container's disk has no limit of its own here"
