"""In whose name the control plane's client acts, and what a start does about users that have changed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import jwt
import pytest

from kintsugi.controlplane.airflow_environment import read_environment
from kintsugi.controlplane.airflow_keys import JWT_SECRET
from kintsugi.controlplane.control_plane import AIRFLOW, TOKEN_FILE, ControlPlane
from kintsugi.core.errors import StepFailed
from kintsugi.core.processes import MARKER
from tests.installations import installation


class Supervisor:
    """Records what is stopped and started."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[str, ...]]] = []

    def stop(self, *names: str) -> None:
        self.calls.append(("stop", names))

    def start(self, *names: str) -> None:
        self.calls.append(("start", names))

    def answers(self) -> bool:
        return True

    def states(self) -> dict[str, dict[str, Any]]:
        return {}


@pytest.fixture
def plane(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ControlPlane:
    monkeypatch.setattr(os, "getuid", lambda: 0)
    monkeypatch.setenv("SUDO_USER", "ana")
    for name in (MARKER, TOKEN_FILE, "KINTSUGI_USERS", "AIRFLOW__CORE__AUTH_MANAGER"):
        monkeypatch.delenv(name, raising=False)
    found = ControlPlane(installation(tmp_path, "127.34"))
    found.__dict__["supervisor"] = Supervisor()
    return found


def claims(plane: ControlPlane) -> dict[str, Any]:
    secret = plane.settings.secret(JWT_SECRET)
    found: dict[str, Any] = jwt.decode(
        plane.airflow.token(), secret, algorithms=["HS512"], audience="apache-airflow"
    )
    return found


def test_its_own_client_is_no_person_and_a_command_names_who_gave_it(
    plane: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert claims(plane)["sub"] == "ana (command line)"
    monkeypatch.setenv(MARKER, str(plane.settings.control))
    assert (claims(plane)["sub"], claims(plane)["role"]) == ("kintsugi", "admin")


def test_with_another_auth_manager_the_client_reads_its_token_anew_for_each_request(
    plane: ControlPlane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "token"
    monkeypatch.setenv(TOKEN_FILE, str(file))
    with pytest.raises(StepFailed, match=str(file)):
        plane.airflow.token()
    airflow = plane.airflow
    for token in ("first", "second"):
        file.write_text(f"{token}\n")
        assert airflow.token() == token
    file.write_text("\n")
    with pytest.raises(StepFailed, match="no token"):
        airflow.token()


def test_users_that_changed_restart_the_api_server_and_nothing_else(
    plane: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = plane.__dict__["supervisor"].calls
    monkeypatch.setenv("KINTSUGI_USERS", "ana:admin,ben:operator")
    plane.launch_airflow()
    assert calls == [("stop", ("api-server",)), ("start", AIRFLOW)]
    assert (
        read_environment(plane.environment_file)["AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS"]
        == "ana:admin,ben:user"
    )
    calls.clear()
    monkeypatch.delenv("KINTSUGI_USERS")
    plane.launch_airflow()
    assert calls == [("start", AIRFLOW)]


def test_a_connection_that_changed_restarts_airflow(
    plane: ControlPlane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = plane.__dict__["supervisor"].calls
    plane.launch_airflow()
    calls.clear()
    file = tmp_path / "connections.json"
    file.write_text(json.dumps({"kintsugi_data": {"conn_type": "aws", "description": "it's\nours"}}))
    file.chmod(0o600)
    monkeypatch.setenv("KINTSUGI_CONNECTIONS", str(file))
    plane.launch_airflow()
    assert calls == [("stop", AIRFLOW), ("start", AIRFLOW)]
    named = json.loads(read_environment(plane.environment_file)["AIRFLOW_CONN_KINTSUGI_DATA"])
    assert named["description"] == "it's\nours"
    calls.clear()
    plane.launch_airflow()
    assert calls == [("start", AIRFLOW)]
