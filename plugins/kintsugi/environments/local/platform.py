"""The platform `local`: nodes are process trees of this machine."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime

from kintsugi.core.errors import KintsugiError, NewIncarnation, NodeReturned, StepFailed
from kintsugi.core.observation import ServiceProcess
from kintsugi.core.settings import Settings
from kintsugi.environments.base import require_incarnation
from kintsugi.environments.local import node, node_config, node_disk, node_process
from kintsugi.environments.local.node import destroy_node
from kintsugi.environments.local.node_process import names_on_disk
from kintsugi.infra import ssh
from kintsugi.probes.node_view import ANSWERS, KILLED, kill_command

RUN_TIMEOUT_S = 30.0
REASON_LENGTH = 1000  # of a failed command; the error goes into the journal


class LocalPlatform:
    """Nodes as process trees of this machine (kintsugi.environments.local.node)."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

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
        require_incarnation(self, name, expected)
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

    def run(self, name: str, argv: Sequence[str]) -> str:
        done = ssh.run_over_ssh(self.settings, self.settings.known_fleet.node(name), argv, RUN_TIMEOUT_S)
        if done.returncode:
            reason = (done.stderr or done.stdout).strip()[-REASON_LENGTH:]
            raise StepFailed(f"{name}: {argv[0]} ended with status {done.returncode}: {reason}")
        return done.stdout

    def renew_host_certificate(self, name: str) -> None:
        node_config.renew_host_certificate(self.settings, self.settings.known_fleet.node(name))
        # From OpenSSH 9.8 on, it reads its files only when it starts.
        self.signal_service(name, "sshd", "HUP")

    def signal_service(self, name: str, service: str, signal: str) -> None:
        etc = self.settings.node_root(name) / "etc"
        self.run(name, ["supervisorctl", "-c", f"{etc}/supervisord.conf", "signal", signal, service])

    def kill_service(self, name: str, process: ServiceProcess) -> None:
        command = kill_command(self.settings, self.settings.known_fleet.node(name), process)
        found = self.run(name, command).strip()
        if found == ANSWERS:
            raise NodeReturned(f"{name} answers again, so nothing was killed.")
        if found != KILLED:
            raise NewIncarnation(
                f"{name}: process {process} is gone; the guards did not evaluate its successor"
            )
