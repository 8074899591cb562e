"""A real local node (init, sshd, disk) whose service doesn't serve: what a second look finds out."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator

import pytest

from kintsugi.core.observation import ProbeResult
from kintsugi.core.settings import Settings, load_settings
from kintsugi.environments.local import node as local
from kintsugi.infra import ssh
from kintsugi.probes.observe import gather_observation
from kintsugi.recovery.diagnosis import FailureMode, diagnose_node
from tests.installations import open_directory
from tests.integration import servers

pytestmark = pytest.mark.timed

NAME = "kafka-1"
FLEET = """
name: observe
environment: local
ssh_port: 2222
control_plane: {address: 127.35.43.9, airflow_port: 1, postgres_port: 2, s3_port: 3, log_port: 4}
nodes:
  - {name: kafka-1, role: kafka, address: 127.35.43.1}
"""
PROGRAM = """
[program:kafka]
command = {python} -c "import time; time.sleep(600)"
autostart = true
stdout_logfile = {root}/log/kafka.log
redirect_stderr = true
startsecs = 0
"""


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    with open_directory() as directory:  # a short path, for the socket of the node's init
        (directory / "fleet.yaml").write_text(FLEET)
        monkeypatch.setenv("KINTSUGI_STATE", str(directory / "s"))
        monkeypatch.setenv("KINTSUGI_FLEET", str(directory / "fleet.yaml"))
        made = load_settings()
        local.create_node(made, NAME)
        try:
            yield made
        finally:
            local.destroy_node(made, NAME)


def define_service(settings: Settings) -> None:
    """A service that runs and never listens."""
    root = settings.node_root(NAME)
    (root / "etc/supervisor.d/kafka.conf").write_text(PROGRAM.format(python=sys.executable, root=root))
    control = ["supervisorctl", "-c", str(root / "etc/supervisord.conf")]
    node = settings.fleet.node(NAME)
    assert ssh.run_over_ssh(settings, node, [*control, "update"]).returncode == 0
    servers.wait_until(
        lambda: "RUNNING" in ssh.run_over_ssh(settings, node, [*control, "status", "kafka"]).stdout,
        20,
        "it runs",
    )


async def test_a_node_whose_service_is_not_there(settings: Settings) -> None:
    node = settings.fleet.node(NAME)
    started = time.monotonic()
    seen = await gather_observation(settings, node)
    assert time.monotonic() - started < 8  # bounded also on a busy machine
    assert (seen.service, seen.ssh) == (ProbeResult.REFUSED, ProbeResult.OK)
    assert seen.volume_intact is False  # the disk is there, but nobody ever formatted it

    (settings.node_volume(NAME) / "data/kafka").mkdir()
    (settings.node_volume(NAME) / "data/kafka/meta.properties").touch()
    define_service(settings)
    seen = await gather_observation(settings, node)
    assert seen.volume_intact is True
    assert seen.init_state == "RUNNING"
    assert seen.progress is not None
    assert seen.progress.startswith("its process began")
    assert diagnose_node(seen).verdict is FailureMode.STARTING

    local.power_off(settings, NAME)
    started = time.monotonic()
    seen = await gather_observation(settings, node)
    assert time.monotonic() - started < 4
    assert (seen.service, seen.ssh, seen.init_state) == (ProbeResult.REFUSED, ProbeResult.REFUSED, None)
    assert seen.volume_intact is None
    assert diagnose_node(seen).verdict is FailureMode.HOST_LOST


async def test_a_frozen_node_is_silent_and_still_answered_for_in_bounded_time(settings: Settings) -> None:
    node = settings.fleet.node(NAME)
    local.suspend_node(settings, NAME)
    try:
        started = time.monotonic()
        seen = await gather_observation(settings, node)
        assert time.monotonic() - started < 8
    finally:
        local.resume_node(settings, NAME)
    assert seen.ssh is ProbeResult.TIMEOUT
    assert seen.init_state is None
