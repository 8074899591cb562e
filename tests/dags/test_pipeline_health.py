"""The page inside a real Airflow: its users, its permissions, its audit log; SQLite, no servers."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from fastapi.testclient import TestClient

from kintsugi.controlplane import accounts
from kintsugi.core.settings import load_settings
from kintsugi.web import actions

ROLES = {"vera": "viewer", "olga": "user", "otto": "user", "anna": "admin"}
USERS = "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS"
TARGETS = {
    "recover": "kafka-1",
    "pause": "*",
    "resume": "kafka-1",
    "watch": "kafka-1",
    "redrive": "",
    "chaos": "",
    "chaos_on": "",
    "chaos_off": "",
    "approve": "watch_kafka-1:manual__1:recovery.ask_a_human:-1",
    "decline": "watch_kafka-1:manual__1:recovery.ask_a_human:-1",
}
OURS = {"sec-fetch-site": "same-origin", "origin": "http://testserver"}
Page = Callable[[str | None], TestClient]


@pytest.fixture(scope="module")
def airflow(airflow_database: None) -> Any:
    """Airflow's api-server as an application, with our plugin mounted and our DAGs in its database."""
    command = [sys.executable, "-m", "airflow", "dags", "reserialize"]
    subprocess.run(command, check=True, capture_output=True, timeout=240)
    from airflow.api_fastapi.main import app

    return app


@pytest.fixture
def page(airflow: Any) -> Page:
    """A browser with the session cookie of a user, None: of nobody."""
    from airflow.api_fastapi.app import get_auth_manager
    from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser

    def of(user: str | None) -> TestClient:
        client = TestClient(airflow)
        if user:
            signed_in = SimpleAuthManagerUser(username=user, role=ROLES[user])
            client.cookies.set("_token", get_auth_manager().generate_jwt(signed_in))
        return client

    return of


def recover(client: TestClient, maker: TestClient, headers: dict[str, str]) -> Any:
    form = maker.get("/pipeline-health/actions/recover?target=kafka-1").text
    token = re.search(r'name="token" value="([^"]+)"', form)
    assert token is not None
    data = {"target": "kafka-1", "dry_run": "yes", "action": "auto", "token": token[1]}
    return client.post("/pipeline-health/actions/recover", data=data, headers=headers)


def runs() -> list[Any]:
    from airflow.models.dagrun import DagRun
    from airflow.utils.session import create_session
    from sqlalchemy import select

    with create_session() as session:
        return list(session.scalars(select(DagRun).where(DagRun.dag_id == "recover_node")).all())


def test_it_stands_in_the_navigation(page: Page) -> None:
    (plugin,) = [
        p for p in page("anna").get("/api/v2/plugins").json()["plugins"] if p["name"] == "pipeline_health"
    ]
    (view,) = plugin["external_views"]
    assert (view["name"], view["href"], view["destination"]) == (
        "Pipeline Health",
        "/pipeline-health/",
        "nav",
    )
    for icon in ("icon", "icon_dark_mode"):
        assert page("vera").get(view[icon]).headers["content-type"].startswith("image/svg")


@pytest.mark.parametrize(
    "path", ["", "live", "series", "incidents", "static/page.js", "actions/recover?target=kafka-1"]
)
def test_strangers_see_nothing(page: Page, path: str) -> None:
    assert page(None).get(f"/pipeline-health/{path}").status_code == 401


@pytest.mark.parametrize("path", ["docs", "redoc", "openapi.json"])
def test_it_has_no_documentation_of_its_own(page: Page, path: str) -> None:
    assert page("anna").get(f"/pipeline-health/{path}").status_code == 404


def test_airflow_takes_the_tokens_that_our_client_signs(airflow: Any) -> None:
    from airflow.api_fastapi.auth.tokens import get_signing_args

    from kintsugi.infra.airflow_client import sign_token

    secret = get_signing_args()["secret_key"]

    def status(token: str) -> int:
        answer = TestClient(airflow).get("/api/v2/plugins", headers={"Authorization": f"Bearer {token}"})
        return int(answer.status_code)

    assert status(sign_token(secret, "kintsugi", "admin")) == 200
    assert status(sign_token(secret, "ana (command line)", "admin")) == 200
    assert status(sign_token("x" * 64, "kintsugi", "admin")) in (401, 403)
    assert status(sign_token(secret, "nobody", "admin")) in (401, 403)


def documentation(application: Any, prefix: str = "") -> set[str]:
    """The paths below which an application and those mounted in it would answer documentation."""
    found = {prefix} if getattr(application, "openapi", None) else set()
    for route in getattr(application, "routes", ()):
        if inner := getattr(route, "app", None):
            found |= (
                documentation(inner, prefix + getattr(route, "path", ""))
                if hasattr(inner, "routes")
                else set()
            )
    return found


def test_no_application_of_the_api_server_shows_its_documentation(page: Page, airflow: Any) -> None:
    below = documentation(airflow)
    assert {"", "/auth", "/execution"} <= below
    for prefix in below:
        for name in ("docs", "redoc", "openapi.json", "docs/", "docs/oauth2-redirect", "changelog"):
            for user in (None, "anna"):
                assert page(user).get(f"{prefix}/{name}").status_code == 404, f"{prefix}/{name}"
    assert page("anna").get("/api/v2/dags").status_code == 200


def test_a_viewer_looks_but_cannot_act(page: Page) -> None:
    viewer = page("vera")
    front = viewer.get("/pipeline-health/")  # once: the page belongs to the event loop of its first request
    assert front.status_code == 200
    assert 'href="actions/' not in front.text
    assert "You are signed in as vera with read access" in front.text
    assert recover(viewer, viewer, OURS).status_code == 403
    assert runs() == []


def test_a_stranger_and_another_site_cannot_act(page: Page) -> None:
    assert recover(page(None), page("olga"), OURS).status_code == 401
    evil = {"sec-fetch-site": "cross-site", "origin": "http://evil.example"}
    assert recover(page("olga"), page("olga"), evil).status_code == 403
    assert runs() == []


def test_an_action_is_a_run_in_the_users_name_and_in_the_audit_log(page: Page) -> None:
    from airflow.models.log import Log
    from airflow.utils.session import create_session
    from sqlalchemy import select

    client = page("olga")
    answer = recover(client, client, OURS)
    assert answer.status_code == 200, answer.text
    (run,) = runs()
    assert run.run_id in answer.text
    assert run.triggering_user_name == "olga"
    assert run.conf == {"node": "kafka-1", "action": "auto", "dry_run": True}
    with create_session() as session:
        owners = session.scalars(select(Log.owner).where(Log.event == "trigger_dag_run")).all()
    assert list(owners) == ["olga"]


def trigger(client: TestClient, note: str) -> Any:
    body: dict[str, Any] = {"logical_date": None, "conf": {}, "note": note}
    return client.post("/api/v2/dags/redrive_files/dagRuns", json=body)


def test_two_users_are_told_apart(page: Page) -> None:
    from airflow.models.log import Log
    from airflow.utils.session import create_session
    from sqlalchemy import select

    with create_session() as session:
        earlier = {run.run_id for run in runs()}
        seen = set(session.scalars(select(Log.id)).all())
    for name in ("otto", "anna"):
        client = page(name)
        answer = recover(client, client, OURS)
        assert f"Done in the name of {name}" in answer.text
    started = [str(run.triggering_user_name) for run in runs() if run.run_id not in earlier]
    assert sorted(started) == ["anna", "otto"]
    with create_session() as session:
        owners = [str(log.owner) for log in session.scalars(select(Log)).all() if log.id not in seen]
    assert sorted(owners) == ["anna", "otto"]


def test_every_action_has_a_target_here() -> None:
    assert set(TARGETS) == set(actions._ACTIONS)


@pytest.mark.parametrize(("name", "target"), TARGETS.items())
def test_a_viewer_sees_each_action_and_is_refused_with_a_sentence(page: Page, name: str, target: str) -> None:
    viewer, operator = page("vera"), page("olga")
    where = f"/pipeline-health/actions/{name}"
    form = viewer.get(where, params={"target": target})
    assert form.status_code == 200
    assert re.search(r"<button[^>]* disabled", form.text)
    assert "You do not have Airflow's permission" in form.text
    token = re.search(r'name="token" value="([^"]+)"', form.text)
    assert token is not None
    data = {
        "target": target, "token": token[1], "dry_run": "yes", "action": "auto", "minutes": "30", "reason": "x",
        "lose_volume": "yes",
    }  # fmt: skip
    answer = viewer.post(where, data=data, headers=OURS)
    assert answer.status_code == 403
    assert "vera may not do this" in answer.text
    assert not re.search(r"<button[^>]* disabled", operator.get(where, params={"target": target}).text)


def test_airflow_itself_lets_each_role_do_what_it_may(page: Page) -> None:
    assert page("vera").get("/api/v2/dags").status_code == 200
    assert trigger(page("vera"), "x").status_code == 403
    assert trigger(page("olga"), "x").status_code == 200
    pool = {"name": "of-a-test", "slots": 1, "include_deferred": False}
    assert page("olga").post("/api/v2/pools", json=pool).status_code == 403
    assert page("olga").get("/api/v2/connections").status_code == 403
    assert page("anna").post("/api/v2/pools", json=pool).status_code == 201


def test_the_session_of_a_user_who_is_gone_has_ended(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    client = page("otto")
    form = "/pipeline-health/actions/chaos_off"
    assert client.get(form).status_code == 200
    monkeypatch.setenv(USERS, "vera:viewer,anna:admin")
    assert client.get(form).status_code in (401, 403)
    assert client.get("/api/v2/dags").status_code in (401, 403)


def test_a_session_has_the_role_of_today(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    client = page("otto")
    assert trigger(client, "x").status_code == 200
    monkeypatch.setenv(USERS, "otto:viewer,anna:admin")
    assert client.get("/api/v2/dags").status_code == 200
    assert trigger(client, "x").status_code == 403


def test_the_page_follows_whatever_rules_the_auth_manager_has(
    airflow: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FAB and Keycloak have rights for single DAGs; the users here have no role that SimpleAuthManager knows."""
    from kintsugi.web.access import AirflowAuthorizer

    class ByDag:
        def is_authorized_dag(self, *, method: str, access_entity: Any, details: Any, user: Any) -> bool:
            return bool((method, access_entity and access_entity.value, details.id) in user)

    monkeypatch.setattr("airflow.api_fastapi.app.get_auth_manager", ByDag)
    may, fleet = AirflowAuthorizer().may, load_settings().fleet
    form = {"dry_run": "yes", "action": "auto"}
    recovery = actions.build_request("recover", "kafka-1", form, fleet)
    stop_nights = actions.build_request("chaos_off", "", {}, fleet)
    approval = actions.build_request("approve", TARGETS["approve"], {}, fleet)
    rights = {
        ("POST", "RUN", "recover_node"): recovery,
        ("PUT", None, "chaos_nightly"): stop_nights,
        ("PUT", "HITL_DETAIL", "watch_kafka-1"): approval,
    }
    for right, allowed in rights.items():
        assert [may({right}, wanted) for wanted in rights.values()] == [
            wanted is allowed for wanted in rights.values()
        ]


def sign_in(airflow: Any, user: str, password: str) -> int:
    answer = TestClient(airflow).post("/auth/token", json={"username": user, "password": password})
    return int(answer.status_code)


def test_a_new_password_counts_at_once_and_ends_the_sessions(page: Page, airflow: Any) -> None:
    settings, client = load_settings(), page("otto")
    file = accounts.password_file(settings, "otto")
    old = file.read_text()
    assert sign_in(airflow, "otto", old) == 201
    assert client.get("/api/v2/dags").status_code == 200
    accounts.renew_password(settings, "otto")
    assert sign_in(airflow, "otto", old) == 401
    assert sign_in(airflow, "otto", file.read_text()) == 201
    later = file.stat().st_mtime + 2  # a session of the same second as the password counts as a later one
    os.utime(file, (later, later))
    assert client.get("/api/v2/dags").status_code in (401, 403)


def test_nobody_signs_in_as_the_control_plane(airflow: Any) -> None:
    passwords = {path.read_text() for path in load_settings().secrets.iterdir()}
    for name in ("kintsugi", "root (command line)"):
        assert {sign_in(airflow, name, password) for password in passwords} == {401}
