"""When Airflow is stopped for new keys, and that it runs again whatever happens; Airflow is stood in for."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kintsugi import cli
from kintsugi.controlplane import control_plane
from kintsugi.controlplane.airflow_environment import AIRFLOW_PART
from kintsugi.controlplane.airflow_keys import JWT_SECRET, key_environment
from kintsugi.core.errors import GuardRefused, StepFailed
from kintsugi.core.processes import PART
from kintsugi.core.settings import Settings
from kintsugi.installation import airflow_key_rotation as rotation
from kintsugi.operations.context import Context
from kintsugi.releases.steady_state import Steady
from tests.installations import installation

FERNET = "AIRFLOW__CORE__FERNET_KEY"


@dataclass
class Plane:
    """Records what is done to Airflow. ``fails``: what is stored can't be encrypted anew."""

    settings: Settings
    runs: bool = True
    fails: bool = False
    signs: bool = True
    tasks: list[dict[str, Any]] = field(default_factory=list)
    done: list[str] = field(default_factory=list)

    @property
    def airflow(self) -> Any:
        return SimpleNamespace(running_tasks=lambda: self.tasks)

    def airflow_runs(self) -> bool:
        return self.runs

    def signs_tokens(self) -> bool:
        return self.signs

    def stop_airflow(self) -> None:
        self.done.append("stop")

    def encrypt_anew(self) -> None:
        self.done.append(f"encrypt with {self.keys()} keys")
        if self.fails:
            raise StepFailed("a row can't be decrypted")

    def start_airflow_again(self) -> None:
        self.done.append(f"start with {self.keys()} keys")

    def keys(self) -> int:
        return len(key_environment(self.settings)[FERNET].split(","))


@pytest.fixture
def plane(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    settings = installation(tmp_path, "127.34")
    key_environment(settings)
    monkeypatch.setattr(rotation, "observe_fleet", lambda _: Steady())
    monkeypatch.setattr(rotation, "QUIET_S", 0.0)
    monkeypatch.setattr(rotation, "POLL_S", 0.0)
    return Plane(settings)


def context(plane: Any, **held: str) -> Any:
    leases = {node: SimpleNamespace(holder=holder) for node, holder in held.items()}
    return SimpleNamespace(
        settings=plane.settings,
        fleet=plane.settings.fleet,
        store=SimpleNamespace(read_lease=lambda node: leases.get(node.replace("-", "_"))),
    )


def test_the_old_key_is_dropped_before_airflow_starts(plane: Any) -> None:
    before = key_environment(plane.settings)
    rotation.rotate_airflow_keys(context(plane), plane)
    assert plane.done == ["stop", "encrypt with 2 keys", "start with 1 keys"]
    after = key_environment(plane.settings)
    assert not [name for name in before if before[name] == after[name]]


def test_what_can_not_be_encrypted_anew_keeps_its_key_and_airflow_runs(plane: Any) -> None:
    old = key_environment(plane.settings)[FERNET]
    plane.fails = True
    with pytest.raises(StepFailed):
        rotation.rotate_airflow_keys(context(plane), plane)
    assert plane.done[-1] == "start with 2 keys"
    both = key_environment(plane.settings)[FERNET]
    assert both.endswith(f",{old}")
    plane.fails = False
    rotation.rotate_airflow_keys(context(plane), plane)
    assert key_environment(plane.settings)[FERNET] == both.partition(",")[0]


def test_another_auth_managers_tokens_stay(plane: Any) -> None:
    jwt = plane.settings.secret(JWT_SECRET)
    plane.signs = False
    rotation.rotate_airflow_keys(context(plane), plane)
    assert plane.settings.secret(JWT_SECRET) == jwt


@pytest.mark.parametrize(
    ("tasks", "held", "named"),
    [
        (
            [{"dag_id": "recover_node", "task_id": "configure", "pool": "recovery"}],
            {},
            "recover_node.configure",
        ),
        ([], {"kafka_2": "deploy_release/run-1"}, "deploy_release/run-1"),
    ],
)
def test_nothing_changes_while_a_task_or_a_run_has_work(
    plane: Any, tasks: list[dict[str, Any]], held: dict[str, str], named: str
) -> None:
    before = key_environment(plane.settings)
    plane.tasks = tasks
    with pytest.raises(GuardRefused, match=named):
        rotation.rotate_airflow_keys(context(plane, **held), plane)
    assert plane.done == []
    assert key_environment(plane.settings) == before


def test_the_ingest_need_not_end(plane: Any) -> None:
    plane.tasks = [{"dag_id": "ingest_trades", "task_id": "ingest", "pool": "ingest"}]
    rotation.rotate_airflow_keys(context(plane), plane)
    assert plane.done[0] == "stop"


def test_a_fleet_that_is_not_steady_keeps_airflow_running(
    plane: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rotation, "observe_fleet", lambda _: Steady(others=("incident 7 is open",)))
    monkeypatch.setattr("kintsugi.releases.steady_state.GATE_S", 0.0)
    with pytest.raises(GuardRefused, match="incident 7"):
        rotation.rotate_airflow_keys(context(plane), plane)
    assert plane.done == []


def test_a_task_does_not_end_itself(plane: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PART, AIRFLOW_PART)
    with pytest.raises(GuardRefused):
        rotation.rotate_airflow_keys(context(plane), plane)
    assert plane.done == []


def test_after_a_kill_that_left_airflow_down_there_is_nothing_to_wait_for(plane: Any) -> None:
    plane.runs = False
    rotation.rotate_airflow_keys(context(plane, kafka_2="a run that is gone"), plane)
    assert plane.done[-1] == "start with 1 keys"


@pytest.mark.parametrize("unfinished", [True, False])
def test_the_command_goes_on_with_a_rotation_that_is_not_finished(
    plane: Any, monkeypatch: pytest.MonkeyPatch, *, unfinished: bool
) -> None:
    """Its DAG has renewed all else already, so Airflow's keys aren't renewed a second time either."""
    done: list[str] = []
    airflow = SimpleNamespace(
        unpause=lambda _: None, trigger=lambda dag_id, _: done.append(dag_id), url="http://airflow"
    )
    monkeypatch.setattr(control_plane, "ControlPlane", lambda _: SimpleNamespace(airflow=airflow))
    monkeypatch.setattr(rotation, "rotate_airflow_keys", lambda *_: done.append("keys"))
    monkeypatch.setattr(Context, "from_environment", lambda: None)
    if unfinished:
        mark = plane.settings.control / "rotation-unfinished"
        mark.parent.mkdir(parents=True)
        mark.touch()
    assert cli.rotate_secrets(argparse.Namespace(authority=False), plane.settings) == 0
    assert done == (["rotate_secrets"] if unfinished else ["keys", "rotate_secrets"])
