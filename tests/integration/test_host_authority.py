"""The host authority of SSH is replaced on real nodes and a real store; every step is killed and run again."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from kintsugi.core.errors import LeaseHeld
from kintsugi.core.processes import wait_until
from kintsugi.core.settings import Settings
from kintsugi.db.store import Store
from kintsugi.environments.local import node as nodes
from kintsugi.environments.local import node_config
from kintsugi.environments.local.platform import LocalPlatform
from kintsugi.infra import ssh
from kintsugi.releases import secret_rotation
from tests.installations import installation, open_directory
from tests.integration.db.conftest import fresh_store, postgres, store  # noqa: F401 - fixtures

NAMES = ("kafka-1", "spark-worker-1")
HOLDER, OTHER = "rotate_secrets/manual__1", "recover_node/manual__1"


class Killed(BaseException):
    """What SIGKILL does, as far as Python code can see it: nothing after it runs."""


@pytest.fixture
def settings() -> Iterator[Settings]:
    with open_directory() as directory:
        made = installation(directory, "127.57")
        try:
            for name in NAMES:
                nodes.create_node(made, name)
            yield made
        finally:
            for name in NAMES:
                nodes.destroy_node(made, name)


@pytest.fixture
def context(settings: Settings, store: Store) -> Any:  # noqa: F811
    fleet = [settings.fleet.node(name) for name in NAMES]
    return SimpleNamespace(
        settings=settings, fleet=fleet, store=store, platform=lambda: LocalPlatform(settings)
    )


def log_on(settings: Settings) -> list[bool]:
    """Whether strict host checking lets each node in, with the file that everybody uses."""
    fleet = settings.fleet
    return [ssh.run_over_ssh(settings, fleet.node(name), ["true"]).returncode == 0 for name in NAMES]


def drop(context: Any) -> bool:
    """The end of the rotation, where the fleet has these nodes only."""
    if all(ssh.shows_present_authority(context.settings, node) for node in context.fleet):
        return ssh.drop_old_host_authority(context.settings)
    return False


def test_two_rotations_lock_nobody_out_and_end_each_old_authority(context: Any) -> None:
    settings = context.settings
    for _ in range(2):
        known = ssh.key_directory(settings) / "known_hosts"
        old = known.read_text()
        ssh.publish_next_host_authority(settings)
        assert log_on(settings) == [True, True]
        node = settings.fleet.node(NAMES[0])
        with subprocess.Popen(
            ssh.ssh_command(settings, node, ["sh", "-c", "read line; echo still here"]),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as connection:
            secret_rotation.certify_hosts(context, HOLDER)
            out, _ = connection.communicate("go on\n", timeout=20)
        assert out.strip() == "still here", "the connection ended with the certificate"
        assert log_on(settings) == [True, True]
        assert drop(context)
        assert log_on(settings) == [True, True]
        assert old not in known.read_text()
        now = known.read_text()
        known.write_text(old)
        assert log_on(settings) == [False, False]
        known.write_text(now)
    assert not [
        one for one in ssh.key_directory(settings).iterdir() if one.name.startswith((".known", "tmp"))
    ]


@pytest.mark.parametrize("dies_at", ["certificate", "signal"])
def test_a_killed_step_locks_nobody_out_and_goes_on(
    context: Any, monkeypatch: pytest.MonkeyPatch, dies_at: str
) -> None:
    settings = context.settings
    ssh.publish_next_host_authority(settings)
    with monkeypatch.context() as patched:
        if dies_at == "certificate":
            patched.setattr(node_config, "renew_host_certificate", _die)
        else:
            patched.setattr(LocalPlatform, "signal_service", _die)
        with pytest.raises(Killed):
            secret_rotation.certify_hosts(context, HOLDER)
    assert log_on(settings) == [True, True]
    assert not drop(context), "a node has no certificate of the new one"
    for name in NAMES:
        LocalPlatform(settings).signal_service(name, "sshd", "HUP")  # what it reads must be of one piece
    assert wait_until(lambda: log_on(settings) == [True, True], 10)
    secret_rotation.certify_hosts(context, HOLDER)
    assert drop(context)
    assert log_on(settings) == [True, True]
    assert "none" in secret_rotation.certify_hosts(context, HOLDER)


def test_a_node_in_the_hands_of_another_run_is_left_alone(context: Any) -> None:
    settings = context.settings
    context.store.acquire_lease(NAMES[1], OTHER, 60)
    ssh.publish_next_host_authority(settings)
    with pytest.raises(LeaseHeld):
        secret_rotation.certify_hosts(context, HOLDER)
    shown = [ssh.shows_present_authority(settings, node) for node in context.fleet]
    assert shown == [True, False]
    assert log_on(settings) == [True, True]
    assert context.store.read_lease(NAMES[0]) is None


def test_a_node_that_is_built_meanwhile_is_trusted(context: Any) -> None:
    settings = context.settings
    ssh.publish_next_host_authority(settings)
    secret_rotation.certify_hosts(replace_fleet(context, NAMES[0]), HOLDER)
    nodes.destroy_node(settings, NAMES[1])
    nodes.create_node(settings, NAMES[1])
    assert log_on(settings) == [True, True]
    assert drop(context)
    assert log_on(settings) == [True, True]


def replace_fleet(context: Any, name: str) -> Any:
    return SimpleNamespace(**{**vars(context), "fleet": [context.settings.fleet.node(name)]})


def _die(*_: object) -> None:
    raise Killed
