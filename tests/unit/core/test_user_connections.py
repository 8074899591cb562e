from __future__ import annotations

import json
from pathlib import Path

import pytest

from kintsugi.controlplane.airflow_environment import airflow_environment, connection_environment
from kintsugi.core.errors import KintsugiError
from kintsugi.core.user_connections import user_connections
from tests.installations import installation

OTLP = {"conn_type": "http", "host": "https://api.honeycomb.io", "password": "hcaik"}


def _write(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


def test_without_a_file_there_are_none(tmp_path: Path) -> None:
    assert user_connections(tmp_path / "none.json") == {}


def test_a_file_that_others_may_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KintsugiError, match="chmod 600"):
        user_connections(_write(tmp_path / "c.json", "{}", 0o640))


@pytest.mark.parametrize(
    ("text", "fact"),
    [
        ('{"kintsugi_otlp":\n s3cret}', "line 2"),
        ('["s3cret"]', ""),
        ('{"kintsugi_otlp": "https://:s3cret@h"}', ""),
        ('{"kintsugi_oltp": {"password": "s3cret"}}', "kintsugi_oltp"),
    ],
)
def test_a_malformed_file_is_named_and_not_shown(tmp_path: Path, text: str, fact: str) -> None:
    path = _write(tmp_path / "c.json", text)
    with pytest.raises(KintsugiError, match=fact or None) as error:
        user_connections(path)
    assert str(path) in str(error.value)
    assert "s3cret" not in str(error.value)


def test_airflow_gets_them_and_its_own_telemetry_is_switched_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = installation(tmp_path, "127.34")
    quiet = airflow_environment(settings)
    assert not [name for name in quiet if "OTEL" in name], "none by default"
    path = _write(tmp_path / "c.json", json.dumps({"kintsugi_otlp": OTLP}))
    monkeypatch.setenv("KINTSUGI_CONNECTIONS", str(path))
    loud = airflow_environment(settings)
    assert json.loads(loud["AIRFLOW_CONN_KINTSUGI_OTLP"]) == OTLP
    assert loud["AIRFLOW__METRICS__OTEL_ON"] == loud["AIRFLOW__TRACES__OTEL_ON"] == "True"
    assert loud["OTEL_EXPORTER_OTLP_ENDPOINT"] == "https://api.honeycomb.io"
    assert loud["OTEL_EXPORTER_OTLP_HEADERS"] == "x-honeycomb-team=hcaik"
    assert float(loud["OTEL_EXPORTER_OTLP_TIMEOUT"]) <= 1


def test_the_watchdog_gets_connections_and_nothing_else(tmp_path: Path) -> None:
    found = connection_environment(installation(tmp_path, "127.34"))
    assert "AIRFLOW_CONN_KINTSUGI_STORE" in found
    assert all(name.startswith("AIRFLOW_CONN_") for name in found)
