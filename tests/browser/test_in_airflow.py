"""Pipeline Health in a running Airflow: sign in, look, see a node go down live, act, decide. The nodes are pretended.

Airflow, Postgres and S3 are an installation of their own. The fleet's nodes are sockets that answer the watch, so a
failure is noticed by the real sensor and judged by the real guards; what a repair does to a server, the
scenarios prove.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime

import pytest
from playwright.sync_api import FrameLocator, Page, expect

from kintsugi.controlplane import accounts
from kintsugi.controlplane.control_plane import ControlPlane
from kintsugi.core.connections import store_dsn
from kintsugi.db.store import Store
from tests.browser.pretend import PretendFleet
from tests.factories import incidents
from tests.installations import installation, open_directory

Browse = Callable[..., Page]
USERS = "ana:admin,ben:operator,vera:viewer"
SLOW = 120_000  # milliseconds: two cores that start an Airflow beside a browser
RECORD_DOWN = """
() => { const at = () => document.querySelector("[data-node=kafka-2]")?.textContent.includes("down");
  window.downAt = 0; new MutationObserver(() => { if (!window.downAt && at()) window.downAt = Date.now(); })
  .observe(document.body, { subtree: true, childList: true, characterData: true }); }
"""

pytestmark = pytest.mark.timeout(1200)


@pytest.fixture(scope="module")
def plane() -> Iterator[ControlPlane]:
    """Airflow with its storage, healthy, and all nine servers pretended."""
    with open_directory() as directory:
        plane = ControlPlane(installation(directory, "127.38"))
        with pytest.MonkeyPatch.context() as patch, PretendFleet(plane.settings.fleet) as fleet:
            patch.setenv("KINTSUGI_USERS", USERS)
            plane.__dict__["pretended"] = fleet
            try:
                plane.start_storage()
                Store(store_dsn(plane.settings)).migrate()
                plane.migrate()
                plane.start_airflow()
                yield plane
            finally:
                plane.remove()


@pytest.fixture
def fleet(plane: ControlPlane) -> PretendFleet:
    found: PretendFleet = plane.__dict__["pretended"]
    return found


def sign_in(plane: ControlPlane, browse: Browse, user: str = "ana") -> Page:
    """Airflow's start page, signed in by its own form."""
    page = browse(plane.airflow.url)
    page.set_default_timeout(SLOW)
    page.get_by_label("Username").fill(user)
    page.locator("input[type=password]").fill(accounts.password_file(plane.settings, user).read_text())
    page.get_by_role("button", name="Sign in").click()
    page.get_by_role("link", name="Pipeline Health").or_(page.get_by_text("Pipeline Health")).first.wait_for()
    return page


def open_health(page: Page) -> FrameLocator:
    """Follow the navigation; the page inside Airflow's frame."""
    page.get_by_text("Pipeline Health").first.click()
    return page.frame_locator("iframe[title='Pipeline Health']")


def test_it_is_one_click_away_and_recovers_with_a_dry_run(plane: ControlPlane, browse: Browse) -> None:
    page = sign_in(plane, browse)
    health = open_health(page)
    expect(health.locator("[data-node]")).to_have_count(9, timeout=SLOW)
    expect(health.locator("[data-node=kafka-1]")).to_contain_text("answers", timeout=SLOW)
    health.locator("#recover-kafka-1").click()
    health.get_by_role("button", name="Start recovery").click()
    expect(health.get_by_role("status")).to_contain_text("Done in the name of ana", timeout=SLOW)
    (run,) = plane.airflow.runs("recover_node")
    assert run["triggering_user_name"] == "ana"
    assert run["conf"] == {"node": "kafka-1", "action": "auto", "dry_run": True}
    # The link leads out of Airflow's sandboxed frame, to Airflow's own page of the run.
    health.get_by_role("status").get_by_role("link").click()
    page.wait_for_url("**/dags/recover_node/runs/**", timeout=SLOW)


def test_a_viewer_is_refused(plane: ControlPlane, browse: Browse) -> None:
    page = browse(plane.airflow.url)
    page.context.add_cookies([{"name": "_token", "value": _viewer(plane), "url": plane.airflow.url}])
    page.goto(f"{plane.airflow.url}/pipeline-health/")
    expect(page.locator(".verdict")).to_be_visible()
    expect(page.locator("a[href^='actions/']")).to_have_count(0)
    before = plane.airflow.runs("recover_node")
    answer = page.request.post(
        f"{plane.airflow.url}/pipeline-health/actions/recover",
        form={"target": "kafka-1", "dry_run": "no", "action": "rebuild", "token": "forged"},
        headers={"sec-fetch-site": "same-origin", "origin": plane.airflow.url},
    )
    assert answer.status == 403
    assert plane.airflow.runs("recover_node") == before


def test_a_failure_shows_within_two_seconds_of_the_sensors_event_and_a_person_decides(
    plane: ControlPlane, fleet: PretendFleet, browse: Browse
) -> None:
    store = Store(store_dsn(plane.settings))
    plane.airflow.unpause("watch_kafka-2")
    _await(lambda: bool(_running(plane, "watch_kafka-2", "health")), 120, "the watch defers")
    page = browse_signed_in(plane, browse)
    expect(page.locator("[data-node=kafka-2]")).to_contain_text("answers", timeout=SLOW)
    page.evaluate(RECORD_DOWN)
    fleet.kill("kafka-2")
    _await(lambda: bool(store.read_incidents(1, node="kafka-2", open_only=True)), 90, "an incident is opened")
    (incident,) = store.read_incidents(1, node="kafka-2", open_only=True)
    page.wait_for_function("window.downAt > 0 || document.querySelector('.open')", timeout=SLOW)
    shown = page.evaluate("window.downAt") / 1000
    late = shown - incident.detected_at.timestamp()
    print(f"visible {late:+.2f} s after the sensor's event")
    # No peer of the pretended broker can say what it holds, so the guards refuse and a person is asked.
    expect(page.locator(".verdict")).to_contain_text("The repair of kafka-2 was refused.", timeout=SLOW)
    fleet.start("kafka-2")
    page.locator("#act-decline").click()
    page.get_by_role("button", name="Decline the repair").click()
    expect(page.get_by_role("status")).to_contain_text("Done in the name of ana", timeout=SLOW)
    _await(lambda: store.read_incident(incident.id).closed_at is not None, 120, "the incident is closed")
    plane.airflow.pause("watch_kafka-2")  # not before: a paused DAG's last tasks are never scheduled
    assert str(store.read_incident(incident.id).outcome) == "refused"
    assert shown > 0
    assert late < 2.0


def test_healing_is_paused_by_a_run_that_names_who_and_why(plane: ControlPlane, browse: Browse) -> None:
    store = Store(store_dsn(plane.settings))
    page = browse_signed_in(plane, browse, "ben")
    page.locator("#act-pause").click()
    page.get_by_label("Why").fill("swap a disk")
    page.get_by_role("button", name="Pause recovery").click()
    _await(lambda: bool(store.read_maintenance()), 120, "the flag is set")
    (flag,) = store.read_maintenance()
    assert (flag.scope, flag.reason, flag.user) == ("*", "swap a disk", "ben")
    page.get_by_role("dialog").get_by_role("link", name="Close").click()
    expect(page.locator(".verdict")).to_contain_text("recovery is paused for the whole fleet", timeout=SLOW)
    store.clear_maintenance("*")


def test_a_thousand_incidents_load_about_as_fast_as_airflows_home(
    plane: ControlPlane, browse: Browse
) -> None:
    incidents(Store(store_dsn(plane.settings)), 1000)
    page = sign_in(plane, browse)
    home, ours = [], []
    for _ in range(20):
        home.append(_seconds(page, plane.airflow.url, lambda: page.get_by_text("Stats").first.wait_for()))
        ours.append(
            _seconds(
                page, f"{plane.airflow.url}/pipeline-health/", lambda: page.locator(".verdict").wait_for()
            )
        )
    figures = {
        "home_p95_s": _p95(home),
        "ours_p95_s": _p95(ours),
        "home_median_s": round(statistics.median(home), 2),
        "ours_median_s": round(statistics.median(ours), 2),
    }
    print(json.dumps(figures))
    assert figures["ours_p95_s"] <= 1.5 * figures["home_p95_s"]


def browse_signed_in(plane: ControlPlane, browse: Browse, user: str = "ana") -> Page:
    """The page itself, without Airflow's frame."""
    page = sign_in(plane, browse, user)
    page.goto(f"{plane.airflow.url}/pipeline-health/")
    return page


def _viewer(plane: ControlPlane) -> str:
    """A session of a user with Airflow's role Viewer; made by Airflow's own code and secret."""
    code = (
        "from airflow.api_fastapi.app import create_auth_manager as make\n"
        "from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser as User\n"
        "print('token=' + make().generate_jwt(User(username='vera', role='VIEWER')))"
    )
    command = [
        str(plane.settings.repository / "bin/with-env"),
        str(plane.environment_file),
        sys.executable,
        "-c",
        code,
    ]
    said = subprocess.run(command, check=True, capture_output=True, text=True, env=dict(os.environ)).stdout
    return said.rpartition("token=")[2].strip()


def _running(plane: ControlPlane, dag_id: str, task_id: str) -> list[datetime | None]:
    return [
        task.start
        for run in plane.airflow.runs(dag_id, limit=1)
        for task in plane.airflow.tasks(dag_id, run["dag_run_id"])
        if task.task_id == task_id and task.state == "deferred"
    ]


def _await(reached: Callable[[], bool], seconds: float, what: str) -> None:
    end = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < end, f"not within {seconds:.0f} s: {what}"
        time.sleep(0.2)


def _seconds(page: Page, url: str, ready: Callable[[], None]) -> float:
    started = time.monotonic()
    page.goto(url)
    ready()
    return time.monotonic() - started


def _p95(values: list[float]) -> float:
    return round(statistics.quantiles(values, n=20, method="inclusive")[-1], 2)
