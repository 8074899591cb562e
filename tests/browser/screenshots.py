"""The README's pictures of Pipeline Health: ``make screenshots`` writes docs/images/*.png, light and dark.

The pipeline in them is made up, from a seed, so that a picture changes when the page does.
"""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from playwright.sync_api import Page, ViewportSize, expect, sync_playwright

from kintsugi.core.fleet import REPOSITORY
from kintsugi.core.settings import Settings, load_settings
from kintsugi.db.store import Store
from tests.browser.conftest import serving
from tests.factories import World, begin_repair, day_of_flow, incidents, made_up_app, unusual_day
from tests.integration.db.conftest import new_server

IMAGES = REPOSITORY / "docs" / "images"
SIZE = ViewportSize(width=1280, height=860)


def main() -> None:
    """Take all pictures; raises what the browser or Postgres raise."""
    IMAGES.mkdir(parents=True, exist_ok=True)
    server = new_server()
    try:
        dsn, usual, world = server.dsn("postgres"), load_settings(), World()
        store = Store(dsn)
        store.migrate()
        incidents(store, 140)
        day_of_flow(dsn)
        world.unusual = unusual_day()
        with tempfile.TemporaryDirectory() as state:
            settings = Settings(state=Path(state), cache=usual.cache, fleet_file=usual.fleet_file)
            with serving(made_up_app(settings, dsn, world, "olga")) as url:
                _take(url, "health", lambda page: expect(page.locator("#chart-lag canvas")).to_be_visible())
                story = f"{url}incidents/{store.read_incidents(1)[0].id}"
                _take(story, "incident", lambda page: expect(page.locator(".journal")).to_be_visible())
                world.down("kafka-2", datetime.now(UTC) - timedelta(seconds=14))
                begin_repair(store, "kafka-2", steps=6)
                _take(
                    url,
                    "healing",
                    lambda page: expect(page.locator(".open, #chart-lag canvas")).to_have_count(2),
                )
    finally:
        server.remove(signal.SIGQUIT)


def _take(url: str, name: str, ready: Callable[[Page], None]) -> None:
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=os.environ.get("KINTSUGI_CHROMIUM", "/usr/bin/chromium"), args=["--no-sandbox"]
        )
        for scheme in ("light", "dark"):
            page = chromium.new_page(viewport=SIZE, color_scheme=scheme, reduced_motion="reduce")
            page.goto(url)
            ready(page)
            path = IMAGES / f"{name}-{scheme}.png"
            page.screenshot(path=path)
            _shrink(path)
            print(f"{path.relative_to(REPOSITORY)}: {path.stat().st_size // 1024} KiB")
        chromium.close()


def _shrink(path: Path) -> None:
    """Flat colours need no more than a palette; without pngquant the file is merely larger."""
    with suppress(FileNotFoundError):
        subprocess.run(["pngquant", "--force", "--output", str(path), "64", str(path)], check=True)


if __name__ == "__main__":
    main()
