"""The page over HTTP: what it shows, to whom, and whom it lets act."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from fastapi.testclient import TestClient

from kintsugi.core.errors import KintsugiError
from kintsugi.core.incident import Phase
from kintsugi.db.store import Store
from kintsugi.web.airflow_api import AirflowReply
from kintsugi.web.headline import Situation
from kintsugi.web.incident_progress import DOING
from tests.factories import World, begin_repair, incidents

Page = Callable[[str | None], TestClient]
OURS = {"sec-fetch-site": "same-origin", "origin": "http://testserver"}
FORM = {"target": "kafka-1", "dry_run": "yes", "action": "auto"}


def situation(html: str) -> Situation:
    found = re.search(r'data-situation="([^"]+)"', html)
    assert found, html
    return Situation(found[1])


def token(client: TestClient, action: str = "recover", target: str = "kafka-1") -> str:
    found = re.search(r'name="token" value="([^"]+)"', client.get(f"/actions/{action}?target={target}").text)
    assert found is not None
    return found[1]


def seen(text: str) -> str:
    found = re.search(r"live\?seen=([0-9a-f.]+)", text)
    assert found is not None
    return found[1]


def until(ask: Callable[[], str | None], seconds: float = 5.0) -> str:
    """Ask until something is answered; the deadline is on the clock."""
    end = datetime.now(UTC).timestamp() + seconds
    while (answer := ask()) is None:
        assert datetime.now(UTC).timestamp() < end, "nothing came in time"
    return answer


@pytest.mark.parametrize(
    "path",
    [
        *(
            "/",
            "/live",
            "/series",
            "/incidents",
            "/incidents/x",
            "/incidents/x/archive",
            "/incidents/x/logs/y",
        ),
        *(
            "/actions/recover?target=kafka-1",
            "/deeds/recover?target=kafka-1",
            "/static/page.js",
            "/docs",
            "/redoc",
            "/openapi.json",
        ),
    ],
)
def test_nothing_is_open_to_strangers(page: Page, path: str) -> None:
    assert page(None).get(path).status_code in (401, 404)
    assert page(None).get("/").status_code == 401


def test_the_page_answers_in_one_look(page: Page, store: Store) -> None:
    incidents(store, 30)
    said = page("olga").get("/")
    assert said.status_code == 200
    assert situation(said.text) in (Situation.WELL, Situation.STREAM)
    assert said.text.count("data-node=") == 9
    assert ">All 30<" in said.text
    assert "default-src 'none'" in said.headers["content-security-policy"]


def test_only_what_changed_travels(page: Page, world: World) -> None:
    client = page("olga")
    digests = seen(client.get("/").text)
    assert client.get(f"/live?seen={digests}").status_code == 204
    world.down("kafka-2", datetime.now(UTC))

    def changed() -> str | None:
        answer = client.get(f"/live?seen={digests}")
        return answer.text if answer.status_code == 200 else None

    text = until(changed)
    assert situation(text) is Situation.NODE_AWAY
    assert "kafka-2" in text
    assert "innerHTML:#panel-fleet" in text
    assert "innerHTML:#panel-chaos" not in text


def test_a_repair_shows_with_its_phase_and_reason(page: Page, store: Store) -> None:
    identity = begin_repair(store, "kafka-2", steps=6)
    client = page("olga")
    front = client.get("/").text
    assert situation(front) is Situation.REPAIR_RUNNING
    assert f"{DOING[Phase.PROVISION]} (applied the judged plan)" in front
    story = client.get(f"/incidents/{identity}").text
    assert "nothing of the old node lives" in story
    assert "nothing else" in story


def test_each_panel_stands_alone_when_its_source_is_away(page: Page, store: Store, world: World) -> None:
    incidents(store, 3)
    world.errors["unusual"] = KintsugiError("no Cassandra node takes connections")
    world.errors["files"] = KintsugiError("S3 is away")
    text = page("olga").get("/").text
    assert "no Cassandra node takes connections" in text
    assert "S3 is away" in text
    assert "All 3" in text


def test_a_store_that_is_away_is_said_and_nothing_is_called_well(page: Page, world: World) -> None:
    world.errors["store"] = KintsugiError("the store can't be used")
    text = page("olga").get("/").text
    assert situation(text) is Situation.SOURCE_AWAY
    assert "the store can&#39;t be used" in text


def test_a_thousand_incidents_come_page_by_page_without_a_gap(page: Page, store: Store) -> None:
    incidents(store, 60)
    client, found, path = page("vera"), [], "/incidents?more=true"
    while path:
        text = client.get(path).text
        found += re.findall(r'href="incidents/([^"]+)"', text)
        more = re.search(r'hx-get="(incidents\?more=true[^"]*before=[^"]*)"', text)
        path = "/" + more[1].replace("&amp;", "&") if more else ""
    assert len(found) == len(set(found)) == 60
    assert "recovered" not in client.get("/incidents?outcome=failed&more=true").text
    assert client.get("/incidents?before=rubbish").status_code == 422


@pytest.mark.parametrize("route", ["actions", "deeds"])  # the second is the name of the last release
def test_an_action_is_sent_to_airflow_as_the_form_says(page: Page, world: World, route: str) -> None:
    client = page("olga")
    answer = client.post(f"/{route}/recover", data={**FORM, "token": token(client)}, headers=OURS)
    assert answer.status_code == 200
    assert "in the name of olga" in answer.text
    assert "manual__1" in answer.text
    (sent,) = world.sent
    assert sent.body["conf"] == {"node": "kafka-1", "action": "auto", "dry_run": True}


def test_an_action_by_get_does_nothing(page: Page, world: World) -> None:
    client = page("olga")
    client.get("/actions/recover", params={**FORM, "token": token(client)})
    assert world.sent == []


@pytest.mark.parametrize(
    ("user", "headers", "status"),
    [
        (None, OURS, 401),  # a stranger
        ("vera", OURS, 403),  # may look, may not act
        ("olga", {"sec-fetch-site": "cross-site", "origin": "http://evil.example"}, 403),
        ("olga", {"sec-fetch-site": "same-site", "origin": "http://testserver"}, 403),
        ("olga", {"sec-fetch-site": "same-origin", "origin": "http://evil.example"}, 403),
        ("olga", {"sec-fetch-site": "none"}, 403),
        ("olga", {"origin": "null"}, 403),
        ("olga", {"origin": "http://evil.example"}, 403),
        ("olga", {}, 403),  # no browser at all
    ],
)
def test_who_may_not_act(
    page: Page, world: World, user: str | None, headers: dict[str, str], status: int
) -> None:
    maker = page(user or "olga")
    form = {**FORM, "token": token(maker)}
    assert page(user).post("/actions/recover", data=form, headers=headers).status_code == status
    assert world.sent == []


@pytest.mark.parametrize("kind", ["none", "forged", "of another"])
def test_an_action_needs_the_token_of_a_form_made_for_this_user(page: Page, world: World, kind: str) -> None:
    client = page("olga")
    given = {"none": {}, "forged": {"token": "x.y.z"}, "of another": {"token": token(page("otto"))}}[kind]
    assert client.post("/actions/recover", data={**FORM, **given}, headers=OURS).status_code == 403
    assert world.sent == []


def test_airflows_refusal_is_shown(page: Page, world: World) -> None:
    world.answer = AirflowReply(409, said="there is such a run already")
    client = page("olga")
    answer = client.post(
        "/actions/recover", data={**FORM, "token": token(client)}, headers=OURS | {"hx-request": "true"}
    )
    assert answer.status_code == 409
    assert "there is such a run already" in answer.text


def test_a_viewer_sees_all_and_is_offered_nothing(page: Page) -> None:
    text = page("vera").get("/").text
    assert "actions/" not in text
    assert "vera" in text


def test_what_comes_from_outside_is_escaped(page: Page, store: Store) -> None:
    store.set_maintenance("*", reason="<script>alert(1)</script>", user="o'neil <b>")
    text = page("olga").get("/").text
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert(1)" in text


def test_an_unknown_incident_is_a_clear_answer(page: Page) -> None:
    answer = page("olga").get("/incidents/none-such", headers={"accept": "text/html"})
    assert answer.status_code == 404
    assert "none-such" in answer.text
