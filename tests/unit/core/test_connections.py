"""How S3 is reached: by Airflow's hook where Airflow is loaded, and within seconds on a recovery's way."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import BotoCoreError

from kintsugi.controlplane.airflow_environment import own_connections as installed
from kintsugi.core import connections
from kintsugi.core.connections import S3_IN_TIME_S, s3_client
from kintsugi.core.errors import KintsugiError
from kintsugi.core.s3_keys import S3Purpose, current_key, secret_name
from kintsugi.core.settings import replace_secret
from tests.installations import installation


@pytest.fixture(params=["Airflow's hook", "boto3 alone"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Inside Airflow, and in a process that has not loaded it."""
    import airflow  # noqa: F401

    if request.param == "boto3 alone":
        monkeypatch.setattr(connections, "has_hook", lambda _: False)
    return str(request.param)


def test_an_s3_that_accepts_and_never_answers_is_given_up_within_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    with socket.create_server(("127.34.0.1", 0)) as silent:
        url = f"http://127.34.0.1:{silent.getsockname()[1]}"
        connection = {"conn_type": "aws", "login": "x", "password": "x", "extra": {"endpoint_url": url}}
        monkeypatch.setenv("AIRFLOW_CONN_KINTSUGI_S3_PAGE", json.dumps(connection))
        s3 = s3_client(installation(tmp_path, "127.34"), S3Purpose.PAGE, in_time=True)
        began = time.process_time(), time.monotonic()
        with pytest.raises(BotoCoreError):
            s3.put_object(Bucket="kintsugi", Key="incidents/a", Body=b"x" * 1000)
        # What this process itself computed meanwhile isn't S3's: the machine may be busy.
        spent = time.monotonic() - began[1] - 20 * (time.process_time() - began[0])
        assert spent < 3 * S3_IN_TIME_S


@pytest.mark.parametrize("in_time", [False, True])
def test_both_ways_make_the_same_client(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str, in_time: bool
) -> None:
    settings = installation(tmp_path, "127.34")
    found: Any = installed(settings)["kintsugi_s3_page"]
    monkeypatch.setenv("AIRFLOW_CONN_KINTSUGI_S3_PAGE", json.dumps(found))
    client = s3_client(settings, S3Purpose.PAGE, in_time=in_time)
    config = client.meta.config
    assert (client.meta.endpoint_url, client.meta.region_name) == (
        found["extra"]["endpoint_url"],
        "us-east-1",
    )
    assert config.s3["addressing_style"] == "path"
    expected = connections.IN_TIME if in_time else connections.TIMEOUTS
    assert (config.connect_timeout, config.read_timeout) == (
        expected["connect_timeout"],
        expected["read_timeout"],
    )
    assert config.retries["total_max_attempts"] == (1 if in_time else 4)
    signed = client.generate_presigned_url("get_object", Params={"Bucket": "b", "Key": "k"})
    assert f"={found['login']}" in signed


def test_inside_airflow_every_field_of_the_connection_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import airflow  # noqa: F401

    settings = installation(tmp_path, "127.34")
    extra = {"region_name": "eu-central-1", "config_kwargs": {"max_pool_connections": 3, "read_timeout": 60}}
    connection = {"conn_type": "aws", "login": "x", "password": "x", "extra": extra}
    monkeypatch.setenv("AIRFLOW_CONN_KINTSUGI_S3_PAGE", json.dumps(connection))
    client = s3_client(settings, S3Purpose.PAGE)
    assert (client.meta.config.max_pool_connections, client.meta.config.read_timeout) == (3, 60)
    assert s3_client(settings, S3Purpose.PAGE, in_time=True).meta.config.read_timeout == S3_IN_TIME_S
    assert s3_client(settings, S3Purpose.PAGE) is client, "one a process"
    connection["extra"] = {"profile_name": "nobody"}
    monkeypatch.setenv("AIRFLOW_CONN_KINTSUGI_S3_PAGE", json.dumps(connection))
    with pytest.raises(KintsugiError, match="kintsugi_s3_page") as caught:
        s3_client(settings, S3Purpose.PAGE)
    assert caught.value.__cause__ is not None


def test_a_process_that_is_older_than_a_rotation_takes_the_new_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    settings = installation(tmp_path, "127.34")
    monkeypatch.setenv("AIRFLOW_CONN_KINTSUGI_S3_PAGE", json.dumps(installed(settings)["kintsugi_s3_page"]))
    replace_secret(settings, secret_name(S3Purpose.PAGE))
    key = current_key(settings, S3Purpose.PAGE)
    signed = s3_client(settings, S3Purpose.PAGE).generate_presigned_url(
        "get_object", Params={"Bucket": "b", "Key": "k"}
    )
    assert f"={key.access_key}" in signed


def test_a_process_without_airflow_loads_none_for_its_clients(tmp_path: Path) -> None:
    """The driver, the executors and the command line: loading Airflow takes seconds, and a node need not have it."""
    settings = installation(tmp_path, "127.34")
    code = (
        "import sys; from kintsugi.core.connections import s3_client; "
        "from kintsugi.core.s3_keys import S3Purpose; "
        "from kintsugi.core.settings import load_settings; s3_client(load_settings(), S3Purpose.PAGE); "
        "import kintsugi.pipeline.cassandra_session, kintsugi.pipeline.stream.submission; "
        "print([name for name in sys.modules if name.partition('.')[0] == 'airflow'])"
    )
    environment = {
        "PYTHONPATH": ":".join(sys.path),
        "KINTSUGI_STATE": str(settings.state),
        "KINTSUGI_FLEET": str(settings.fleet_file),
        "AIRFLOW_CONN_KINTSUGI_S3_PAGE": json.dumps(installed(settings)["kintsugi_s3_page"]),
    }
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment
    )
    assert done.stdout.strip() == "[]", done.stderr[-2000:]
