"""The environment `hosts` on test hosts: made, configured, its service killed, its host cut off, fenced and rebuilt.

A Spark master and a worker have a host each (`tests.hosts.machines`). The recovery is the real one, without Airflow.
Prints the seconds that each step took (``pytest -s``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from kintsugi.core.connections import store_dsn
from kintsugi.core.errors import GuardRefused, NewIncarnation, StepFailed
from kintsugi.core.fleet import Node
from kintsugi.core.incident import Action
from kintsugi.core.observation import ProbeResult
from kintsugi.core.processes import wait_until
from kintsugi.core.settings import Settings, load_settings
from kintsugi.db.store import Store
from kintsugi.environments.hosts.platform import HostsPlatform
from kintsugi.infra.ansible import Ansible
from kintsugi.infra.ssh import ensure_host_login
from kintsugi.infra.terraform import Terraform
from kintsugi.operations.context import Context, RecoveryRef
from kintsugi.probes.protocols import probe_node
from kintsugi.recovery import actions, assessment, guard_evaluation
from kintsugi.recovery.diagnosis import FailureMode
from tests.hosts.machines import Machine, machines, reason_unavailable, write_agent
from tests.installations import open_directory
from tests.integration.test_fleet_heal import Clock, postgres

pytestmark = [
    pytest.mark.skipif(reason_unavailable() is not None, reason=f"no test hosts: {reason_unavailable()}"),
    pytest.mark.timeout(600),
]

BLOCK = "10.77.1"
HOSTS = {"h1": "spark-master-1", "h2": "spark-worker-1"}
ROLES = {"spark-master-1": "spark_master", "spark-worker-1": "spark_worker"}
WORKER, ITS_HOST = "spark-worker-1", "h2"
SERVED_WITHIN_S = 60.0


@dataclass
class Installation:
    """The fleet on its hosts, and what its tests need of both."""

    settings: Settings
    machines: dict[str, Machine]
    agent: list[str]
    clock: Clock

    @property
    def platform(self) -> HostsPlatform:
        return HostsPlatform(self.settings)

    @property
    def worker(self) -> Node:
        return self.settings.fleet.node(WORKER)

    @property
    def fenced(self) -> list[str]:
        log = self.settings.state.parent / "machines" / "fence.log"
        return [line for line in log.read_text().splitlines() if not line.startswith("status")] if log.exists() else []

    def declare(self, *, agent: bool = True) -> None:
        """Write the fleet file, with or without the fence agent."""
        document = {
            "name": "test",
            "environment": "hosts",
            "ssh_port": 2222,
            "control_plane": {
                "address": f"{BLOCK}.1",
                "airflow_port": 8080,
                "postgres_port": 5432,
                "s3_port": 9000,
                "log_port": 5514,
            },
            "hosts": {
                name: {"address": machine.address, "host_key": machine.host_key, "volume_directory": "/data/kintsugi"}
                for name, machine in self.machines.items()
            },
            **({"fence_agent": self.agent} if agent else {}),
            "nodes": [{"name": node, "role": ROLES[node], "host": host} for host, node in HOSTS.items()],
        }
        self.settings.fleet_file.write_text(yaml.safe_dump(document, sort_keys=False))

    def serves(self) -> bool:
        return asyncio.run(probe_node(self.worker)).answer is ProbeResult.OK


@pytest.fixture(scope="module")
def installed() -> Iterator[Installation]:
    clock = Clock()
    with (
        open_directory() as directory,
        machines(directory / "machines", BLOCK, list(HOSTS)) as made,
        pytest.MonkeyPatch.context() as environment,
    ):
        settings = Settings(directory / "state", load_settings().cache, directory / "fleet.yaml")
        # The probe of Spark's pages takes their key from the installation of its environment.
        environment.setenv("KINTSUGI_STATE", str(settings.state))
        environment.setenv("KINTSUGI_FLEET", str(settings.fleet_file))
        found = Installation(settings, made, write_agent(directory / "machines", made), clock)
        found.declare()
        for machine in made.values():
            machine.admit(ensure_host_login(settings).with_suffix(".pub").read_text())
        clock.tell("the hosts are on")
        with postgres(settings):
            Store(store_dsn(settings)).migrate()
            HostsPlatform(settings).make_room(settings.fleet.nodes, set, living=False)
            assert list(HostsPlatform(settings).obstacles()) == []
            clock.tell("nothing is in the way")
            Terraform(settings).apply_all()
            clock.tell("Terraform has made the nodes")
            Ansible(settings).run("site.yml", timeout_s=300)
            clock.tell("Ansible has configured them")
            yield found


def test_the_services_answer_and_no_path_is_shared(installed: Installation) -> None:
    settings, disk = installed.settings, installed.machines[ITS_HOST].disk
    assert wait_until(installed.serves, SERVED_WITHIN_S, pause=0.2)
    assert not settings.node_root(WORKER).exists(), "the node is on its host, not on the control plane's disk"
    assert not settings.node_volume(WORKER).exists()
    assert (disk / "data/kintsugi/nodes" / WORKER / "log/spark-worker.log").exists()
    seen = installed.platform.run(WORKER, ["ls", str(settings.state)]).split()
    assert sorted(seen) == ["nodes", "volumes"], "secrets, certificates and the control plane's files stay there"
    secret = next(path for path in settings.secrets.iterdir() if path.is_file())
    with pytest.raises(StepFailed):
        installed.platform.run(WORKER, ["cat", str(secret)])
    (settings.state / "written-here").write_text("by the control plane")
    with pytest.raises(StepFailed):
        installed.platform.run(WORKER, ["cat", str(settings.state / "written-here")])


def test_a_second_run_of_terraform_changes_nothing(installed: Installation) -> None:
    before = installed.platform.incarnation(WORKER)
    Terraform(installed.settings).apply_all()
    assert before is not None
    assert installed.platform.incarnation(WORKER) == before


def test_a_killed_service_is_started_again_by_its_init(installed: Installation) -> None:
    context = context_of(installed)
    before = assessment.observe_node(context, installed.worker)
    assert before.running is True
    installed.platform.signal_service(WORKER, "spark-worker", "KILL")
    assert wait_until(lambda: not installed.serves(), 10, pause=0.05)
    assert wait_until(installed.serves, SERVED_WITHIN_S, pause=0.2)
    installed.clock.tell("the killed service serves again")


def context_of(installed: Installation) -> Context:
    settings = installed.settings
    return Context(settings, settings.fleet, Store(store_dsn(settings)))


def begin_recovery(context: Context, run: str) -> tuple[RecoveryRef, str]:
    """Confirm, evaluate the guards and decide, as the watch's run does; returns the next task."""
    ref = assessment.confirm_finding(
        context, node=WORKER, holder=run, finding=None, requested=Action.AUTO, dry_run=False, started_by="test"
    )
    path = guard_evaluation.evaluate_guards(context, ref)
    assert "decide" in path, context.store.read_incident(ref.incident).entries
    return ref, guard_evaluation.choose_path(context, ref, None)


def test_without_a_fence_agent_a_silent_host_is_not_replaced(installed: Installation) -> None:
    machine, platform = installed.machines[ITS_HOST], installed.platform
    first = platform.incarnation(WORKER)
    installed.declare(agent=False)
    machine.cut_off()
    try:
        with pytest.raises(StepFailed, match="fence_agent"):
            platform.incarnation(WORKER)
        with pytest.raises(GuardRefused, match="fence_agent"):
            platform.power_off(WORKER)
        assert platform.volume_exists(WORKER), "out of sight is not lost"
        assert platform.volume_formatted(WORKER, None) is None
        assert machine.init() is not None
    finally:
        machine.power_on()
        installed.declare()
    assert wait_until(installed.serves, SERVED_WITHIN_S, pause=0.2)
    assert platform.incarnation(WORKER) == first
    assert installed.fenced == []
    with pytest.raises(NewIncarnation):
        platform.power_off(WORKER, expected="another")
    assert installed.serves()


def test_a_silent_host_is_fenced_and_its_node_rebuilt_by_a_recovery(installed: Installation) -> None:
    machine, platform, context = installed.machines[ITS_HOST], installed.platform, context_of(installed)
    first = platform.incarnation(WORKER)
    clock = Clock()
    machine.cut_off()
    init = machine.init()
    assert init is not None
    assert platform.incarnation(WORKER) == f"silent:{ITS_HOST}", "it is on, and may write"
    ref, path = begin_recovery(context, "recover_node/test")
    clock.tell("confirmed, guards evaluated, decided")
    assert actions._confirmed_mode(context, ref) is FailureMode.HOST_LOST
    assert path == "plan"
    plan = actions.plan_replacement(context, ref)
    clock.tell("planned")
    actions.fence_node(context, ref)
    assert (machine.init(), installed.fenced) == (None, [f"off {ITS_HOST}"])
    assert not init.is_running()
    clock.tell("fenced")
    actions.apply_plan(context, ref, plan)
    assert installed.fenced == [f"off {ITS_HOST}", f"on {ITS_HOST}"]
    clock.tell("provisioned")
    actions.configure_node(context, ref)
    clock.tell("configured")
    actions.rejoin_node(context, ref)
    clock.tell("the node serves again")
    assert installed.serves()
    assert platform.incarnation(WORKER) not in (None, first)
    quarantine = sorted(path.name for path in (machine.disk / "data/kintsugi/quarantine").glob(f"{WORKER}.*/*"))
    assert "root" in quarantine, "the old root stays on the host until the node is verified"
    platform.discard(WORKER)
    assert list((machine.disk / "data/kintsugi/quarantine").iterdir()) == []


def test_all_is_destroyed_and_the_data_goes_to_the_hosts_quarantine(installed: Installation) -> None:
    Terraform(installed.settings).destroy_all()
    for host, node in HOSTS.items():
        directory = installed.machines[host].disk / "data/kintsugi"
        parts = {path.name for path in Path(directory, "quarantine").glob(f"{node}.*/*")}
        assert parts >= {"root", "volume"}
        assert list((directory / "nodes").iterdir()) == []
    assert installed.platform.incarnation(WORKER) is None
    installed.platform.remove_all()
    assert list((installed.machines[ITS_HOST].disk / "data/kintsugi").iterdir()) == []
