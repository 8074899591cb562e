"""Which incidents are read for pages: every open one, also behind many newer ones."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from kintsugi.core.incident import Incident, Outcome
from kintsugi.watchdog import message_collection
from kintsugi.watchdog.message_collection import RECENT_INCIDENTS, MessageCollection
from tests.fixtures_incident_table import IncidentTable
from tests.fixtures_incidents import T0, healed, refused

SINCE = (datetime.now(UTC) - T0).total_seconds()
NEWER = [healed("kafka-3", SINCE - 60)] * (RECENT_INCIDENTS + 20)


class Store(IncidentTable):
    def read_faults(self) -> list[Any]:
        return []

    @contextmanager
    def transaction(self) -> Iterator[Any]:
        yield SimpleNamespace(execute=lambda _: SimpleNamespace(fetchone=lambda: {"entry": 1}))


class Outbox:
    def __init__(self) -> None:
        self.keys: list[str] = []

    def add_message(self, key: str, *_: Any) -> bool:
        self.keys.append(key)
        return True


def collect(*incidents: Incident) -> list[str]:
    outbox = Outbox()
    settings: Any = SimpleNamespace(fleet=())
    collection: Any = MessageCollection(settings, Store(incidents), None, outbox)  # type: ignore[arg-type]
    collection.collect_messages()
    return outbox.keys


@pytest.fixture(autouse=True)
def without_backends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(message_collection, "load_backend", lambda: None)
    monkeypatch.setattr(message_collection, "load_markers", lambda: None)


def test_an_old_open_incident_that_a_guard_refused_is_paged_behind_many_newer_ones() -> None:
    old = refused("cassandra-1", SINCE - 7200, is_open=True)
    assert [key for key in collect(*NEWER, old) if old.id in key]


def test_an_old_incident_that_has_just_failed_is_paged_behind_many_newer_ones() -> None:
    now = datetime.now(UTC)
    failed = replace(healed("cassandra-1", SINCE - 7200), closed_at=now, outcome=Outcome.FAILED)
    earlier = replace(failed, closed_at=now - timedelta(seconds=60))
    assert [key for key in collect(*NEWER, earlier) if failed.id in key]
