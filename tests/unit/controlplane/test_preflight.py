from __future__ import annotations

import dataclasses
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kintsugi.controlplane import preflight
from kintsugi.core.cassandra_racks import record_zones
from kintsugi.core.certificates import create_authority
from kintsugi.core.errors import PreflightError
from kintsugi.core.membership import Membership, write_membership
from kintsugi.core.processes import MARKER, wait_until
from kintsugi.core.settings import Settings
from kintsugi.environments.local.platform import LocalPlatform
from kintsugi.infra import artifacts
from tests.installations import give_zones, installation, open_directory

HOLD = "import socket, sys, time; s = socket.create_server((sys.argv[1], int(sys.argv[2]))); time.sleep(60)"


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    monkeypatch.setattr(preflight, "MEMORY_NEEDS", 1)  # other tests may hold the machine's memory
    with open_directory() as directory:
        yield installation(directory, "127.34")


@pytest.fixture
def holder(settings: Settings) -> Iterator[subprocess.Popen[bytes]]:
    """Another program on the port that Kafka's first broker needs."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, "127.34.1.1", "9092"])
    assert wait_until(lambda: _accepts("127.34.1.1", 9092), 10)
    yield process
    process.kill()
    process.wait()


def _accepts(address: str, port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex((address, port)) == 0


def test_nothing_stands_in_the_way_of_a_fresh_installation(settings: Settings) -> None:
    preflight.check_preflight(settings)
    assert not settings.state.exists(), "preflight must leave nothing behind"


def test_taken_port_is_named_with_who_holds_it_and_who_needs_it(
    settings: Settings, holder: subprocess.Popen[bytes]
) -> None:
    with pytest.raises(PreflightError) as caught:
        preflight.check_preflight(settings)
    [line] = str(caught.value).splitlines()
    assert "port 9092 on 127.34.1.1, needed by kafka-1" in line
    assert f"pid {holder.pid}" in line
    assert "end it" in line


def test_wildcard_listener_takes_the_port_of_every_address(settings: Settings) -> None:
    with socket.create_server(("0.0.0.0", 0)) as server:
        ours = settings.fleet_file.read_text().replace("2222", str(server.getsockname()[1]))
        settings.fleet_file.write_text(ours)
        with pytest.raises(PreflightError) as caught:
            preflight.check_preflight(settings)
    assert len(str(caught.value).splitlines()) == len(settings.fleet.nodes)


def test_port_held_by_the_running_control_plane_is_no_obstacle(settings: Settings) -> None:
    environment = {**os.environ, MARKER: str(settings.control)}
    process = subprocess.Popen([sys.executable, "-c", HOLD, "127.34.0.1", "9000"], env=environment)
    try:
        assert wait_until(lambda: _accepts("127.34.0.1", 9000), 10)
        preflight.check_preflight(settings)
    finally:
        process.kill()
        process.wait()


def test_what_the_installation_holds_already_isnt_asked_for_again(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "STATE_NEEDS", 2**60)
    monkeypatch.setattr(preflight, "MEMORY_NEEDS", 2**60)
    with pytest.raises(PreflightError, match=rf"{settings.state}.* GiB"):
        preflight.check_preflight(settings)
    monkeypatch.setattr(LocalPlatform, "running", lambda _, name: name == "kafka-1")
    preflight.check_preflight(settings)


def test_every_obstacle_has_a_line_of_its_own(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, holder: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    monkeypatch.setattr(preflight, "STATE_NEEDS", 2**60)
    monkeypatch.setattr(preflight, "MEMORY_NEEDS", 2**60)
    monkeypatch.setenv("PATH", str(tmp_path))  # nothing is installed here
    empty_cache = dataclasses.replace(settings, cache=tmp_path / "cache")
    with pytest.raises(PreflightError) as caught:
        preflight.check_preflight(empty_cache)
    lines = str(caught.value).splitlines()
    facts = (
        "openjdk",
        "openssh-client",
        str(empty_cache.artifacts),
        f"{settings.state}:",
        "memory",
        "port 9092",
    )
    for fact in facts:
        assert sum(fact in line for line in lines) == 1, (fact, lines)


def test_a_wrong_setting_of_the_users_is_named_before_anything_is_started(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KINTSUGI_USERS", "ana:viewer")
    with pytest.raises(PreflightError, match="KINTSUGI_USERS names no admin"):
        preflight.check_preflight(settings)
    assert not settings.state.exists()
    monkeypatch.setenv("AIRFLOW__CORE__AUTH_MANAGER", "airflow.providers.fab.FabAuthManager")
    preflight.check_preflight(settings)


def test_another_java_is_refused_with_both_versions(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    java = tmp_path / "java"
    java.write_text("#!/bin/sh\necho 'openjdk version \"21.0.4\" 2024-07-16' >&2\n")
    java.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(PreflightError, match=r"\b21\b.*\b17\b"):
        preflight.check_preflight(settings)


@pytest.mark.skipif(os.geteuid() != 0, reason="only as root does Postgres run as another user")
def test_state_where_the_postgres_user_cannot_go_is_refused(settings: Settings, tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    with pytest.raises(PreflightError, match="closed to other users"):
        preflight.check_preflight(dataclasses.replace(settings, state=closed / "state"))


def test_a_jar_that_changed_since_it_was_verified_stands_in_the_way(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(artifacts, "altered", lambda _: ["kafka.jar has other bytes"])
    with pytest.raises(PreflightError, match=r"^kafka\.jar has other bytes$"):
        preflight.check_preflight(settings)


@pytest.mark.parametrize("has", [True, False])
def test_a_fleet_with_nodes_is_not_switched_to_or_from_tls(settings: Settings, has: bool) -> None:
    if has:
        create_authority(settings)
    say_tls(settings, not has)
    preflight.check_preflight(settings)  # without a node the fleet file decides
    settings.node_root("kafka-1").mkdir(parents=True)
    with pytest.raises(PreflightError, match=rf"{settings.fleet_file}.*\b{str(has).lower()}\b"):
        preflight.check_preflight(settings)
    say_tls(settings, has)
    preflight.check_preflight(settings)


def say_tls(settings: Settings, wanted: bool) -> None:
    text = re.sub(r"mutual_tls: \w+", f"mutual_tls: {str(wanted).lower()}", settings.fleet_file.read_text())
    settings.fleet_file.write_text(text)


def test_a_formed_cassandra_cluster_gets_no_other_zones(settings: Settings) -> None:
    zones = {"cassandra-1": "a", "cassandra-2": "b", "cassandra-3": "c"}
    give_zones(settings, zones)
    preflight.check_preflight(settings)  # before the cluster is formed the fleet file decides
    mark = settings.control / "formed" / "cassandra"
    mark.parent.mkdir(parents=True)
    mark.touch()
    with pytest.raises(PreflightError, match=rf"{settings.fleet_file}.*cassandra-2: b.*make down"):
        preflight.check_preflight(settings)
    give_zones(settings, {"kafka-1": "a", "kafka-2": "b", "kafka-3": "c"})
    preflight.check_preflight(settings)


def test_other_zones_of_members_are_refused_although_they_are_not_in_force(settings: Settings) -> None:
    write_membership(settings.control, Membership(settings.declared_fleet.nodes))
    record_zones(settings, {})
    give_zones(settings, {"cassandra-1": "a", "cassandra-2": "b", "cassandra-3": "c"})
    assert settings.fleet.node("cassandra-1").zone is None
    with pytest.raises(PreflightError, match="cassandra-1: a"):
        preflight.check_preflight(settings)
