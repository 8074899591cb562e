from __future__ import annotations

import json

import pytest

from kintsugi.core.errors import KintsugiError
from kintsugi.telemetry.backend import Backend, Protocol, load_backend

HONEYCOMB = {"conn_type": "http", "host": "https://api.honeycomb.io/", "password": "k,1"}


def test_without_a_connection_there_is_no_backend() -> None:
    assert load_backend() is None


def test_the_password_is_honeycombs_team_header(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_KINTSUGI_OTLP", json.dumps(HONEYCOMB))
    found = load_backend()
    assert found == Backend("https://api.honeycomb.io", Protocol.HTTP, {"x-honeycomb-team": "k,1"})
    assert "k,1" not in repr(found)


def test_metrics_go_to_a_dataset_of_their_own_at_honeycomb_only() -> None:
    found, other = load_backend(HONEYCOMB), load_backend({"host": "http://127.0.0.1:4318"})
    assert found is not None
    assert other is not None
    assert found.metric_headers["x-honeycomb-dataset"] == "kintsugi-metrics"
    assert other.metric_headers == {}


def test_any_other_backend_by_the_same_setting() -> None:
    extra = {"protocol": "grpc", "headers": {"Authorization": "Bearer t"}, "timeout_s": 2}
    found = load_backend({"host": "http://127.0.0.1", "port": 4317, "extra": json.dumps(extra)})
    assert found == Backend("http://127.0.0.1:4317", Protocol.GRPC, {"authorization": "Bearer t"}, 2.0)


def test_the_sdk_variables_can_carry_any_key() -> None:
    found = load_backend(HONEYCOMB)
    assert found is not None
    variables = found.environment()
    assert variables["OTEL_EXPORTER_OTLP_HEADERS"] == "x-honeycomb-team=k%2C1"
    assert variables["OTEL_TRACES_EXPORTER"] == "otlp_proto_http"


@pytest.mark.parametrize(
    ("defined", "said"),
    [
        ({"host": "api.honeycomb.io"}, "must be a URL"),
        ({"password": "x"}, "must be a URL"),
        ({"host": "https://h", "extra": {"protocol": "thrift"}}, r"extra\.protocol .*thrift"),
    ],
)
def test_a_malformed_connection_is_named(defined: dict[str, object], said: str) -> None:
    with pytest.raises(KintsugiError, match=said):
        load_backend(defined)


def test_a_connection_that_is_no_json_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_KINTSUGI_OTLP", "http://:s3cret@host")
    with pytest.raises(KintsugiError, match="is not JSON") as error:
        load_backend()
    assert "s3cret" not in str(error.value)
