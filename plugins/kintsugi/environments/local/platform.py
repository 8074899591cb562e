"""The platform `local`: nodes are process trees of this machine."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime

from kintsugi.core.errors import KintsugiError
from kintsugi.environments.base import require_incarnation
from kintsugi.environments.local import node, node_config, node_disk, node_process
from kintsugi.environments.local.node import destroy_node
from kintsugi.environments.local.node_process import names_on_disk
from kintsugi.environments.ssh_access import SshAccess


class LocalPlatform(SshAccess):
    """Nodes as process trees of this machine (kintsugi.environments.local.node)."""

    def obstacles(self) -> Iterator[str]:
        return iter(())

    def power_on(self, name: str) -> None:
        node.create_node(self.settings, name)

    def running(self, name: str) -> bool:
        return node.is_alive(self.settings, name)

    def incarnation(self, name: str) -> str | None:
        return node.read_incarnation(self.settings, name)

    def processor_use(self, name: str) -> tuple[float, float] | None:
        return node_process.processor_use(self.settings, name)

    def make_room(self, names: Iterable[str], known: Callable[[], Collection[str]], *, living: bool) -> None:
        """Do nothing: the creation of a node ends what a killed creation left."""

    def remove_all(self) -> None:
        names = names_on_disk(self.settings)
        with suppress(KintsugiError):
            names |= set(self.settings.fleet.nodes)
        with ThreadPoolExecutor(max_workers=4) as pool:
            list(pool.map(lambda name: destroy_node(self.settings, name), sorted(names)))

    def power_off(self, name: str, expected: str | None = None) -> None:
        require_incarnation(name, expected, lambda: self.incarnation(name))
        node.power_off(self.settings, name)

    def lose_volume(self, name: str) -> None:
        node.destroy_volume(self.settings, name)

    def volume_exists(self, name: str) -> bool:
        return node.volume_exists(self.settings, name)

    def volume_formatted(self, name: str, mark: str | None) -> bool | None:
        return node.volume_formatted(self.settings, name, mark)

    def discard(self, name: str) -> None:
        node.purge_quarantine(self.settings, name)

    def hold(self, name: str, until: datetime) -> bool:
        return bool(node.hold_quarantine(self.settings, name, until))

    def suspend(self, name: str) -> None:
        node.suspend_node(self.settings, name)

    def resume(self, name: str) -> None:
        node.resume_node(self.settings, name)

    def fill_disk(self, name: str) -> None:
        node_disk.fill_volume(self.settings, name)

    def free_disk(self, name: str) -> bool:
        return node_disk.free_volume(self.settings, name)

    def no_full_disk(self) -> str | None:
        return node_disk.reason_unavailable()

    def renew_host_certificate(self, name: str) -> None:
        node_config.renew_host_certificate(self.settings, self.settings.known_fleet.node(name))
        # From OpenSSH 9.8 on, it reads its files only when it starts.
        self.signal_service(name, "sshd", "HUP")
