"""S3 on a recovery's way: one that hangs costs seconds."""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path

import pytest
from botocore.exceptions import BotoCoreError

from kintsugi.core.connections import S3_IN_TIME_S, s3_client
from tests.installations import installation


def test_an_s3_that_accepts_and_never_answers_is_given_up_within_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.34.0.1", 0)) as silent:
        url = f"http://127.34.0.1:{silent.getsockname()[1]}"
        connection = {"login": "x", "password": "x", "extra": {"endpoint_url": url}}
        monkeypatch.setenv("AIRFLOW_CONN_KINTSUGI_S3", json.dumps(connection))
        s3 = s3_client(installation(tmp_path, "127.34"), in_time=True)
        began = time.process_time(), time.monotonic()
        with pytest.raises(BotoCoreError):
            s3.put_object(Bucket="kintsugi", Key="incidents/a", Body=b"x" * 1000)
        # What this process itself computed meanwhile isn't S3's: the machine may be busy.
        spent = time.monotonic() - began[1] - 20 * (time.process_time() - began[0])
        assert spent < 3 * S3_IN_TIME_S
