"""From what happened to what the outside got: real Postgres, real receivers."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from kintsugi.core.fleet import Role
from kintsugi.core.incident import Outcome
from kintsugi.db.outbox import MessageKind
from kintsugi.db.store import Store
from kintsugi.notify.dispatcher import Dispatcher
from kintsugi.telemetry.trace import trace_id
from tests.integration.notify.conftest import Tables
from tests.receivers import HttpReceiver, OtlpReceiver, Request, http_receiver, otlp_over_http

PEOPLE = (MessageKind.PAGE, MessageKind.DIGEST)


@dataclass
class Scene:
    """The outside as test doubles of the network: receivers; and the Post that delivers to them."""

    tables: Tables
    post: Dispatcher
    people: HttpReceiver
    honeycomb: HttpReceiver
    otlp: OtlpReceiver
    triggered: list[tuple[str, dict[str, Any], str]] = field(default_factory=list)

    def hurry(self) -> None:
        """Let every pause be over."""
        with self.tables.outbox.transaction() as connection:
            connection.execute("UPDATE outbox SET due_at = clock_timestamp() WHERE done_at IS NULL")


@pytest.fixture
def scene(tables: Tables, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    with http_receiver() as people, http_receiver() as honeycomb, otlp_over_http() as otlp:
        mail = people.url.replace("http://", "json://")
        both = [{"path": f"{mail}/a"}, {"path": f"{mail}/b", "tag": "page"}]
        for name, defined in {
            "kintsugi_apprise": {"extra": {"config": both}},
            "kintsugi_honeycomb": {"host": honeycomb.url, "password": "hcxik"},
            "kintsugi_otlp": {"host": otlp.endpoint, "password": "hcaik"},
        }.items():
            monkeypatch.setenv(f"AIRFLOW_CONN_{name.upper()}", json.dumps(defined))
        triggered: list[tuple[str, dict[str, Any], str]] = []

        def trigger(dag: str, conf: Mapping[str, Any], run: str) -> str:
            triggered.append((dag, dict(conf), run))
            return run

        post = Dispatcher(
            tables.outbox,
            tables.store,
            tables.ledger,
            {"service.namespace": "kintsugi"},
            trigger,
        )
        honeycomb.answer = lambda request: (201, b'{"id": "d1c84ec0"}')
        yield Scene(tables, post, people, honeycomb, otlp, triggered)


def closed_incident(store: Store, outcome: Outcome = Outcome.HEALED) -> str:
    lease = store.acquire_lease("kafka-2", "watch/1", 60, fresh_token=True)
    now = datetime.now(UTC)
    incident = store.open_incident(
        "kafka-2",
        lease.token,
        role=Role.KAFKA,
        holder="watch/1",
        first_failed_at=now - timedelta(seconds=3),
        detected_at=now - timedelta(seconds=1),
    )
    store.append_entry(incident.id, lease.token, "confirm", "the host is lost", {"verdict": "host_lost"})
    store.close_incident(incident.id, lease.token, outcome, "it leads a partition")
    store.release_lease("kafka-2", lease.token)
    return incident.id


def test_a_page_goes_to_every_channel_and_a_digest_to_those_that_want_it(scene: Scene) -> None:
    outbox = scene.tables.outbox
    outbox.add_message(
        "page/1", MessageKind.PAGE, {"title": "kafka-2 needs a person", "text": "2 of 3 are sick"}
    )
    outbox.add_message("digest/1", MessageKind.DIGEST, {"title": "Kintsugi: 1 healed", "text": "…"})
    while scene.post.deliver_one(*PEOPLE):
        pass
    told = sorted((request.path.rstrip("/"), request.json["title"]) for request in scene.people.requests)
    assert told == [
        ("/a", "Kintsugi: 1 healed"),
        ("/a", "kafka-2 needs a person"),
        ("/b", "kafka-2 needs a person"),
    ]
    assert outbox.read_undelivered() == []


def test_a_channel_that_has_a_page_does_not_get_it_again_when_the_other_fails(scene: Scene) -> None:
    down = threading.Event()
    down.set()

    def answer(request: Request) -> tuple[int, bytes]:
        return (500, b"") if down.is_set() and request.path.startswith("/b") else (200, b"")

    scene.people.answer = answer
    scene.tables.outbox.add_message("page/1", MessageKind.PAGE, {"title": "t", "text": "x"})
    assert scene.post.deliver_one(*PEOPLE)
    assert scene.tables.outbox.read_undelivered()[0][0] == "page/1"
    down.clear()
    scene.hurry()
    assert scene.post.deliver_one(*PEOPLE)
    assert [request.path.rstrip("/") for request in scene.people.requests].count("/a") == 1
    assert scene.tables.outbox.read_undelivered() == []


def test_a_deliverer_that_is_killed_before_it_could_say_done_leaves_the_page_to_the_next(
    scene: Scene,
) -> None:
    scene.tables.outbox.add_message("page/1", MessageKind.PAGE, {"title": "t", "text": "x"})
    assert scene.tables.outbox.claim_message(PEOPLE) is not None  # and it dies here
    assert not scene.post.deliver_one(*PEOPLE), "its claim still holds"
    scene.hurry()
    assert scene.post.deliver_one(*PEOPLE)
    assert len(scene.people.requests) == 2


def test_without_a_channel_a_page_is_given_up_on_record(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AIRFLOW_CONN_KINTSUGI_APPRISE")
    scene.tables.outbox.add_message("page/1", MessageKind.PAGE, {"title": "t", "text": "x"})
    assert scene.post.deliver_one(*PEOPLE)
    ((key, error),) = scene.tables.outbox.read_undelivered()
    assert key == "page/1"
    assert error is not None
    assert "define the connection kintsugi_apprise" in error


def test_an_incident_becomes_its_trace(scene: Scene) -> None:
    incident = closed_incident(scene.tables.store)
    scene.tables.outbox.add_message(
        f"trace/incident/{incident}", MessageKind.INCIDENT_TRACE, {"incident": incident}
    )
    assert scene.post.deliver_one(MessageKind.INCIDENT_TRACE)
    names = {span.name for span in scene.otlp.spans()}
    assert names == {"incident", "detect", "confirm"}
    assert {span.trace_id for span in scene.otlp.spans()} == {trace_id(incident).to_bytes(16)}
    assert not scene.post.deliver_one(MessageKind.INCIDENT_TRACE)


def test_a_trace_waits_for_a_backend_that_is_away(scene: Scene) -> None:
    incident = closed_incident(scene.tables.store)
    scene.otlp.refuse = True
    scene.tables.outbox.add_message("trace/x", MessageKind.INCIDENT_TRACE, {"incident": incident})
    assert scene.post.deliver_one(MessageKind.INCIDENT_TRACE)
    assert scene.otlp.spans() == []
    scene.otlp.refuse = False
    scene.hurry()
    assert scene.post.deliver_one(MessageKind.INCIDENT_TRACE)
    assert len(scene.otlp.spans()) == 3


def test_an_ingested_file_becomes_its_trace(scene: Scene) -> None:
    from kintsugi.db.ledger_entry import FileState, Tally

    with scene.tables.ledger.claim("trades/f.csv", '"e"', 10) as claim:
        assert claim is not None
        claim.finish(Tally(lines_done=3, read=2, accepted=2, produced=2), FileState.DONE)
    scene.tables.outbox.add_message(
        "trace/f", MessageKind.INGEST_TRACE, {"key": "trades/f.csv", "etag": '"e"'}
    )
    assert scene.post.deliver_one(MessageKind.INGEST_TRACE)
    assert [span.name for span in scene.otlp.spans()] == ["send trades"]


def test_the_end_of_an_incident_closes_the_marker_of_its_begin(scene: Scene) -> None:
    begin = {
        "type": "kintsugi-incident",
        "message": "m",
        "start": "2026-08-01T02:15:00+00:00",
        "begin_key": "m/begin",
    }
    scene.tables.outbox.add_message("m/begin", MessageKind.MARKER, begin)
    assert scene.post.deliver_one(MessageKind.MARKER)
    scene.tables.outbox.add_message(
        "m/end", MessageKind.MARKER, {**begin, "end": "2026-08-01T02:16:00+00:00"}
    )
    assert scene.post.deliver_one(MessageKind.MARKER)
    assert [(request.method, request.path) for request in scene.honeycomb.requests] == [
        ("POST", "/1/markers/__all__"),
        ("PUT", "/1/markers/__all__/d1c84ec0"),
    ]


def test_a_recovery_is_triggered_under_its_own_run_id(scene: Scene) -> None:
    body = {"node": "kafka-2", "run": "honeycomb__d-1__kafka-2", "reason": "A node is down"}
    scene.tables.outbox.add_message("recovery/d-1/kafka-2", MessageKind.RECOVERY, body)
    assert scene.post.deliver_one(MessageKind.RECOVERY)
    conf = {"node": "kafka-2", "action": "auto", "dry_run": False}
    assert scene.triggered == [("recover_node", conf, "honeycomb__d-1__kafka-2")]
    assert scene.tables.outbox.read_receipt("recovery/d-1/kafka-2") == {"run": "honeycomb__d-1__kafka-2"}


def test_the_digest_is_put_once_for_a_day(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    from kintsugi.core.settings import load_settings
    from kintsugi.notify.digest import put_digest
    from kintsugi.operations.context import Context

    monkeypatch.setattr("kintsugi.notify.digest.store_dsn", lambda settings: scene.tables.dsn)
    closed_incident(scene.tables.store)
    settings = load_settings()
    context = Context(settings, settings.fleet, scene.tables.store)
    until = datetime.now(UTC) + timedelta(seconds=5)
    for _ in range(2):  # the task is run again
        assert put_digest(context, until) == "Kintsugi: 1 healed"
    while scene.post.deliver_one(*PEOPLE):
        pass
    (request,) = scene.people.requests
    assert "kafka-2: healed" in request.json["message"]
