"""Whether the streaming application runs, and holds cores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from kintsugi.core.fleet import Node
from kintsugi.core.settings import SPARK_MASTER_UI_PORT
from kintsugi.probes.protocols import PROBE_TIMEOUT_S, Probe, probe_spark_page
from kintsugi.wire.exchange import ProtocolMismatch

STREAM_APP = "stream_trades"


async def probe_stream(master: Node, timeout_s: float = PROBE_TIMEOUT_S) -> Probe:
    """Ask the Spark master whether the streaming application runs and holds cores. Never raises.

    WRONG when the master answers, but the application is absent, more than one, or without a core.
    """
    probe = await probe_spark_page(master.address, SPARK_MASTER_UI_PORT, "/json/", check_stream, timeout_s)
    return replace(probe, target=STREAM_APP)


def check_stream(master: Mapping[str, Any]) -> str:
    """Judge the master's ``/json/`` document; returns the detail or raises ProtocolMismatch."""
    apps = stream_apps(master)
    if len(apps) != 1:
        raise ProtocolMismatch(f"{len(apps)} applications called {STREAM_APP} are registered, not one")
    state, cores = apps[0].get("state"), int(apps[0].get("cores", 0))
    if cores <= 0:
        raise ProtocolMismatch(f"application {STREAM_APP} ({state}) holds no core")
    return f"application {STREAM_APP} ({state}) holds {cores} cores"


def stream_apps(master: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The registered applications of that name in the master's ``/json/`` document."""
    return [app for app in master.get("activeapps", []) if app.get("name") == STREAM_APP]
