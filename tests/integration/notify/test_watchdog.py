"""The watchdog as a process of a real control plane (without Airflow): it tells, misses, and survives being killed."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from kintsugi.controlplane.control_plane import WATCHDOG, ControlPlane
from kintsugi.core.connections import store_dsn
from kintsugi.core.fleet import Role
from kintsugi.core.incident import Outcome
from kintsugi.core.processes import wait_until
from kintsugi.db.heartbeats import Heartbeats
from kintsugi.db.outbox import Outbox
from kintsugi.db.store import Store
from tests.installations import installation, open_directory
from tests.receivers import HttpReceiver, OtlpReceiver, http_receiver, otlp_over_http

SECRETS = {"otlp": "hcaik_sEcReT", "marker": "hcxik_sEcReT", "people": "aPPriSe_sEcReT"}


@dataclass
class Stage:
    """A control plane whose watchdog tells receivers of ours."""

    plane: ControlPlane
    store: Store
    people: HttpReceiver
    honeycomb: HttpReceiver
    outside: HttpReceiver
    otlp: OtlpReceiver

    @property
    def pid(self) -> int:
        return int(self.plane.status()[WATCHDOG]["pid"])

    @property
    def log(self) -> str:
        return (self.plane.supervisor.logs / f"{WATCHDOG}.log").read_text()

    def titles(self) -> list[str]:
        return [request.json["title"] for request in self.people.requests]

    def incident(self, node: str, *, refused: str | None = None, outcome: Outcome | None = None) -> str:
        """An incident of ``node``, as a recovery would leave it."""
        lease = self.store.acquire_lease(node, "watch/1", 60, fresh_token=True)
        now = datetime.now(UTC)
        times = {"first_failed_at": now - timedelta(seconds=3), "detected_at": now - timedelta(seconds=1)}
        incident = self.store.open_incident(
            node, lease.token, role=Role.KAFKA, holder="watch/1", t0=now - timedelta(seconds=4), **times
        )
        self.store.append_entry(
            incident.id, lease.token, "confirm", "the host is lost", {"verdict": "host_lost"}
        )
        if refused:
            self.store.append_entry(
                incident.id, lease.token, "guard", f"refused: {refused}", {"refused": [refused]}
            )
        if outcome:
            self.store.close_incident(incident.id, lease.token, outcome, "it leads a partition")
        self.store.release_lease(node, lease.token)
        return incident.id


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with (
        open_directory() as directory,
        http_receiver() as people,
        http_receiver() as honeycomb,
        http_receiver() as outside,
        otlp_over_http() as otlp,
        pytest.MonkeyPatch.context() as environment,
    ):
        honeycomb.answer = lambda request: (201, b'{"id": "d1c84ec0"}')
        url = people.url.replace("http://", f"json://kintsugi:{SECRETS['people']}@")
        path = directory / "connections.json"
        path.touch(0o600)
        path.write_text(
            json.dumps(
                {
                    "kintsugi_otlp": {"host": otlp.endpoint, "password": SECRETS["otlp"]},
                    "kintsugi_honeycomb": {"host": honeycomb.url, "password": SECRETS["marker"]},
                    "kintsugi_apprise": {"extra": {"config": {"path": url}}},
                    "kintsugi_heartbeat": {"host": f"{outside.url}/c0ffee"},
                }
            )
        )
        environment.setenv("KINTSUGI_CONNECTIONS", str(path))
        plane = ControlPlane(installation(directory, "127.52"))
        try:
            plane.start_storage()
            dsn = store_dsn(plane.settings)
            Store(dsn).migrate()
            plane.start_watchdog()
            stage = Stage(plane, Store(dsn), people, honeycomb, outside, otlp)
            assert wait_until(lambda: stage.pid != 0, 60)
            yield stage
        finally:
            plane.remove()


def test_a_healed_incident_becomes_a_trace_and_markers_and_wakes_nobody(stage: Stage) -> None:
    before = len(stage.people.requests)
    incident = stage.incident("kafka-1", outcome=Outcome.HEALED)

    def arrived() -> bool:
        return any(_of(span, incident) for span in stage.otlp.spans()) and len(stage.honeycomb.requests) >= 2

    assert wait_until(arrived, 90), stage.log
    assert [request.method for request in stage.honeycomb.requests] == ["POST", "PUT"]
    assert len(stage.people.requests) == before
    assert stage.otlp.headers[0]["x-honeycomb-team"] == SECRETS["otlp"]


def _of(span: Any, incident: str) -> bool:
    return any(
        pair.key == "kintsugi.incident.id" and pair.value.string_value == incident for pair in span.attributes
    )


def test_a_refusal_calls_while_the_incident_is_open(stage: Stage) -> None:
    stage.incident("kafka-2", refused="2 of 3 are sick")
    assert wait_until(lambda: "kafka-2 needs a person: its repair was refused" in stage.titles(), 90), (
        stage.log
    )


def test_a_watchdog_that_is_killed_comes_back_and_tells_what_it_missed_once(stage: Stage) -> None:
    outbox = Outbox(store_dsn(stage.plane.settings))

    def pages_left() -> list[str]:
        return [key for key, _ in outbox.read_undelivered() if not key.startswith("marker/")]

    # What is being sent when the process is killed is told again when its claim has run out (test_outbox.py shows
    # that): a receiver has a page a moment before the outbox knows, so the kill waits until it does.
    assert wait_until(lambda: not pages_left(), 60), pages_left()
    first = stage.pid
    os.kill(first, signal.SIGKILL)
    stage.incident("kafka-3", refused="the last copy")
    title = "kafka-3 needs a person: its repair was refused"
    assert wait_until(lambda: title in stage.titles(), 120), stage.log
    assert stage.pid not in (0, first)
    assert wait_until(lambda: not pages_left(), 60), pages_left()
    assert len(stage.titles()) == len(set(stage.titles()))


def test_a_watch_whose_heartbeat_stops_is_missed_inside_and_outside(stage: Stage) -> None:
    beats = Heartbeats(store_dsn(stage.plane.settings))
    with beats.transaction() as connection:
        connection.execute(
            "INSERT INTO heartbeat VALUES ('cassandra-1', clock_timestamp() - interval '10 minutes')"
        )
    title = "Nobody watches cassandra-1: a failure there is not recovered"
    assert wait_until(lambda: title in stage.titles(), 120), stage.log
    failed = [request for request in stage.outside.requests if request.path == "/c0ffee/fail"]
    assert b"no heartbeat of watch_cassandra-1 arrived" in failed[-1].body
    count = len(stage.outside.requests)
    beats.record(["cassandra-1"])

    def well_again() -> bool:
        return any(request.path == "/c0ffee" for request in stage.outside.requests[count:])

    assert wait_until(well_again, 60), stage.log


def test_metrics_of_the_fleet_are_sent(stage: Stage) -> None:
    assert wait_until(lambda: "kintsugi.node.up" in stage.otlp.points(), 120), stage.log
    values = {who["kintsugi.node"]: value for who, value in stage.otlp.points()["kintsugi.node.up"]}
    assert values["kafka-1"] == 0, "no node runs here"
    states = {
        who["kintsugi.node"]: who["kintsugi.state"] for who, _ in stage.otlp.points()["kintsugi.node.state"]
    }
    assert states["spark-worker-1"] == "down"
    assert states["kafka-2"] == "repairing", "its incident is open"


def test_no_secret_is_an_argument_or_in_the_log(stage: Stage) -> None:
    arguments = Path(f"/proc/{stage.pid}/cmdline").read_text()
    for secret in (*SECRETS.values(), "c0ffee", stage.plane.settings.secret("airflow-jwt")):
        assert secret not in arguments
        assert secret not in stage.log


def test_stopping_airflow_stops_the_watchdog_first(stage: Stage) -> None:
    stage.plane.stop_airflow()
    assert stage.plane.status()[WATCHDOG]["state"] == "STOPPED"
