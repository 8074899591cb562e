from __future__ import annotations

import json

import pytest

from kintsugi.core.errors import KintsugiError
from kintsugi.telemetry.markers import Marker, Markers, load_markers
from tests.fixtures_incidents import at
from tests.receivers import Request, http_receiver

KEY = "hcxik_not_a_real_key"
BEGUN = Marker("kintsugi-incident", "kafka-2: incident", at(0))
ENDED = Marker("kintsugi-incident", "kafka-2: healed", at(0), at(50))


def test_begin_makes_a_marker_and_end_writes_the_same_one_anew() -> None:
    with http_receiver() as honeycomb:
        honeycomb.answer = lambda request: (201, b'{"id": "d1c84ec0"}')
        api = Markers(honeycomb.url, KEY, "my data")
        marker_id = api.put(BEGUN)
        assert api.put(ENDED, marker_id) == "d1c84ec0"
    begin, end = honeycomb.requests
    assert (begin.method, begin.path) == ("POST", "/1/markers/my%20data")
    assert (end.method, end.path) == ("PUT", "/1/markers/my%20data/d1c84ec0")
    assert begin.headers["x-honeycomb-team"] == KEY
    assert begin.json == {
        "type": "kintsugi-incident",
        "message": "kafka-2: incident",
        "start_time": int(at(0).timestamp()),
    }
    # A field that is left out of an update is erased, so the end repeats everything.
    assert end.json == {
        "type": "kintsugi-incident",
        "message": "kafka-2: healed",
        "start_time": int(at(0).timestamp()),
        "end_time": int(at(50).timestamp()),
    }


def test_a_marker_that_somebody_deleted_is_made_again() -> None:
    def answer(request: Request) -> tuple[int, bytes]:
        return (404, b"{}") if request.method == "PUT" else (201, b'{"id": "new"}')

    with http_receiver() as honeycomb:
        honeycomb.answer = answer
        assert Markers(honeycomb.url, KEY).put(ENDED, "old") == "new"
    assert honeycomb.requests[-1].json["end_time"] == int(at(50).timestamp())


def test_a_refusal_says_what_the_key_lacks_and_not_the_key() -> None:
    with http_receiver() as honeycomb:
        honeycomb.answer = lambda request: (401, b'{"error": "unknown API key"}')
        with pytest.raises(KintsugiError, match=r"401.*unknown API key") as refused:
            Markers(honeycomb.url, KEY).put(BEGUN)
    assert KEY not in str(refused.value)


def test_nobody_there_is_an_error_of_ours() -> None:
    with http_receiver() as honeycomb:
        url = honeycomb.url
    with pytest.raises(KintsugiError, match=url):
        Markers(url, KEY).put(BEGUN)


def test_the_connection_describes_the_api(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_markers() is None
    defined = {"conn_type": "http", "password": KEY, "extra": {"dataset": "trades"}}
    monkeypatch.setenv("AIRFLOW_CONN_KINTSUGI_HONEYCOMB", json.dumps(defined))
    assert load_markers() == Markers("https://api.honeycomb.io", KEY, "trades")
    assert KEY not in repr(load_markers())
