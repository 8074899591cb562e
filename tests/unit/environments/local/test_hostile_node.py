"""A compromised node exchanges its own files for links: the control plane neither reads nor writes through them."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kintsugi.core.errors import StepFailed
from kintsugi.core.fleet import Role
from kintsugi.core.settings import Settings
from kintsugi.environments.docker import node as containers
from kintsugi.environments.local import node as nodes
from kintsugi.environments.local.node_config import renew_host_certificate, write_configuration
from kintsugi.environments.local.node_isolation import Isolation, choose_isolation
from kintsugi.environments.node_files import NodeFileRefused
from kintsugi.infra import docker_engine, ssh
from kintsugi.installation.recreate_cluster import holds_data
from tests.installations import installation, open_directory

NAME = "kafka-1"
SECRET = "the password of the control plane"
WRITTEN = [
    "etc/supervisord.conf",
    "etc/sshd_config",
    "etc/rsyslog.conf",
    "etc/ssh/authorized_keys",
    "etc/ssh/host_key",
    "etc/ssh/host_key.pub",
    "etc/ssh/host_key-cert.pub",
]


@pytest.fixture
def settings() -> Iterator[Settings]:
    with open_directory() as short:  # a node's path has to be
        made = installation(short, "127.37")
        made.secrets.mkdir(mode=0o700, parents=True)
        (made.secrets / "postgres").write_text(SECRET)
        yield made


def configure(settings: Settings) -> Path:
    fleet = settings.fleet
    write_configuration(settings, fleet.node(NAME), fleet.control_plane, Isolation.CONTAINER, ssh.ssh_user())
    return settings.node_root(NAME)


def secrets_of(settings: Settings) -> dict[str, str]:
    return {
        str(path.relative_to(settings.secrets)): path.read_text()
        for path in settings.secrets.rglob("*")
        if path.is_file()
    }


def link(settings: Settings, path: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to(settings.secrets / "postgres")


def hard_link(settings: Settings, path: Path) -> None:
    path.unlink(missing_ok=True)
    path.hardlink_to(settings.secrets / "postgres")


@pytest.mark.parametrize("name", WRITTEN)
@pytest.mark.parametrize("put", [link, hard_link])
def test_a_link_in_the_place_of_a_configuration_file_is_replaced(
    settings: Settings, name: str, put: Callable[[Settings, Path], None]
) -> None:
    root = configure(settings)
    put(settings, root / name)
    before = secrets_of(settings)
    configure(settings)
    assert secrets_of(settings) == before
    assert SECRET not in (root / name).read_text()


@pytest.mark.parametrize("folder", ["etc", "etc/ssh", "etc/supervisor.d", "log", "run", "tmp"])
def test_a_directory_exchanged_for_a_link_is_refused(settings: Settings, folder: str) -> None:
    root = configure(settings)
    (root / folder).rename(root / "moved")
    (root / folder).symlink_to(settings.secrets)
    before = secrets_of(settings)
    with pytest.raises(StepFailed, match=folder):
        configure(settings)
    assert secrets_of(settings) == before


@pytest.mark.parametrize("put", [link, hard_link])
def test_a_link_as_host_key_is_not_certified(
    settings: Settings, put: Callable[[Settings, Path], None]
) -> None:
    root = configure(settings)
    put(settings, root / "etc/ssh/host_key.pub")
    before = secrets_of(settings)
    with pytest.raises(NodeFileRefused):
        renew_host_certificate(settings, settings.fleet.node(NAME))
    assert secrets_of(settings) == before


def test_a_host_key_that_is_no_key_is_refused_and_nothing_of_it_is_kept(settings: Settings) -> None:
    root = configure(settings)
    certificate = (root / "etc/ssh/host_key-cert.pub").read_bytes()
    (root / "etc/ssh/host_key.pub").write_text("no key")
    before = secrets_of(settings)
    with pytest.raises(StepFailed):
        renew_host_certificate(settings, settings.fleet.node(NAME))
    assert secrets_of(settings) == before
    assert (root / "etc/ssh/host_key-cert.pub").read_bytes() == certificate


def boot_failure(settings: Settings) -> str:
    with pytest.raises(StepFailed) as failure:
        nodes.await_boot(settings, settings.fleet.node(NAME), lambda: False)
    return str(failure.value)


@pytest.mark.parametrize("put", [link, hard_link])
def test_a_link_as_boot_log_shows_no_secret(
    settings: Settings, put: Callable[[Settings, Path], None]
) -> None:
    root = configure(settings)
    put(settings, root / "log/init.log")
    assert SECRET not in boot_failure(settings)


def test_a_fifo_as_boot_log_keeps_nobody_waiting(settings: Settings) -> None:
    os.mkfifo(configure(settings) / "log/init.log")
    assert "FIFO" in boot_failure(settings)


def test_a_boot_log_without_end_is_cut(settings: Settings) -> None:
    with (configure(settings) / "log/init.log").open("wb") as log:
        log.truncate(1 << 33)  # would not fit into memory
    assert len(boot_failure(settings)) < 2000


def test_the_socket_of_the_control_plane_is_neither_removed_nor_taken_for_the_nodes(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = configure(settings)
    with tempfile.TemporaryDirectory() as short, socket.socket(socket.AF_UNIX) as server:
        own = Path(short, "supervisor.sock")
        server.bind(str(own))
        server.listen()
        (root / "run").rename(root / "moved")
        (root / "run").symlink_to(short)
        with pytest.raises(StepFailed, match="run is a link"):
            nodes.await_boot(settings, settings.fleet.node(NAME), lambda: True)
        monkeypatch.setattr(docker_engine, "is_running", lambda *_: False)
        monkeypatch.setattr(docker_engine, "start_container", lambda *_: None)
        monkeypatch.setattr(containers, "write_configuration", lambda *_: None)
        with pytest.raises(StepFailed):
            containers.create_node(settings, NAME)
        assert own.exists()


def test_a_disk_that_is_a_link_is_there_but_not_readable(settings: Settings) -> None:
    elsewhere = settings.state / "elsewhere"
    (elsewhere / "kafka").mkdir(parents=True)
    (elsewhere / "kafka/meta.properties").touch()
    settings.node_volume(NAME).mkdir(parents=True)
    (settings.node_volume(NAME) / "data").symlink_to(elsewhere)
    assert nodes.volume_exists(settings, NAME)
    assert nodes.volume_formatted(settings, NAME, "meta.properties") is None
    with pytest.raises(StepFailed):
        nodes.create_volume(settings, NAME)


@pytest.mark.parametrize("role", [Role.KAFKA, Role.CASSANDRA])
def test_data_behind_a_link_is_no_data_of_the_node(settings: Settings, role: Role) -> None:
    node = settings.fleet.of(role)[0]
    elsewhere = settings.state / "elsewhere"
    (elsewhere / "cassandra").mkdir(parents=True)
    (elsewhere / "cassandra/joined").touch()
    (elsewhere / "kafka/__cluster_metadata-0").mkdir(parents=True)
    (elsewhere / "kafka/__cluster_metadata-0/0.log").write_text("x")
    settings.node_volume(node.name).mkdir(parents=True)
    (settings.node_volume(node.name) / "data").symlink_to(elsewhere)
    with pytest.raises(StepFailed):
        holds_data(settings, node)


@pytest.fixture
def real() -> Iterator[Settings]:
    # Not below /tmp, which each node has to itself.
    with tempfile.TemporaryDirectory(prefix="kintsugi-test-", dir="/var/tmp") as directory:
        made = installation(Path(directory), "127.38")
        yield made
        nodes.destroy_node(made, NAME)


@pytest.mark.skipif(not choose_isolation().hides_files, reason="without mount namespaces nothing is hidden")
def test_a_restarted_node_that_linked_its_files_sees_and_changes_nothing_of_ours(real: Settings) -> None:
    nodes.create_node(real, NAME)
    root = real.node_root(NAME)
    (real.secrets / "postgres").write_text(SECRET)
    nodes.power_off(real, NAME)
    (root / "tmp").rename(root / "moved")
    (root / "tmp").symlink_to(real.secrets)
    (root / "log/init.log").unlink()
    (root / "log/init.log").symlink_to(real.secrets / "postgres")
    with pytest.raises(StepFailed):
        nodes.create_node(real, NAME)
    assert (real.secrets / "postgres").read_text() == SECRET
    (root / "log/init.log").unlink()
    with pytest.raises(StepFailed, match="tmp"):
        nodes.create_node(real, NAME)
    assert not nodes.node_pids(real, NAME)
