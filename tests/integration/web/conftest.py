"""The page on a real Postgres; nodes, S3, Cassandra and Airflow are made up."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from kintsugi.core.settings import Settings, load_settings
from kintsugi.db.store import Store
from tests.factories import World, made_up_app
from tests.integration.db.conftest import Server, fresh_store, postgres, store

__all__ = ["fresh_store", "postgres", "store"]


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    usual = load_settings()
    return Settings(state=tmp_path, cache=usual.cache, fleet_file=usual.fleet_file)


@pytest.fixture
def page(
    settings: Settings, store: Store, postgres: Server, world: World
) -> Iterator[Callable[..., TestClient]]:
    """A browser of the user of that name (None: not signed in)."""
    app = made_up_app(settings, store._dsn, world)
    clients: list[TestClient] = []

    def of(user: str | None) -> TestClient:
        client = TestClient(app, headers={"x-user": user} if user else {})
        clients.append(client)
        return client.__enter__()

    yield of
    for client in clients:
        client.__exit__(None, None, None)
