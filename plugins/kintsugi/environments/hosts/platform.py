"""The platform `hosts`: nodes are process trees of machines that exist already, reached by SSH and by a fence agent."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any

from kintsugi.core.errors import FleetError, GuardRefused, NewIncarnation, StepFailed
from kintsugi.core.fleet import Host
from kintsugi.core.processes import wait_until
from kintsugi.core.settings import Settings
from kintsugi.environments.hosts import fence_agent
from kintsugi.environments.hosts.fence_agent import Power
from kintsugi.environments.hosts.host_commands import HostSilent, answers, call_host
from kintsugi.environments.hosts.host_program import code_digest
from kintsugi.environments.hosts.node import make_bundle
from kintsugi.environments.local.node_config import certify_host_key
from kintsugi.environments.ssh_access import SshAccess
from kintsugi.infra.ssh import ensure_host_login

BOOT_S = 300.0
"""Seconds that a host may take from *on* until its sshd answers."""
_PAUSE_S = 0.5
_SILENT = "silent:"
"""How the incarnation of a node on a host begins that is on and doesn't answer: nobody can tell which one it is."""


class HostsPlatform(SshAccess):
    """Nodes as process trees of other machines (kintsugi.environments.hosts.host_program)."""

    def obstacles(self) -> Iterator[str]:
        hosts = list(self.settings.declared_fleet.hosts.values())
        with ThreadPoolExecutor(max_workers=8) as pool:
            for lines in pool.map(lambda host: list(_find_obstacles(self.settings, host)), hosts):
                yield from lines

    def power_on(self, name: str) -> None:
        node = self.settings.known_fleet.node(name)
        self._ensure_host_is_on(name)
        options = ["--role", node.role.value, "--address", node.address, "--port", str(node.ssh_port)]
        self._call(name, "create-node", *options, given=make_bundle(self.settings, name))

    def running(self, name: str) -> bool:
        return self.incarnation(name) is not None

    def incarnation(self, name: str) -> str | None:
        """Return which incarnation runs; for a silent host what its fence agent says: off is None.

        Raises StepFailed for a silent host without an agent, or if the agent can't tell.
        """
        try:
            found = self._call(name, "incarnation")
        except HostSilent as silent:
            host = self._host(name)
            if not self.settings.fleet.fence_agent:
                raise FencingImpossible(
                    f"{silent}, and there is no fence_agent to ask (docs/hosts.md)"
                ) from silent
            on = fence_agent.read_power(self.settings.fleet, host) is Power.ON
            return f"{_SILENT}{host.name}" if on else None
        return None if found is None else str(found)

    def processor_use(self, name: str) -> tuple[float, float] | None:
        try:
            use = self._call(name, "processor-use")
        except StepFailed:
            return None
        return None if use is None else (float(use[0]), float(use[1]))

    def make_room(self, names: Iterable[str], known: Callable[[], Collection[str]], *, living: bool) -> None:
        """Switch on the hosts that are off: Terraform has to reach them. A creation ends what a killed one left."""
        with ThreadPoolExecutor(max_workers=8) as pool:
            list(pool.map(self._ensure_host_is_on, names))

    def remove_all(self) -> None:
        failures = []
        for host in self.settings.declared_fleet.hosts.values():
            try:
                call_host(self.settings, host, "remove-all", "-")
            except StepFailed as failure:
                failures.append(str(failure))
        if failures:
            raise StepFailed(
                f"not every node was removed: {'; '.join(failures)}. Repair the host, or take it out of the fleet file"
            )

    def power_off(self, name: str, expected: str | None = None) -> None:
        """End the node over SSH, or its silent host by the fence agent.

        Raises GuardRefused if the host is silent and can't be fenced, NewIncarnation if another one runs than expected,
        or if the host fell silent only after the guards had evaluated it.
        """
        options = [] if expected is None else [f"--expected={expected}"]
        try:
            self._call(name, "power-off", *options)
        except HostSilent:
            host = self._host(name)
            if expected is not None and expected != f"{_SILENT}{host.name}":
                self._require_off(name, expected)
                return
            fence_agent.fence_host(self.settings.fleet, host)

    def lose_volume(self, name: str) -> None:
        self._call(name, "destroy-volume")

    def volume_exists(self, name: str) -> bool:
        """Whether the disk exists. A silent host's counts as there: a lost one may be replaced without approval."""
        try:
            return bool(self._call(name, "volume-exists"))
        except StepFailed:
            return True

    def volume_formatted(self, name: str, mark: str | None) -> bool | None:
        try:
            found = self._call(name, "volume-formatted", *([] if mark is None else ["--mark", mark]))
        except StepFailed:
            return None
        return None if found is None else bool(found)

    def discard(self, name: str) -> None:
        self._call(name, "discard")

    def hold(self, name: str, until: datetime) -> bool:
        return bool(self._call(name, "hold", "--until", until.isoformat()))

    def suspend(self, name: str) -> None:
        self._call(name, "suspend")

    def resume(self, name: str) -> None:
        self._call(name, "resume")

    def fill_disk(self, name: str) -> None:
        self._call(name, "fill-disk")

    def free_disk(self, name: str) -> bool:
        return bool(self._call(name, "free-disk"))

    def no_full_disk(self) -> str | None:
        return None

    def renew_host_certificate(self, name: str) -> None:
        public = str(self._call(name, "host-key")).encode()
        certificate = certify_host_key(self.settings, self.settings.known_fleet.node(name), public)
        self._call(name, "write-certificate", given=certificate)
        self.signal_service(name, "sshd", "HUP")

    def _host(self, name: str) -> Host:
        return self.settings.known_fleet.host_of(name)

    def _call(self, name: str, action: str, *arguments: str, given: bytes = b"") -> Any:
        return call_host(self.settings, self._host(name), action, name, *arguments, given=given)

    def _require_off(self, name: str, expected: str) -> None:
        """Raise NewIncarnation unless the silent host is off: the guards didn't evaluate a silent one."""
        if self.incarnation(name) is not None:
            raise NewIncarnation(
                f"the host of {name} fell silent since the guards evaluated it ({expected or 'not running'}). "
                "Nothing was killed; the guards are evaluated again"
            )

    def _ensure_host_is_on(self, name: str) -> None:
        """Switch the node's host on if it is off, and wait until it answers. Raises StepFailed."""
        host, fleet = self._host(name), self.settings.known_fleet
        if answers(self.settings, host):
            return
        if not fleet.fence_agent:
            raise StepFailed(
                f"the host {host.name} of {name} can't be reached at {host.address}:{host.ssh_port}: switch it on or "
                "repair its network, then try again"
            )
        if fence_agent.read_power(fleet, host) is Power.OFF:
            fence_agent.switch_on(fleet, host)
        if not wait_until(lambda: answers(self.settings, host), BOOT_S, pause=_PAUSE_S):
            raise StepFailed(
                f"the host {host.name} of {name} is switched on, but doesn't answer SSH at {host.address}:"
                f"{host.ssh_port} after {BOOT_S:.0f} s: repair it, or give {name} another host in the fleet file"
            )


class FencingImpossible(GuardRefused, StepFailed):
    """A silent host can't be fenced, so nobody may replace what may still run there; a person has to look."""


def _is_known_to_be_off(settings: Settings, host: Host) -> bool:
    try:
        return fence_agent.read_power(settings.declared_fleet, host) is Power.OFF
    except StepFailed:
        return False


def _find_obstacles(settings: Settings, host: Host) -> Iterator[str]:
    try:
        found = call_host(settings, host, "describe", "-")
    except HostSilent as silent:
        if _is_known_to_be_off(settings, host):
            return  # `make_room` switches it on
        public = ensure_host_login(settings).with_suffix(".pub").read_text().strip()
        yield (
            f"{silent}. Let its user {host.user} in by this line of ~/.ssh/authorized_keys there: {public}; "
            "and compare host_key with its /etc/ssh/ssh_host_ecdsa_key.pub"
        )
        return
    except (StepFailed, FleetError) as failure:
        yield (
            f"{failure}. The host needs this checkout with its .venv at {settings.repository}, and {settings.cache} "
            "(docs/hosts.md)"
        )
        return
    if found["code"] != code_digest(settings.repository):
        yield f"the host {host.name} has another version of {settings.repository}: copy this checkout there again"
    if not found["isolated"]:
        yield f"the host {host.name} gives its root no mount and PID namespaces: see `unshare --mount --pid true`"
    needed = {
        settings.jars(node.role.value.partition("_")[0]).name
        for node in settings.declared_fleet
        if node.host == host.name
    }
    if missing := sorted(needed.difference(found["jars"])):
        yield f"the host {host.name} lacks {', '.join(missing)} in {settings.artifacts}: copy them there"
    if found["missing"]:
        yield f"the host {host.name} lacks {', '.join(found['missing'])}: install the packages of docs/hosts.md"
