"""Whom the dead man's switch excuses."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any

from kintsugi.notify.dead_mans_switch import UNHEALTHY
from kintsugi.watchdog.watch_check import WatchCheck
from tests.fixtures_incident_table import IncidentTable
from tests.fixtures_incidents import T0, healed

NOW = T0 + timedelta(days=1)
SECOND = timedelta(seconds=1)


class Store(IncidentTable):
    def first_failures(self) -> dict[str, datetime]:
        return {one.node: one.first_failed_at for one in self.incidents if one.closed_at is None}

    def read_maintenance(self, _: str) -> list[Any]:
        return []


def excused(*incidents: Any) -> set[str]:
    beats: Any = SimpleNamespace(last=lambda: ({}, NOW), forget=None)
    settings: Any = SimpleNamespace(fleet=SimpleNamespace(nodes={}))
    airflow: Any = SimpleNamespace(dags=list)
    check: Any = WatchCheck(settings, airflow, Store(incidents), beats, None)  # type: ignore[arg-type]
    return set(check._watching({}).excused)


def test_a_node_whose_long_recovery_has_just_ended_is_excused_behind_many_newer_incidents() -> None:
    newer = [healed("kafka-3", later=60)] * 150
    ended = healed("cassandra-1", closed_at=NOW - SECOND)
    assert excused(*newer, ended) == {"cassandra-1"}
    assert excused(*newer, replace(ended, closed_at=NOW - UNHEALTHY - SECOND)) == set()


def test_a_node_with_an_open_incident_is_excused() -> None:
    assert excused(healed(closed_at=None, outcome=None)) == {"kafka-2"}
