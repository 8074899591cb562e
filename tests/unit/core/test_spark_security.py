"""Spark's secret and the token of its pages."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from kintsugi.core import spark_security
from kintsugi.core.fleet import Node, Role
from kintsugi.core.settings import SPARK_UI_SECRET, Settings, cassandra_jmx_port, load_settings

KEY = bytes(range(32))


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("KINTSUGI_STATE", str(tmp_path / "state"))
    return load_settings()


def test_a_token_is_what_another_library_signs() -> None:
    import jwt

    token = spark_security.sign_page_token(KEY)
    assert jwt.decode(token, KEY, algorithms=["HS256"]) == {"sub": "kintsugi"}
    with pytest.raises(jwt.InvalidSignatureError):
        jwt.decode(token, KEY[::-1], algorithms=["HS256"])


def test_who_only_probes_makes_no_secret(settings: Settings) -> None:
    assert spark_security.spark_page_headers() == {}
    assert not settings.secrets.exists()


def test_probes_sign_with_the_key_that_spark_has(settings: Settings) -> None:
    import jwt

    given = spark_security.spark_defaults(settings)["spark.org.apache.spark.ui.JWSFilter.param.secretKey"]
    key = base64.urlsafe_b64decode(given + "=" * (-len(given) % 4))
    token = spark_security.spark_page_headers()["Authorization"].removeprefix("Bearer ")
    assert jwt.decode(token, key, algorithms=["HS256"])
    (settings.secrets / SPARK_UI_SECRET).write_text("00" * 32)  # a new secret counts at once
    assert spark_security.spark_page_headers()["Authorization"] != f"Bearer {token}"


def test_the_nodes_of_a_machine_have_jmx_ports_of_their_own() -> None:
    def port(address: str) -> int:
        return cassandra_jmx_port(Node("cassandra-1", Role.CASSANDRA, address, 2222))

    assert [port(f"127.20.2.{number}") for number in (1, 2, 3)] == [22021, 22022, 22023]
    everywhere = [port(f"{first}.{second}.3.9") for first in (10, 127) for second in range(256)]
    assert 20000 <= min(everywhere) <= max(everywhere) < 32768
