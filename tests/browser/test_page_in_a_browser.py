"""Pipeline Health as people use it: eyes, keyboard, screen reader, small screens. The pipeline is made up."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from kintsugi.core.errors import KintsugiError
from kintsugi.core.observation import ProbeResult
from kintsugi.web.sources import NodeSnapshot
from tests.browser.conftest import Site
from tests.factories import begin_repair, intake

Browse = Callable[..., Page]
VISIBLE_WITHIN_S = 2.0


def serious(page: Page) -> list[str]:
    """The serious and critical violations that axe-core finds, each with the first element at fault."""
    found = Axe().run(page).response["violations"]
    return [
        f"{v['id']}: {v['nodes'][0]['html'][:120]}" for v in found if v["impact"] in ("serious", "critical")
    ]


def test_a_node_goes_down_and_heals_live(site: Site, browse: Browse) -> None:
    page = browse(site.url)
    expect(page.locator(".headline")).to_have_attribute("data-situation", "well")
    site.world.down("kafka-2", datetime.now(UTC))
    at = time.monotonic()
    expect(page.locator("[data-node=kafka-2]")).to_contain_text("down")
    took = time.monotonic() - at
    expect(page.locator(".headline")).to_have_attribute("data-situation", "node-away")
    expect(page.locator(".verdict")).to_contain_text("kafka-2")
    begin_repair(site.store, "kafka-2", steps=6)
    expect(page.locator("[data-node=kafka-2]")).to_contain_text("provisioning a new node")
    lease = site.store.acquire_lease("kafka-2", "watch_kafka-2/now", 60)
    (incident,) = site.store.read_incidents(1)
    site.store.append_entry(incident.id, lease.token, "rejoin", "in sync", {})
    expect(page.locator("[data-node=kafka-2]")).to_contain_text("rejoining its cluster")
    from kintsugi.core.incident import Outcome

    site.store.close_incident(incident.id, lease.token, Outcome.HEALED, "serves again")
    site.world.nodes["kafka-2"] = NodeSnapshot(ProbeResult.OK, "", None, None)
    expect(page.locator("[data-node=kafka-2]")).to_contain_text("answers")
    expect(page.locator(".headline")).to_have_attribute("data-situation", "well")
    assert took < VISIBLE_WITHIN_S, f"visible after {took:.1f} s"


def test_a_recovery_by_keyboard_alone(site: Site, browse: Browse) -> None:
    page = browse(site.url)
    page.locator("#recover-kafka-1").focus()
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog", name="Recover kafka-1")
    expect(dialog).to_be_visible()
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    expect(page.locator("#recover-kafka-1")).to_be_focused()
    page.keyboard.press("Enter")
    expect(dialog.get_by_label("Dry run: only show the plan")).to_be_checked()
    dialog.get_by_role("button", name="Start recovery").focus()
    page.keyboard.press("Enter")
    expect(dialog.get_by_role("status")).to_contain_text("Done in the name of olga")
    (sent,) = site.world.sent
    assert sent.body["conf"] == {"node": "kafka-1", "action": "auto", "dry_run": True}


def test_a_failed_file_is_named_and_taken_again(site: Site, browse: Browse) -> None:
    site.world.files = intake()
    page = browse(site.url)
    expect(page.locator(".verdict")).to_contain_text("broken zip archive")
    panel = page.locator("#panel-intake")
    for text in ("_2.csv.zip", "2,101 of 28,114", "eod 2024-10-09", ".csv.md5", "acme-market-data"):
        expect(panel).to_contain_text(text)
    assert serious(page) == []
    page.locator("#act-redrive-1").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("button", name="Ingest again").click()
    expect(dialog.get_by_role("status")).to_contain_text("Done in the name of olga")
    (sent,) = site.world.sent
    assert sent.dag_id == "redrive_files"
    assert [key.rpartition("_")[2] for key in sent.body["conf"]["keys"]] == ["2.csv.zip"]
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_an_open_dialog_survives_the_news(site: Site, browse: Browse) -> None:
    page = browse(site.url)
    page.locator("#act-pause").click()
    page.get_by_label("Why").fill("swap a disk")
    site.world.down("kafka-3", datetime.now(UTC))
    expect(page.locator("[data-node=kafka-3]")).to_contain_text("down")
    expect(page.get_by_label("Why")).to_have_value("swap a disk")


def test_cassandra_away_costs_its_panel_and_no_other(site: Site, browse: Browse) -> None:
    page = browse(site.url)
    expect(page.locator("#panel-unusual table")).to_be_visible()
    site.world.errors["unusual"] = KintsugiError("no Cassandra node takes connections")
    expect(page.locator("#panel-unusual")).to_contain_text("Cassandra does not answer")
    expect(page.locator("#panel-unusual table")).to_be_visible()  # the last answer stays, with its age
    expect(page.locator(".headline")).to_have_attribute("data-situation", "well")


def test_postgres_away_is_said_and_its_return_is_seen(site: Site, browse: Browse) -> None:
    page = browse(site.url)
    expect(page.locator(".headline")).to_have_attribute("data-situation", "well")
    site.postgres.stop()
    try:
        expect(page.locator(".headline")).to_have_attribute("data-situation", "source-away")
    finally:
        site.postgres.start()
    expect(page.locator(".headline")).to_have_attribute("data-situation", "well")


def test_an_api_server_that_is_gone_is_said(site: Site, browse: Browse) -> None:
    page = browse(site.url)
    page.context.set_offline(True)
    expect(page.locator("#stale")).to_contain_text("No answer for", timeout=30_000)
    page.context.set_offline(False)
    expect(page.locator("#stale")).to_be_hidden()


def test_older_incidents_come_on_demand(site: Site, browse: Browse) -> None:
    page = browse(site.url + "incidents")
    expect(page.locator("tbody tr")).to_have_count(26)
    page.get_by_role("link", name="Older incidents").click()
    expect(page.locator("tbody tr")).to_have_count(30)
    page.locator("tbody tr a").first.click()
    expect(page.get_by_role("heading", level=1)).to_contain_text(re.compile("recovered|failed|false alarm"))
    expect(page.locator(".journal")).to_contain_text("the host is lost")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("where", ["", "incidents", "incident", "dialog", "trouble"])
def test_axe_finds_nothing_serious(site: Site, browse: Browse, scheme: str, where: str) -> None:
    path = {"incidents": "incidents", "incident": f"incidents/{site.store.read_incidents(1)[0].id}"}.get(
        where, ""
    )
    if where == "trouble":
        site.world.down("kafka-2", datetime.now(UTC))
        site.world.errors["files"] = KintsugiError("S3 is away")
        begin_repair(site.store, "kafka-2")
    page = browse(site.url + path, color_scheme=scheme, reduced_motion="reduce")
    if where == "dialog":
        page.locator("#act-chaos").click()
        expect(page.get_by_role("dialog")).to_be_visible()
    if where == "":
        expect(page.locator("#chart-lag canvas")).to_be_visible()
    assert page.evaluate("document.documentElement.dataset.theme") == scheme
    assert serious(page) == []


@pytest.mark.parametrize("path", ["", "incidents"])
def test_a_telephone_shows_all_without_scrolling_sideways(site: Site, browse: Browse, path: str) -> None:
    options: dict[str, Any] = {"viewport": {"width": 400, "height": 800}}
    page = browse(site.url + path, **options)
    expect(page.locator("h1")).to_have_count(1)
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
