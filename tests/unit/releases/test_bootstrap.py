"""What `make up` records before the first node is configured: the zones that Cassandra's cluster is formed with."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kintsugi.core.cassandra_racks import formed_zones, record_zones
from kintsugi.core.settings import Settings
from kintsugi.operations import stream_driver
from kintsugi.releases import assignment, bootstrap, drift, release_artifacts
from kintsugi.releases.archive import Release
from tests.installations import give_zones, installation

ZONES = {"cassandra-1": "a", "cassandra-2": "b", "cassandra-3": "c"}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    made = installation(tmp_path, "127.34")
    give_zones(made, ZONES | {"spark-worker-1": "a"})
    return made


def stop_before_ansible(context: Any) -> None:
    raise InterruptedError


def start(settings: Settings, monkeypatch: pytest.MonkeyPatch, release: Release | None = None) -> None:
    """Start a fleet whose nodes have the release, None: this checkout; it is killed before Ansible runs."""
    groups = {release.digest if release else None: list(settings.fleet.nodes)}
    store = SimpleNamespace(node_releases=lambda: groups)
    monkeypatch.setattr(drift, "nodes_by_release", lambda *_: groups)
    monkeypatch.setattr(assignment, "open_release", lambda *_: release)
    monkeypatch.setattr(stream_driver, "driver_variables", stop_before_ansible)
    context: Any = SimpleNamespace(settings=settings, fleet=settings.fleet, store=store)
    with pytest.raises(InterruptedError):
        bootstrap.start_fleet(context)


def test_the_zones_are_recorded_before_a_node_is_configured(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    start(settings, monkeypatch)
    assert formed_zones(settings) == ZONES


def test_a_record_stands_and_a_cluster_without_one_gets_none(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = settings.control / "formed" / "cassandra"
    mark.parent.mkdir(parents=True)
    mark.touch()
    start(settings, monkeypatch)
    assert formed_zones(settings) == {}
    record_zones(settings, {"cassandra-1": "x"})
    start(settings, monkeypatch)
    assert formed_zones(settings) == {"cassandra-1": "x"}


def test_a_node_of_an_older_release_is_formed_as_that_release_says(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = installation(tmp_path / "old", "127.34")
    release = Release("0" * 64, old.fleet_file.parent)
    start(settings, monkeypatch, release)
    assert formed_zones(settings) == {}


def test_the_jars_of_the_release_that_a_node_runs_are_fetched_before_it_is_configured(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a restore on another machine they may not be those of the checkout."""
    fetched: list[Release] = []
    monkeypatch.setattr(
        release_artifacts, "fetch_artifacts", lambda context, release: fetched.append(release)
    )
    release = Release("0" * 64, settings.fleet_file.parent)
    start(settings, monkeypatch, release)
    assert fetched == []  # it was ended before
    monkeypatch.setattr(stream_driver, "driver_variables", lambda context: {})

    class Stopped:
        def __init__(self, settings: Settings, source: Release) -> None:
            assert fetched == [source]
            raise InterruptedError

    monkeypatch.setattr(bootstrap, "Ansible", Stopped)
    store: Any = SimpleNamespace(node_releases=lambda: {"kafka-1": release.digest})
    context: Any = SimpleNamespace(settings=settings, fleet=settings.fleet, store=store)
    with pytest.raises(InterruptedError):
        bootstrap.start_fleet(context)
