"""A living Airflow: its telemetry arrives, its watches beat, and Honeycomb's webhook starts a recovery through it."""

from __future__ import annotations

import json
from typing import Any

import httpx
import psycopg
import pytest

from kintsugi.controlplane.control_plane import ControlPlane
from kintsugi.controlplane.postgres import AIRFLOW_DATABASE, Postgres
from kintsugi.core.connections import store_dsn
from kintsugi.core.processes import wait_until
from kintsugi.db.heartbeats import Heartbeats
from kintsugi.db.store import Store
from tests.installations import installation, open_directory
from tests.receivers import OtlpReceiver, attributes, http_receiver, otlp_over_http
from tests.unit.telemetry.test_honeycomb_alert import payload

SECRET = "would you like to play a game"


def _deliver(plane: ControlPlane, token: str = SECRET) -> httpx.Response:
    headers = {"X-Honeycomb-Webhook-Delivery-ID": "d-1", "X-Honeycomb-Webhook-Token": token}
    url = f"{plane.airflow.url}/honeycomb/trigger"
    return httpx.post(url, json=payload(), headers=headers, timeout=15, trust_env=False)


def _services(receiver: OtlpReceiver) -> set[Any]:
    resources = [part.resource for request in receiver.traces for part in request.resource_spans]
    resources += [part.resource for request in receiver.metrics for part in request.resource_metrics]
    return {attributes(resource)["service.name"] for resource in resources}


def _metrics(receiver: OtlpReceiver) -> set[str]:
    return {
        metric.name
        for request in receiver.metrics
        for resource in request.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }


def _let_deadlines_pass(plane: ControlPlane) -> None:
    """Move the deadline of every run into the past, in Airflow's own tables: what half an hour of waiting does."""
    dsn = Postgres.of(plane.settings).dsn(AIRFLOW_DATABASE)
    with psycopg.connect(dsn, autocommit=True, connect_timeout=5) as connection:
        moved = connection.execute(
            "UPDATE deadline SET deadline_time = now() - interval '1 second' WHERE NOT missed"
        )
    assert moved.rowcount == 1


@pytest.mark.timeout(900)
def test_airflow_tells_and_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with open_directory() as directory, otlp_over_http() as otlp, http_receiver() as people:
        path = directory / "connections.json"
        path.touch(0o600)
        connections = {
            "kintsugi_otlp": {"host": otlp.endpoint, "password": "hcaik"},
            "kintsugi_honeycomb_webhook": {"password": SECRET},
            "kintsugi_apprise": {"extra": {"config": {"path": people.url.replace("http://", "json://")}}},
        }
        path.write_text(json.dumps(connections))
        monkeypatch.setenv("KINTSUGI_CONNECTIONS", str(path))
        plane = ControlPlane(installation(directory, "127.38"))
        try:
            plane.start_storage()
            dsn = store_dsn(plane.settings)
            Store(dsn).migrate()
            plane.migrate()
            plane.start_airflow()

            assert _deliver(plane, token="guessed").status_code == 401
            plane.airflow.await_dag("recover_node")
            assert (_deliver(plane).status_code, _deliver(plane).status_code) == (202, 200)
            runs: list[dict[str, Any]] = []

            def started() -> bool:
                runs[:] = plane.airflow.runs("recover_node")
                return bool(runs)

            assert wait_until(started, 60)
            assert [run["dag_run_id"] for run in runs] == ["honeycomb__d-1__kafka-2"]
            assert runs[0]["conf"] == {"node": "kafka-2", "action": "auto", "dry_run": False}

            # There is no fleet: the guards refuse to touch one of nine sick nodes, and a person is called.
            page = "kafka-2 needs a person: its repair was refused"
            # The first digest may come before it: a schedule without a catch-up runs once when it is switched on.
            assert wait_until(lambda: page in [request.json["title"] for request in people.requests], 240)

            # The refused repair waits for that person; its half hour is made to be over.
            _let_deadlines_pass(plane)
            late = "recover_node of kafka-2 is not done after 30 minutes"
            assert wait_until(lambda: late in [request.json["title"] for request in people.requests], 120)

            plane.airflow.unpause("watch_cassandra-1")
            beats = Heartbeats(dsn)
            assert wait_until(lambda: "cassandra-1" in beats.last()[0], 120)

            assert wait_until(lambda: {"airflow", "kintsugi"} <= _services(otlp), 120), _services(otlp)
            assert wait_until(lambda: any(name.startswith("airflow.") for name in _metrics(otlp)), 120)
            assert any(span.name.startswith("task_run") for span in otlp.spans())
            assert len(plane.airflow.runs("recover_node")) == 1
        finally:
            plane.remove()
