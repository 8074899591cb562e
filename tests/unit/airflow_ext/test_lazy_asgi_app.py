from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from kintsugi.airflow_ext.lazy_asgi_app import LazyAsgiApp
from kintsugi.core.fleet import REPOSITORY

PLUGINS = ("pipeline_health_plugin", "honeycomb_webhook_plugin")
built: list[Starlette] = []


def create_counted_app() -> Starlette:
    async def answer(request: Any) -> PlainTextResponse:
        return PlainTextResponse("here")

    built.append(Starlette(routes=[Route("/page", answer)]))
    return built[-1]


@pytest.fixture
def factory(monkeypatch: pytest.MonkeyPatch) -> str:
    built.clear()
    monkeypatch.setitem(sys.modules, "module_of_the_app", sys.modules[__name__])
    return "module_of_the_app:create_counted_app"


def test_the_application_is_built_once_at_the_first_request(factory: str) -> None:
    app = LazyAsgiApp(factory)
    assert not built
    client = TestClient(app)
    assert [client.get("/page").text, client.get("/page").text] == ["here", "here"]
    assert len(built) == 1


def test_a_component_that_only_loads_the_plugins_imports_no_application() -> None:
    script = f"""
import sys
import {", ".join(PLUGINS)}
loaded = [name for name in sys.modules if name.startswith(("kintsugi.web.", "kintsugi.telemetry."))]
print(*sorted(loaded))
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=REPOSITORY / "plugins", capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.split() == ["kintsugi.web.mount"]


@pytest.mark.parametrize("plugin", PLUGINS)
def test_every_plugins_factory_gives_an_application(plugin: str) -> None:
    script = f"""
from pkgutil import resolve_name
import {plugin}
from airflow.plugins_manager import AirflowPlugin
apps = [one["app"] for cls in AirflowPlugin.__subclasses__() for one in cls.fastapi_apps]
print(*(callable(resolve_name(app._factory)()) for app in apps))
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=REPOSITORY / "plugins", capture_output=True, text=True, check=True,
    )  # fmt: skip
    # Before it, a library may have logged a warning.
    assert done.stdout.splitlines()[-1] == "True"
