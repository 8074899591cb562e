"""The triggers that watch the flow, against a real socket in the place of the Spark master."""

from __future__ import annotations

import asyncio
import importlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from kintsugi.airflow_ext.triggers.flow_health import FlowHealthTrigger, StreamAbsentTrigger
from kintsugi.core.settings import SPARK_MASTER_UI_PORT
from tests.fixtures_triggers import finding

RUNNING = {"name": "stream_trades", "state": "RUNNING", "cores": 2}
FLEET = """
name: test
environment: local
ssh_port: 2222
control_plane: {{address: 127.35.92.9, airflow_port: 1, postgres_port: 2, s3_port: 3, log_port: 4}}
nodes:
  - {{name: kafka-1, role: kafka, address: 127.35.92.8}}
  - {{name: spark-master-1, role: spark_master, address: {address}}}
"""


@asynccontextmanager
async def master(
    address: str, answers: list[list[Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[None]:
    """A Spark master that lists these applications, one answer after another; the last one stays."""
    fleet = tmp_path / "fleet.yaml"
    fleet.write_text(FLEET.format(address=address))
    monkeypatch.setenv("KINTSUGI_FLEET", str(fleet))
    left = list(answers)

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        apps = left.pop(0) if len(left) > 1 else left[0]
        body = json.dumps({"status": "ALIVE", "activeapps": apps}).encode()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(talk, address, SPARK_MASTER_UI_PORT)
    yield
    server.close()


@pytest.mark.parametrize(
    "trigger",
    [FlowHealthTrigger(interval=2, max_watch=9), StreamAbsentTrigger(interval=3, times=4, max_watch=9)],
)
def test_it_is_made_again_from_what_it_serializes(trigger: FlowHealthTrigger | StreamAbsentTrigger) -> None:
    path, kwargs = trigger.serialize()
    module, _, name = path.rpartition(".")
    assert getattr(importlib.import_module(module), name)(**kwargs).serialize() == (path, kwargs)


async def test_a_stream_that_was_never_seen_is_absent_soon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with master("127.35.92.1", [[]], tmp_path, monkeypatch):
        trigger = StreamAbsentTrigger(interval=0.05, times=50)
        event = await finding(trigger)
    assert event["absent"] is True
    assert "stream_trades" in event["detail"]


async def test_a_stream_that_ran_gets_time_to_come_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers: list[list[Any]] = [[RUNNING], [], [], [], [RUNNING]]
    async with master("127.35.92.2", answers, tmp_path, monkeypatch):
        trigger = StreamAbsentTrigger(interval=0.02, times=5, max_watch=0.8)
        assert await finding(trigger) is None


async def test_a_master_that_is_away_says_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with master("127.35.92.3", [[]], tmp_path, monkeypatch):
        (tmp_path / "fleet.yaml").write_text(FLEET.format(address="127.35.92.4"))
        trigger = StreamAbsentTrigger(interval=0.02, times=2, max_watch=0.5)
        assert await finding(trigger) is None
