"""A fleet on test hosts, and what a test needs of both."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from kintsugi.core.connections import store_dsn
from kintsugi.core.observation import ProbeResult
from kintsugi.core.processes import wait_until
from kintsugi.core.settings import Settings, load_settings
from kintsugi.db.store import Store
from kintsugi.environments.hosts.platform import HostsPlatform
from kintsugi.infra.ansible import Ansible
from kintsugi.infra.ssh import ensure_host_login
from kintsugi.infra.terraform import Terraform
from kintsugi.operations.context import Context
from kintsugi.probes.protocols import probe_node
from tests.hosts.machines import Machine, machines, write_agent
from tests.installations import open_directory
from tests.integration.test_fleet_heal import Clock, postgres

VOLUME_DIRECTORY = "/data/kintsugi"  # of every test host
SERVED_WITHIN_S = 90.0


@dataclass
class FleetOnHosts:
    """``roles``: the role of each node by its name; the n-th node runs on the n-th host."""

    settings: Settings
    block: str
    roles: Mapping[str, str]
    machines: dict[str, Machine]
    agent: list[str]
    clock: Clock

    @property
    def platform(self) -> HostsPlatform:
        return HostsPlatform(self.settings)

    @property
    def context(self) -> Context:
        return Context(self.settings, self.settings.fleet, Store(store_dsn(self.settings)))

    @property
    def fenced(self) -> list[str]:
        """What the fence agent was asked to do, in order."""
        log = self.settings.state.parent / "machines" / "fence.log"
        lines = log.read_text().splitlines() if log.exists() else []
        return [line for line in lines if not line.startswith("status")]

    def machine_of(self, node: str) -> Machine:
        return self.machines[self.settings.fleet.host_of(node).name]

    def directory_of(self, node: str) -> Path:
        """Return the volume directory of a node's host, as the test's maker of hosts sees it."""
        return self.machine_of(node).disk / VOLUME_DIRECTORY.lstrip("/")

    def quarantined(self, node: str) -> set[str]:
        """Return the parts of a node in its host's quarantine: root, volume."""
        return {path.name for path in (self.directory_of(node) / "quarantine").glob(f"{node}.*/*")}

    def declare(self, *, agent: bool = True) -> None:
        """Write the fleet file, with or without the fence agent."""
        ports = {"airflow_port": 8080, "postgres_port": 5432, "s3_port": 9000, "log_port": 5514}
        hosts = {
            name: {
                "address": machine.address,
                "host_key": machine.host_key,
                "volume_directory": VOLUME_DIRECTORY,
            }
            for name, machine in self.machines.items()
        }
        nodes = zip(self.machines, self.roles.items(), strict=True)
        document = {
            "name": "test",
            "environment": "hosts",
            "ssh_port": 2222,
            "control_plane": {"address": f"{self.block}.1", **ports},
            "hosts": hosts,
            **({"fence_agent": self.agent} if agent else {}),
            "nodes": [{"name": node, "role": role, "host": host} for host, (node, role) in nodes],
        }
        self.settings.fleet_file.write_text(yaml.safe_dump(document, sort_keys=False))

    def serves(self, node: str) -> bool:
        """Whether the production probe gets an answer."""
        return asyncio.run(probe_node(self.settings.fleet.node(node))).answer is ProbeResult.OK

    def await_service(self, node: str) -> None:
        assert wait_until(lambda: self.serves(node), SERVED_WITHIN_S, pause=0.2), f"{node} does not serve"


@contextmanager
def fleet_on_hosts(block: str, roles: Mapping[str, str]) -> Iterator[FleetOnHosts]:
    """Make a host for each node, with the fleet configured by Terraform and Ansible; all is removed at the end."""
    clock = Clock()
    names = [f"h{number}" for number, _ in enumerate(roles, start=1)]
    with (
        open_directory() as directory,
        machines(directory / "machines", block, names) as made,
        pytest.MonkeyPatch.context() as environment,
    ):
        settings = Settings(directory / "state", load_settings().cache, directory / "fleet.yaml")
        # The probe of Spark's pages takes their key from the installation of its environment.
        environment.setenv("KINTSUGI_STATE", str(settings.state))
        environment.setenv("KINTSUGI_FLEET", str(settings.fleet_file))
        fleet = FleetOnHosts(settings, block, roles, made, write_agent(directory / "machines", made), clock)
        fleet.declare()
        for machine in made.values():
            machine.admit(ensure_host_login(settings).with_suffix(".pub").read_text())
        clock.tell("the hosts are on")
        with postgres(settings):
            Store(store_dsn(settings)).migrate()
            fleet.platform.make_room(roles, set, living=False)
            assert list(fleet.platform.obstacles()) == []
            clock.tell("nothing is in the way")
            Terraform(settings).apply_all()
            clock.tell("Terraform has made the nodes")
            Ansible(settings).run("site.yml", timeout_s=300)
            for node in roles:
                fleet.await_service(node)
            clock.tell("Ansible has configured them, and they serve")
            yield fleet
