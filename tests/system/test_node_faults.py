"""A real broker and a real Cassandra node on a full disk, and by a wrong clock: what they do and what is found out.

One node at a time, configured by Ansible as any other. The machine keeps its disk and its clock.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from kintsugi.chaos.registry import FAULTS
from kintsugi.core.fleet import Node
from kintsugi.core.observation import ProbeResult
from kintsugi.core.settings import Settings, load_settings
from kintsugi.db.store import Store
from kintsugi.environments.local import node as local
from kintsugi.environments.local import node_disk
from kintsugi.environments.local.platform import LocalPlatform
from kintsugi.infra import ssh
from kintsugi.infra.ansible import Ansible
from kintsugi.operations.context import Context
from kintsugi.operations.verification import verify_clock
from kintsugi.probes import clock_skew
from kintsugi.probes.observe import SERVICES, gather_observation
from kintsugi.probes.protocols import probe_node
from kintsugi.recovery.diagnosis import FailureMode, diagnose_node
from tests.integration import servers

FLEET = """
name: full
environment: local
ssh_port: 2222
control_plane: {{address: 127.83.0.1, airflow_port: 1, postgres_port: 2, s3_port: 3, log_port: 4}}
nodes:
  - {{name: {role}-1, role: {role}, address: {address}}}
"""
ADDRESSES = {"kafka": "127.83.1.1", "cassandra": "127.83.2.1"}


@pytest.fixture(params=ADDRESSES)
def settings(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    with tempfile.TemporaryDirectory(
        prefix="kintsugi-test-", dir="/var/tmp", ignore_cleanup_errors=True
    ) as name:
        directory = Path(name)
        text = FLEET.format(role=request.param, address=ADDRESSES[request.param])
        (directory / "fleet.yaml").write_text(text)
        monkeypatch.setenv("KINTSUGI_STATE", str(directory / "s"))
        monkeypatch.setenv("KINTSUGI_FLEET", str(directory / "fleet.yaml"))
        made = load_settings()
        try:
            yield made
        finally:
            for node in made.fleet:
                local.destroy_node(made, node.name)


def answer(node: Node) -> ProbeResult:
    return asyncio.run(probe_node(node)).answer


def wait_for(node: Node, wanted: ProbeResult, seconds: float) -> None:
    servers.wait_until(lambda: answer(node) is wanted, seconds, f"{node.name} is {wanted}")


def sizes(data: Path) -> dict[Path, tuple[int, int]]:
    """Every file below ``data``: its size, and when it was last written to."""
    found = ((path, path.stat()) for path in data.rglob("*") if path.is_file())
    return {path: (status.st_size, status.st_mtime_ns) for path, status in found}


@pytest.mark.skipif(node_disk.unavailable() is not None, reason=str(node_disk.unavailable()))
@pytest.mark.timeout(600)
def test_a_node_whose_disk_is_full_ends_and_is_known_by_its_bytes(settings: Settings) -> None:
    (node,) = settings.fleet
    local.create_node(settings, node.name)
    Ansible(settings).run("site.yml", limit=node.name, timeout_s=240)
    wait_for(node, ProbeResult.OK, 60)
    data = settings.node_volume(node.name) / "data"
    room = shutil.disk_usage(settings.state).free

    platform = LocalPlatform(settings)
    platform.fill_disk(node.name)
    platform.fill_disk(node.name)  # a second time changes nothing
    seen = asyncio.run(gather_observation(settings, node))
    assert seen.service is ProbeResult.OK  # what is open stays open
    assert diagnose_node(seen).verdict is FailureMode.FALSE_ALARM
    assert "its disk is full (0 of 16,777,216 bytes are free)" in diagnose_node(seen).reason
    written = ssh.run_over_ssh(settings, node, ["dd", "if=/dev/zero", f"of={data}/more", "bs=1k", "count=1"])
    assert "No space left on device" in written.stderr

    platform.signal_service(node.name, SERVICES[node.role], "KILL")
    beneath = sizes(data)
    diagnoses = []
    for _ in range(8):  # as long as a watch takes, and the confirmations after it
        assert answer(node) is not ProbeResult.OK
        seen = asyncio.run(gather_observation(settings, node))
        assert seen.service is not ProbeResult.OK
        if seen.room is not None:  # else a busy machine kept its sshd from answering in time
            assert seen.volume_intact is True
            diagnoses.append(diagnose_node(seen))
    assert {one.verdict for one in diagnoses} == {FailureMode.DISK_FULL}
    assert "0 of 16,777,216 bytes are free" in diagnoses[0].reason
    assert sizes(data) == beneath  # not a byte of it has changed
    assert room - shutil.disk_usage(settings.state).free < 2**29

    assert platform.free_disk(node.name) is True
    assert platform.free_disk(node.name) is False
    wait_for(node, ProbeResult.OK, 120)

    platform.fill_disk(node.name)
    platform.power_off(node.name)
    assert not (settings.node_volume(node.name) / "filler").exists()
    assert platform.free_disk(node.name) is False
    local.create_node(settings, node.name)
    wait_for(node, ProbeResult.OK, 120)


@pytest.mark.timeout(600)
def test_a_clock_that_is_an_hour_fast_is_measured_and_set_right_by_a_restart_from_the_release(
    settings: Settings,
) -> None:
    (node,) = settings.fleet
    context = Context(settings, settings.fleet, Store("no store is asked"))
    fault = FAULTS["clock_wrong"]
    assert fault.take_back is not None
    local.create_node(settings, node.name)
    if (why := fault.unavailable(context)) is not None:
        pytest.skip(why)
    Ansible(settings).run("site.yml", limit=node.name, timeout_s=240)
    wait_for(node, ProbeResult.OK, 60)
    definition = settings.node_root(node.name) / "etc" / "supervisor.d" / f"{SERVICES[node.role]}.conf"
    before = definition.read_text()
    assert ahead_s(settings, node) == 0

    fault.make(context, [node.name])
    wait_for(node, ProbeResult.OK, 90)
    ahead = ahead_s(settings, node)
    assert ahead is not None
    assert 3590 < ahead <= 3600
    seen = asyncio.run(gather_observation(settings, node))
    assert diagnose_node(replace(seen, clock_ahead_s=ahead)).verdict is FailureMode.CLOCK_WRONG
    assert seen.clock_ahead_s is None or 3590 < seen.clock_ahead_s <= 3600

    Ansible(settings).run("restart.yml", limit=node.name, timeout_s=240)
    wait_for(node, ProbeResult.OK, 60)
    assert definition.read_text() == before
    assert ahead_s(settings, node) == 0
    assert verify_clock(settings, node) == f"the clock of {node.name} agrees with its peers"

    fault.make(context, [node.name])
    fault.take_back(context, [node.name])
    assert definition.read_text() == before
    fault.take_back(context, [node.name])  # of a fault that isn't there
    wait_for(node, ProbeResult.OK, 90)
    assert ahead_s(settings, node) == 0


def ahead_s(settings: Settings, node: Node) -> float | None:
    """Asked until somebody can say: a busy machine may keep the node's sshd from answering in time."""
    for _ in range(5):
        if (ahead := asyncio.run(clock_skew.ahead_s(settings, node))) is not None:
            return ahead
    return None
