"""The page inside a real Airflow: its users, its permissions, its audit log; SQLite, no servers."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from fastapi.testclient import TestClient

ROLES = {"vera": "VIEWER", "olga": "USER", "anna": "ADMIN"}
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

    assert status(sign_token(secret, "admin", "admin")) == 200
    assert status(sign_token("x" * 64, "admin", "admin")) in (401, 403)


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
    assert viewer.get("/pipeline-health/").status_code == 200
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
