"""Honeycomb's deliveries as real requests to a real server over a real Postgres."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import uvicorn

from kintsugi.core.fleet import load_fleet
from kintsugi.core.processes import wait_until
from kintsugi.db.outbox import MessageKind, Outbox
from kintsugi.telemetry.webhook import MAX_BYTES, create_app
from tests.integration.notify.conftest import Tables
from tests.receivers import ADDRESS
from tests.unit.telemetry.test_honeycomb_alert import payload

SECRET = "would you like to play a game"


@dataclass
class Hook:
    """The running webhook. ``secret`` and ``outbox`` may be changed under it."""

    outbox: Outbox
    secret: str | None = SECRET
    url: str = ""

    def send(
        self, body: Any = None, *, delivery: str | None = "d-1", token: str | None = SECRET
    ) -> httpx.Response:
        headers = {"Content-Type": "application/json"}
        headers |= {} if delivery is None else {"X-Honeycomb-Webhook-Delivery-ID": delivery}
        headers |= {} if token is None else {"X-Honeycomb-Webhook-Token": token}
        content = body if isinstance(body, bytes) else json.dumps(body or payload()).encode()
        return httpx.post(
            f"{self.url}/trigger", content=content, headers=headers, timeout=10, trust_env=False
        )

    def asked(self) -> list[str]:
        """The runs that the outbox will start."""
        runs = []
        while message := self.outbox.claim_message([MessageKind.RECOVERY]):
            runs.append(message.body["run"])
        return sorted(runs)


@pytest.fixture
def hook(tables: Tables) -> Iterator[Hook]:
    hook = Hook(tables.outbox)
    app = create_app(load_fleet, lambda: hook.secret, lambda: hook.outbox)
    server = uvicorn.Server(uvicorn.Config(app, host=ADDRESS, port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    assert wait_until(lambda: server.started, 60, pause=0.01)
    hook.url = f"http://{ADDRESS}:{server.servers[0].sockets[0].getsockname()[1]}"
    yield hook
    server.should_exit = True
    thread.join(30)


def test_an_alert_asks_for_the_recovery_of_its_node(hook: Hook) -> None:
    answer = hook.send()
    assert answer.status_code == 202
    assert answer.json() == {"runs": ["honeycomb__d-1__kafka-2"], "repeated": [], "unknown": []}
    assert hook.asked() == ["honeycomb__d-1__kafka-2"]


def test_a_delivery_that_is_repeated_starts_nothing_more(hook: Hook) -> None:
    hook.send()
    answer = hook.send()
    assert (answer.status_code, answer.json()["repeated"]) == (200, ["honeycomb__d-1__kafka-2"])
    assert hook.send(delivery="d-2").status_code == 202
    assert hook.asked() == ["honeycomb__d-1__kafka-2", "honeycomb__d-2__kafka-2"]


def test_repeats_at_the_same_moment_start_one(hook: Hook) -> None:
    codes: list[int] = []
    threads = [threading.Thread(target=lambda: codes.append(hook.send().status_code)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(codes) == [200] * 5 + [202]
    assert len(hook.asked()) == 1


@pytest.mark.parametrize("token", [None, "", "would you like", SECRET + "x", "ünïcode".encode()])
def test_without_the_secret_nothing_is_read_or_started(hook: Hook, token: Any) -> None:
    answer = hook.send(b"not even json", token=token)
    assert answer.status_code == 401
    assert SECRET not in answer.text
    assert hook.asked() == []


def test_without_a_configured_secret_nobody_gets_in(hook: Hook) -> None:
    hook.secret = None
    for token in (None, "", "None"):
        answer = hook.send(token=token)
        assert answer.status_code == 503
        assert "kintsugi_honeycomb_webhook" in answer.json()["error"]
        assert "Retry-After" not in answer.headers, "a retry would change nothing"


def test_an_unknown_node_is_refused_by_name(hook: Hook) -> None:
    groups = [{"Group": {"kintsugi.node": "kafka-9"}, "Result": 0}]
    answer = hook.send(payload(result_groups_triggered=groups))
    assert answer.status_code == 422
    assert "kafka-9" in answer.json()["error"]
    assert "kafka-1" in answer.json()["error"], "the known ones are named"
    assert hook.asked() == []


def test_an_unknown_node_beside_a_known_one_is_told_and_the_known_one_is_recovered(hook: Hook) -> None:
    groups = [{"Group": {"kintsugi.node": name}, "Result": 0} for name in ("kafka-9", "kafka-2")]
    answer = hook.send(payload(result_groups_triggered=groups))
    assert (answer.status_code, answer.json()["unknown"]) == (202, ["kafka-9"])
    assert hook.asked() == ["honeycomb__d-1__kafka-2"]


@pytest.mark.parametrize("changes", [{"status": "OK"}, {"is_test": True}])
def test_a_resolved_alert_and_a_test_start_nothing(hook: Hook, changes: dict[str, Any]) -> None:
    assert hook.send(payload(**changes)).status_code == 200
    assert hook.asked() == []


@pytest.mark.parametrize("delivery", [None, "", "../x", "a" * 101, "a b"])
def test_a_delivery_without_a_usable_id_is_refused(hook: Hook, delivery: str | None) -> None:
    answer = hook.send(delivery=delivery)
    assert answer.status_code == 400
    assert "X-Honeycomb-Webhook-Delivery-ID" in answer.json()["error"]
    assert hook.asked() == []


def test_what_is_no_payload_is_named(hook: Hook) -> None:
    answer = hook.send(b"{")
    assert (answer.status_code, answer.json()["error"][:20]) == (400, "the body is not JSON")
    assert hook.send(b" " * (MAX_BYTES + 1)).status_code == 413


def test_other_methods_and_paths_do_not_exist(hook: Hook) -> None:
    assert httpx.get(f"{hook.url}/trigger", trust_env=False).status_code == 405
    assert httpx.get(f"{hook.url}/docs", trust_env=False).status_code == 404


def test_a_store_that_is_away_asks_honeycomb_to_come_again(hook: Hook) -> None:
    well, hook.outbox = hook.outbox, Outbox(f"postgresql://kintsugi@{ADDRESS}:1/none")
    answer = hook.send()
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
    hook.outbox = well
    assert hook.send().status_code == 202
