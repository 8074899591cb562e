"""The trigger that watches one node, against real sockets."""

from __future__ import annotations

import asyncio
import importlib
import json
from datetime import UTC, datetime
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from kintsugi.airflow_ext.triggers import node_health
from kintsugi.airflow_ext.triggers.node_health import NodeHealthTrigger
from kintsugi.core.fleet import Node, Role
from kintsugi.core.observation import ProbeResult
from kintsugi.core.settings import SPARK_MASTER_UI_PORT, Settings
from kintsugi.probes import clock_skew as clocks
from kintsugi.probes.protocols import Probe
from tests.fixtures_triggers import finding

if TYPE_CHECKING:
    import pytest

NODE: dict[str, Any] = {"name": "spark-master-1", "role": "spark_master", "ssh_port": 2222}


def test_it_is_made_again_from_what_it_serializes() -> None:
    trigger = NodeHealthTrigger(**NODE, address="127.35.91.1", interval=0.5, max_watch=60, silence=10)
    path, kwargs = trigger.serialize()
    module, _, name = path.rpartition(".")
    again = getattr(importlib.import_module(module), name)(**kwargs)
    assert again.serialize() == (path, kwargs)
    json.dumps(kwargs)  # the triggerer stores it as JSON


async def test_a_dead_node_is_found_in_about_two_seconds_of_probing() -> None:
    clock = asyncio.get_running_loop().time
    started = clock()
    event = await finding(NodeHealthTrigger(**NODE, address="127.35.91.1"))
    assert 1.9 <= clock() - started < 4.0
    assert (event["node"], event["symptom"]) == ("spark-master-1", "down")
    assert len(event["evidence"]) == 3
    first, detected = (datetime.fromisoformat(event[key]) for key in ("first_failed_at", "detected_at"))
    assert first.utcoffset() == detected.utcoffset()
    assert 1.9 <= (detected - first).total_seconds() < 4.0
    json.dumps(event)


async def test_a_silent_node_is_hung() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(silent, "127.35.91.2", SPARK_MASTER_UI_PORT)
    trigger = NodeHealthTrigger(
        **NODE, address="127.35.91.2", interval=0.2, probe_timeout=0.3, silence=1.5, max_watch=30
    )
    event = await finding(trigger)
    server.close()
    assert event["symptom"] == "hung"


async def test_a_well_node_ends_the_watch_with_nothing_found() -> None:
    asked = 0

    async def alive(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        asked += 1
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b'HTTP/1.1 200 OK\r\nContent-Length: 18\r\n\r\n{"status":"ALIVE"}')
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(alive, "127.35.91.3", SPARK_MASTER_UI_PORT)
    event = await finding(NodeHealthTrigger(**NODE, address="127.35.91.3", interval=0.1, max_watch=1.0))
    server.close()
    assert event is None
    assert 3 <= asked <= 11


async def test_watches_that_start_together_probe_at_different_times(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = asyncio.get_running_loop().time
    starts: list[float] = []

    async def probe(node: Node, timeout_s: float) -> Probe:
        starts.append(clock())
        return Probe(node.name, ProbeResult.OK, datetime.now(UTC), 0.0, "")

    monkeypatch.setattr(node_health, "probe_node", probe)
    began = clock()
    triggers = [
        NodeHealthTrigger(name=f"kafka-{number}", role="kafka", address="127.35.91.5", max_watch=1.0)
        for number in range(1, 101)
    ]
    await asyncio.gather(*(finding(trigger) for trigger in triggers))
    # A loop that is late delays a start, so only the first half is sure to lie where it belongs.
    assert len(starts) >= 90
    assert sum(start - began < 0.25 for start in starts) < 60
    assert sum(start - began > 0.5 for start in starts) > 20


def test_the_parts_of_the_period_are_spread_evenly() -> None:
    shares = sorted(node_health.share_of_period(f"cassandra-{number}") for number in range(1, 334))
    assert shares[0] >= 0
    assert shares[-1] < 1
    assert max(later - earlier for earlier, later in pairwise(shares)) < 0.05


async def test_a_node_that_answers_by_a_wrong_clock_is_found_by_the_slower_look(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def alive(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b'HTTP/1.1 200 OK\r\nContent-Length: 18\r\n\r\n{"status":"ALIVE"}')
        await writer.drain()
        writer.close()

    told = iter([OSError("no answer"), None, 1.0, 3600.0])

    async def ahead_s(settings: Settings, node: Node) -> float | None:
        found = next(told)
        if isinstance(found, OSError):
            raise found
        return found

    monkeypatch.setattr(clocks, "seconds_ahead", ahead_s)
    monkeypatch.setattr(clocks, "EVERY_S", {Role.SPARK_MASTER: 0.1})
    server = await asyncio.start_server(alive, "127.35.91.4", SPARK_MASTER_UI_PORT)
    event = await finding(NodeHealthTrigger(**NODE, address="127.35.91.4", interval=0.1, max_watch=20))
    server.close()
    assert (event["node"], event["symptom"]) == ("spark-master-1", "clock_wrong")
    assert event["evidence"][0].endswith("its clock is 3,600.0 s fast")
    assert next(told, None) is None
