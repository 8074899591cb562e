"""The environment `hosts` on a test host: made, configured, its service killed, its host cut off, fenced and made anew.

The recovery with its guards is in `tests/system/test_hosts.py`. Prints the seconds that each step took (``pytest -s``).
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kintsugi.core.errors import GuardRefused, NewIncarnation, StepFailed
from kintsugi.core.processes import wait_until
from kintsugi.infra.ansible import Ansible
from kintsugi.infra.terraform import Terraform
from kintsugi.recovery import plan_policy
from tests.hosts.fleets import FleetOnHosts, fleet_on_hosts
from tests.hosts.machines import reason_unavailable

pytestmark = [
    pytest.mark.skipif(reason_unavailable() is not None, reason=f"no test hosts: {reason_unavailable()}"),
    pytest.mark.timeout(600),
]
WORKER, HOST = "spark-worker-1", "h1"


@pytest.fixture(scope="module")
def fleet() -> Iterator[FleetOnHosts]:
    with fleet_on_hosts("10.77.1", {WORKER: "spark_worker", "spark-master-1": "spark_master"}) as made:
        yield made


def test_no_path_is_shared_with_the_control_plane(fleet: FleetOnHosts) -> None:
    settings = fleet.settings
    assert not settings.node_root(WORKER).exists(), "the node is on its host, not on the control plane's disk"
    assert not settings.node_volume(WORKER).exists()
    assert (fleet.directory_of(WORKER) / "nodes" / WORKER / "log/spark-worker.log").exists()
    seen = fleet.platform.run(WORKER, ["ls", str(settings.state)]).split()
    assert sorted(seen) == ["nodes", "volumes"], "secrets and the control plane's files stay there"
    (settings.state / "written-here").write_text("by the control plane")
    secret = next(path for path in settings.secrets.iterdir() if path.is_file())
    for path in (secret, settings.state / "written-here"):
        with pytest.raises(StepFailed, match="No such file"):
            fleet.platform.run(WORKER, ["cat", str(path)])


def test_a_second_run_of_terraform_changes_nothing(fleet: FleetOnHosts) -> None:
    before = fleet.platform.incarnation(WORKER)
    Terraform(fleet.settings).apply_all()
    assert before is not None
    assert fleet.platform.incarnation(WORKER) == before


def test_a_killed_service_is_started_again_by_its_init(fleet: FleetOnHosts) -> None:
    fleet.platform.signal_service(WORKER, "spark-worker", "KILL")
    assert wait_until(lambda: not fleet.serves(WORKER), 10, pause=0.05)
    fleet.await_service(WORKER)
    fleet.clock.tell("the killed service serves again")


def test_without_a_fence_agent_a_silent_host_is_not_replaced(fleet: FleetOnHosts) -> None:
    machine, platform = fleet.machine_of(WORKER), fleet.platform
    first = platform.incarnation(WORKER)
    fleet.declare(agent=False)
    machine.cut_off()
    try:
        with pytest.raises(GuardRefused, match="fence_agent"):
            platform.power_off(WORKER)
        assert machine.init() is not None
    finally:
        machine.power_on()
        fleet.declare()
    fleet.await_service(WORKER)
    assert platform.incarnation(WORKER) == first
    assert fleet.fenced == []


def test_only_the_incarnation_that_was_evaluated_is_ended(fleet: FleetOnHosts) -> None:
    with pytest.raises(NewIncarnation):
        fleet.platform.power_off(WORKER, expected="another")
    assert fleet.serves(WORKER)


def test_a_silent_host_is_fenced_and_its_node_made_anew(fleet: FleetOnHosts) -> None:
    machine, platform, terraform = fleet.machine_of(WORKER), fleet.platform, Terraform(fleet.settings)
    first = platform.incarnation(WORKER)
    machine.cut_off()
    silent = platform.incarnation(WORKER)
    assert silent == f"silent:{HOST}", "it is on, and may write"
    platform.power_off(WORKER, expected=silent)
    assert (machine.init(), fleet.fenced) == (None, [f"off {HOST}"])
    fleet.clock.tell("fenced")
    addresses = plan_policy.node_addresses("hosts", WORKER, with_volume=True)
    saved = terraform.plan(replace=addresses, targets=addresses)
    plan_policy.check_plan(saved.document, addresses)
    platform.make_room([WORKER], terraform.known, living=True)
    terraform.apply(saved)
    assert fleet.fenced == [f"off {HOST}", f"on {HOST}"]
    assert platform.incarnation(WORKER) not in (None, first)
    fleet.clock.tell("a new node")
    assert fleet.quarantined(WORKER) == {"root", "volume"}, "kept on the host until the node is verified"
    Ansible(fleet.settings).run("site.yml", limit=WORKER, timeout_s=300)
    fleet.await_service(WORKER)
    fleet.clock.tell("it serves")
    platform.discard(WORKER)
    assert fleet.quarantined(WORKER) == set()


def test_all_is_destroyed_and_the_data_goes_to_the_hosts_quarantine(fleet: FleetOnHosts) -> None:
    Terraform(fleet.settings).destroy_all()
    for node in fleet.roles:
        assert fleet.quarantined(node) == {"root", "volume"}
        assert fleet.platform.incarnation(node) is None
    fleet.platform.remove_all()
    assert list(fleet.directory_of(WORKER).iterdir()) == []
    fleet.clock.tell("all is removed")
