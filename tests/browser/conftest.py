"""Headless Chromium, and the made-up pipeline served on a real socket."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI
from playwright.sync_api import Browser, Page, sync_playwright

from kintsugi.core.settings import Settings, load_settings
from kintsugi.db.store import Store
from kintsugi.web.mount import PREFIX
from tests.factories import World, day_of_flow, incidents, made_up_app, unusual_day
from tests.integration.db.conftest import Server, fresh_store, postgres, store

__all__ = ["fresh_store", "postgres", "store"]
ADDRESS = "127.37.0.1"


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        # As root Chromium has no sandbox; all it opens here is our own pages on loopback.
        yield playwright.chromium.launch(
            executable_path=os.environ.get("KINTSUGI_CHROMIUM", "/usr/bin/chromium"), args=["--no-sandbox"]
        )


@dataclass
class Site:
    """The made-up page at ``url`` and what it is made of."""

    url: str
    world: World
    store: Store
    postgres: Server


@pytest.fixture
def site(tmp_path: Path, store: Store, postgres: Server) -> Iterator[Site]:
    """Thirty incidents, six hours of flow, nine servers; everybody is olga, who may act."""
    usual, world = load_settings(), World()
    settings = Settings(state=tmp_path, cache=usual.cache, fleet_file=usual.fleet_file)
    incidents(store, 30)
    day_of_flow(store._dsn)
    world.unusual = unusual_day()
    with serving(made_up_app(settings, store._dsn, world, "olga")) as url:
        yield Site(url, world, store, postgres)


class serving:  # noqa: N801 - reads as a verb
    """Serve the application under Airflow's prefix while in the block; gives the page's URL."""

    def __init__(self, app: Any) -> None:
        outer = FastAPI()
        outer.mount(PREFIX, app)
        with socket.socket() as probe:
            probe.bind((ADDRESS, 0))
            self._port = int(probe.getsockname()[1])
        config = uvicorn.Config(
            outer, host=ADDRESS, port=self._port, log_level="error", timeout_graceful_shutdown=1
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)

    def __enter__(self) -> str:
        self._thread.start()
        while not self._server.started:
            self._thread.join(0.02)
            assert self._thread.is_alive(), "the server did not start"
        return f"http://{ADDRESS}:{self._port}{PREFIX}/"

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(10)


@pytest.fixture
def browse(chromium: Browser) -> Iterator[Callable[..., Page]]:
    """A fresh page; what goes wrong in its scripts fails the test."""
    contexts, wrong = [], []

    def open_page(url: str, **options: Any) -> Page:
        context = chromium.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.goto(url)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert wrong == []
