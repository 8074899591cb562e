"""What the webhook refuses before anything is stored, as real requests to the application."""

from __future__ import annotations

import json
from typing import Any

import pytest
from starlette.testclient import TestClient

from kintsugi.core.fleet import load_fleet
from kintsugi.telemetry import webhook
from kintsugi.telemetry.webhook import RequestLimit, create_app
from tests.unit.telemetry.test_honeycomb_alert import payload

SECRET = "would you like to play a game"


class Outbox:
    """Takes everything, as Postgres would: what it can't hold is an error there too."""

    def add_message(self, key: str, kind: Any, body: dict[str, Any]) -> bool:
        text = json.dumps(body, ensure_ascii=False)
        text.encode()
        assert "\\u0000" not in text
        return True


class Client:
    def __init__(self, secret: str) -> None:
        app = create_app(load_fleet, lambda: secret, Outbox)  # type: ignore[arg-type]
        self.http = TestClient(app, raise_server_exceptions=False)

    def send(self, body: Any = None, *, token: str = SECRET, delivery: str = "d-1", **headers: str) -> Any:
        names = {"X-Honeycomb-Webhook-Token": token, "X-Honeycomb-Webhook-Delivery-ID": delivery.encode()}
        content = json.dumps(payload()).encode() if body is None else body
        return self.http.post("/trigger", content=content, headers={**names, **headers})


@pytest.fixture
def client() -> Client:
    return Client(SECRET)


@pytest.mark.parametrize("secret", ["x", "a" * (webhook.MIN_SECRET - 1)])
def test_a_short_secret_opens_nothing(secret: str) -> None:
    answer = Client(secret).send(token=secret)
    assert answer.status_code == 403
    assert "kintsugi_honeycomb_webhook" in answer.json()["error"]
    assert secret not in answer.text.split()


@pytest.mark.parametrize("opened", [b"[", b'{"a":'])
def test_json_without_end_is_refused(client: Client, opened: bytes) -> None:
    answer = client.send(opened * 100_000)
    assert (answer.status_code, "error" in answer.json()) == (400, True)


@pytest.mark.parametrize("letter", ["\\ud800", "\\u0000", "\\u001b[2J"])
def test_text_that_nothing_can_hold_is_cleaned(client: Client, letter: str) -> None:
    for field in ("name", "summary"):
        body = json.dumps(payload()).replace(f'"{field}": "', f'"{field}": "{letter}', 1)
        assert client.send(body.encode()).status_code == 202
    unknown = json.dumps(payload()).replace('kafka-2"}, "Result": 0}]', f'{letter}"}}, "Result": 0}}]')
    assert client.send(unknown.encode().replace(b"kafka-2", b"x")).status_code == 422


def test_a_long_answer_is_cut(client: Client) -> None:
    groups = [{"Group": {"kintsugi.node": f"{number}" * 200}} for number in range(1000)]
    answer = client.send(json.dumps(payload(result_groups_triggered=groups)).encode())
    assert answer.status_code == 422
    assert len(answer.content) < 10_000


def test_a_body_that_announces_its_size_is_not_read(client: Client) -> None:
    assert client.send(b" ", **{"Content-Length": str(1 << 40)}).status_code == 413
    assert client.send(b" " * (webhook.MAX_BYTES + 1)).status_code == 413


@pytest.mark.parametrize("delivery", ["é", "²", "d\u0661"])
def test_a_delivery_id_is_ascii(client: Client, delivery: str) -> None:
    assert client.send(delivery=delivery).status_code == 400


def test_guesses_are_limited_and_take_nothing_from_who_knows_the_secret(client: Client) -> None:
    codes = [
        client.send(token=f"guess {number}").status_code for number in range(webhook.REFUSED_PER_MINUTE + 5)
    ]
    assert codes == [401] * webhook.REFUSED_PER_MINUTE + [429] * 5
    assert client.send().status_code == 202


def test_deliveries_are_limited_and_may_come_again(client: Client) -> None:
    codes = [client.send(delivery=f"d-{number}").status_code for number in range(webhook.ACCEPTED_PER_MINUTE)]
    assert set(codes) == {202}
    answer = client.send()
    assert (answer.status_code, "Retry-After" in answer.headers) == (429, True)


def test_a_limit_counts_the_last_minute() -> None:
    now = [0.0]
    limit = RequestLimit(2, lambda: now[0])
    assert [limit.allows() for _ in range(3)] == [True, True, False]
    now[0] = 59.9
    assert not limit.allows()
    now[0] = 60.0
    assert [limit.allows() for _ in range(3)] == [True, True, False]
