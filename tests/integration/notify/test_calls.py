"""What calls a person besides incidents: a stream that stands still, and a reconciliation that finds a fault."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from psycopg.conninfo import conninfo_to_dict

from kintsugi.core.errors import KintsugiError, ReconciliationError
from kintsugi.db.outbox import MessageKind
from kintsugi.notify.reconciliation_alert import page_on_failure
from kintsugi.operations.stream_driver import DESIRED
from kintsugi.probes.stream_progress import FlowReading
from kintsugi.watchdog.stream_check import StreamCheck
from tests.installations import installation
from tests.integration.notify.conftest import Tables


@pytest.fixture(autouse=True)
def _the_store(tables: Tables, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = conninfo_to_dict(tables.dsn)
    known = {
        "host": parts["host"], "port": int(parts.get("port") or 5432), "login": parts.get("user"),
        "password": parts.get("password"), "schema": parts["dbname"],
    }  # fmt: skip
    monkeypatch.setenv("AIRFLOW_CONN_KINTSUGI_STORE", json.dumps({"conn_type": "postgres", **known}))


def titles(tables: Tables) -> list[str]:
    with tables.outbox.transaction() as connection:
        rows = connection.execute("SELECT body FROM outbox WHERE kind = %s", (MessageKind.PAGE,)).fetchall()
    return [row["body"]["title"] for row in rows]


def a_stuck_stream() -> Iterator[FlowReading]:
    """A reading a minute of a stream that stores nothing."""
    at = datetime(2026, 8, 1, 2, 0, tzinfo=UTC)
    while True:
        yield FlowReading(at, True, committed=10, produced=500)
        at += timedelta(minutes=1)


@dataclass
class StuckStreamCheck(StreamCheck):
    """A check that sees a stuck stream."""

    def __post_init__(self) -> None:
        self.readings = a_stuck_stream()

    def read_flow(self) -> FlowReading:
        return next(self.readings)


def test_a_stream_that_stores_nothing_calls_once_where_somebody_submitted_it(
    tables: Tables, tmp_path: Path
) -> None:
    record: Any = None
    check = StuckStreamCheck(installation(tmp_path, "127.53"), tables.store, record, tables.outbox)
    for _ in range(20):
        check.check_progress()
    assert titles(tables) == []
    tables.store.set_desired(DESIRED, "running")
    for _ in range(15):
        check.check_progress()
    assert titles(tables) == []
    for _ in range(5):
        check.check_progress()
    assert titles(tables) == ["The stream needs a person: nothing was stored for 15 minutes"]


def test_a_reconciliation_with_faults_calls_once_a_run(tables: Tables) -> None:
    run = SimpleNamespace(run_id="asset_triggered__1")
    lost = {
        "exception": ReconciliationError(
            "the reconciliation of 1 files found faults: lost 3; run `make reconcile`"
        ),
        "dag_run": run,
    }
    page_on_failure({"exception": KintsugiError("Cassandra doesn't answer"), "dag_run": run})
    page_on_failure({"dag_run": run})
    assert titles(tables) == []
    page_on_failure(lost)
    page_on_failure(lost)
    assert titles(tables) == ["Trades are missing or altered in Cassandra"]
