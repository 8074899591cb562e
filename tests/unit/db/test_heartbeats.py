from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from kintsugi.core.errors import KintsugiError
from kintsugi.db import heartbeats
from kintsugi.db.heartbeats import HeartbeatWriter

if TYPE_CHECKING:
    import pytest


class Written:
    """Stands in for the table: notes what was written, fails where told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.beats: list[set[str]] = []
        self.away = False
        monkeypatch.setenv("AIRFLOW_CONN_KINTSUGI_STORE", '{"host": "h", "login": "l", "password": "p"}')
        monkeypatch.setattr(heartbeats, "Heartbeats", lambda dsn: self)

    def record(self, names: set[str]) -> None:
        if self.away:
            raise KintsugiError("away")
        self.beats.append(set(names))


async def _settled(writer: HeartbeatWriter) -> None:
    assert writer._writing is not None
    await asyncio.wait_for(asyncio.shield(writer._writing), 10)


async def test_many_watches_are_one_write(monkeypatch: pytest.MonkeyPatch) -> None:
    written, writer = Written(monkeypatch), HeartbeatWriter(every_s=0.0)
    writer.record("kafka-1")
    await _settled(writer)
    writer._every_s = 1000.0
    for name in ("kafka-1", "kafka-2", "kafka-2"):
        writer.record(name)
    writer._every_s = 0.0
    writer.record("flow")
    await _settled(writer)
    assert written.beats == [{"kafka-1"}, {"kafka-1", "kafka-2", "flow"}]


async def test_a_store_that_is_away_costs_a_line_and_no_watch(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    written, writer = Written(monkeypatch), HeartbeatWriter(every_s=0.0)
    written.away = True
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            writer.record("kafka-1")
            await _settled(writer)
    assert caplog.text.count("heartbeats can't be written") == 1


async def test_outside_the_control_plane_nothing_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    written, writer = Written(monkeypatch), HeartbeatWriter(every_s=0.0)
    monkeypatch.delenv("AIRFLOW_CONN_KINTSUGI_STORE")
    writer.record("kafka-1")
    assert writer._writing is None
    assert written.beats == []
