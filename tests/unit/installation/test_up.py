from __future__ import annotations

import io
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from kintsugi.core.errors import FleetError, KintsugiError, StepFailed
from kintsugi.core.membership import read_membership
from kintsugi.core.settings import Settings
from kintsugi.installation import up as ups
from kintsugi.installation.installation_lock import hold_installation_lock
from kintsugi.installation.up import (
    PARTS,
    describe_moved,
    record_members,
    remove_installation,
    run_in_foreground,
)
from tests.installations import installation


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return installation(tmp_path, "127.34")


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), width=200)


def test_down_with_nothing_there_does_nothing(settings: Settings, console: Console) -> None:
    remove_installation(settings, console)
    assert not settings.state.exists()


def test_down_clears_what_a_crash_left_on_disk(settings: Settings, console: Console) -> None:
    for part in PARTS:
        (settings.state / part).mkdir(parents=True)
    (settings.state / "lock").rmdir()
    (settings.state / "nodes/kafka-1/log").mkdir(parents=True)
    (settings.control / "supervisord.pid").write_text("1\n")
    (settings.control / "postgres").mkdir()
    (settings.control / "postgres/postmaster.pid").write_text("1\n/elsewhere\n")
    remove_installation(settings, console)
    assert not settings.state.exists()


def test_down_never_deletes_what_is_not_kintsugis(settings: Settings, console: Console) -> None:
    (settings.state / "control").mkdir(parents=True)
    (settings.state / "thesis.tex").write_text("years of work")
    remove_installation(settings, console)
    assert [path.name for path in settings.state.iterdir()] == ["thesis.tex"]


def test_two_at_once_are_refused_with_the_pid_of_the_first(settings: Settings, console: Console) -> None:
    with (
        hold_installation_lock(settings),
        pytest.raises(KintsugiError, match=rf"pid {os.getpid()}\b"),
    ):
        remove_installation(settings, console)
    remove_installation(settings, console)


class Life:
    """A container's life: what its control plane does, and what became of the file that says that all is up."""

    def __init__(self, ready: Path) -> None:
        self.ready = ready
        self.events: list[str] = []
        self.failures: list[Exception] = []
        self.healthy = self.answers = True
        self.supervisor = SimpleNamespace(answers=lambda: self.answers, logs=ready.parent)
        self.airflow = SimpleNamespace(healthy=lambda: self.healthy)

    def up(self, *_: object) -> None:
        self.events.append(f"up {self.ready.exists()}")
        if self.failures:
            raise self.failures.pop(0)

    def stop(self) -> None:
        self.events.append(f"stop {self.ready.exists()}")

    def end(self) -> None:
        self.events.append("said")
        os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture
def life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Life]:
    life = Life(tmp_path / "up")
    monkeypatch.setattr(ups, "ControlPlane", lambda _: life)
    monkeypatch.setattr(ups, "start_installation", life.up)
    monkeypatch.setattr(ups, "LOOK_S", 0.01)
    monkeypatch.setattr(ups, "RETRY_S", 0.01)
    before = signal.getsignal(signal.SIGTERM)
    yield life
    signal.signal(signal.SIGTERM, before)


def test_a_container_that_is_told_to_end_stops_its_control_plane(settings: Settings, life: Life) -> None:
    life.ready.touch()  # of a life that was killed
    run_in_foreground(settings, say=life.end, ready=life.ready)
    assert life.events == ["up False", "said", "stop False"]


def test_what_stands_in_a_nodes_way_doesnt_end_the_healer(
    settings: Settings, life: Life, capsys: pytest.CaptureFixture[str]
) -> None:
    life.failures = [StepFailed("kafka-1 did not start"), OSError("no host")]
    run_in_foreground(settings, say=life.end, ready=life.ready)
    assert life.events == ["up False"] * 3 + ["said", "stop False"]
    printed = capsys.readouterr().err
    assert "kafka-1 did not start" in printed
    assert "no host" in printed


def test_a_control_plane_that_doesnt_come_up_ends_its_container(settings: Settings, life: Life) -> None:
    life.failures, life.healthy = [StepFailed("no Postgres")], False
    with pytest.raises(StepFailed, match="no Postgres"):
        run_in_foreground(settings, say=life.end, ready=life.ready)
    assert life.events == ["up False"]


def test_a_container_without_a_supervisor_ends_so_that_another_begins(settings: Settings, life: Life) -> None:
    life.answers = False
    with pytest.raises(StepFailed, match=str(life.ready.parent)):
        run_in_foreground(settings, say=lambda: None, ready=life.ready)
    assert not life.ready.exists()


def test_the_container_that_would_start_it_again_refuses_to_take_it_down(
    settings: Settings, console: Console, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.state.mkdir()
    monkeypatch.setattr(ups, "READY", tmp_path / "up")
    (tmp_path / "up").touch()
    with pytest.raises(KintsugiError, match="make docker-down"):
        remove_installation(settings, console)
    assert settings.state.exists()


def members(settings: Settings) -> set[str]:
    record = read_membership(settings.control)
    assert record is not None
    return set(record.members)


def test_a_new_fleet_has_every_declared_node(settings: Settings) -> None:
    record_members(settings, [])
    assert members(settings) == set(settings.declared_fleet.nodes)


def test_a_fleet_from_before_the_record_has_the_nodes_that_were_configured(settings: Settings) -> None:
    configured = set(settings.declared_fleet.nodes) - {"kafka-3"}
    record_members(settings, configured)
    assert members(settings) == configured
    assert "kafka-3" not in settings.fleet.nodes, "make up does not make it"


def test_a_record_is_kept_whatever_the_fleet_file_says_now(settings: Settings) -> None:
    record_members(settings, [])
    lines = settings.fleet_file.read_text().splitlines(keepends=True)
    settings.fleet_file.write_text("".join(line for line in lines if "kafka-3" not in line))
    record_members(settings, [])
    assert "kafka-3" in settings.fleet.nodes


def test_a_node_that_exists_and_is_not_declared_stops_the_first_record(settings: Settings) -> None:
    with pytest.raises(FleetError, match="kafka-4"):
        record_members(settings, ["kafka-1", "kafka-4"])
    assert read_membership(settings.control) is None


def test_an_edit_that_is_not_in_force_is_named(settings: Settings) -> None:
    record_members(settings, [])
    assert describe_moved(settings) == ""
    text = settings.fleet_file.read_text()
    settings.fleet_file.write_text(text.replace("127.34.1.2}", "127.34.1.9}"))
    assert "kafka-2" in describe_moved(settings)
    assert "make scale-fleet" in describe_moved(settings)
