"""What goes to S3 arrives there once S3 is back, and nothing waits for an S3 that hangs."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from botocore.exceptions import EndpointConnectionError

from kintsugi.core.s3_keys import S3Purpose
from kintsugi.operations import spool
from kintsugi.operations.spool import deliver_to_s3, flush_spool


class Store3:
    """S3 that is there or away."""

    def __init__(self) -> None:
        self.away, self.kept, self.asked = True, dict[str, bytes](), 0

    def put_object(self, *, Bucket: str, Key: str, Body: bytes) -> None:  # noqa: N803 - boto3's names
        self.asked += 1
        if self.away:
            raise EndpointConnectionError(endpoint_url="http://127.34.0.1:9000")
        self.kept[Key] = Body


def test_what_waited_for_s3_is_never_put_over_what_came_later(tmp_path: Path) -> None:
    s3 = Store3()
    context: Any = SimpleNamespace(settings=SimpleNamespace(control=tmp_path), s3_in_time=lambda purpose: s3)
    deliver_to_s3(context, "incidents/a/incident.json", b"first")
    deliver_to_s3(context, "incidents/b/incident.json", b"other")
    assert s3.kept == {}
    s3.away = False
    os.utime(tmp_path / spool.S3_AWAY, (0, 0))  # long ago
    deliver_to_s3(context, "incidents/a/incident.json", b"second")
    flush_spool(context)
    assert s3.kept == {"incidents/a/incident.json": b"second", "incidents/b/incident.json": b"other"}


def test_each_record_is_written_with_the_key_of_its_purpose(tmp_path: Path) -> None:
    asked: list[S3Purpose] = []
    s3 = Store3()
    s3.away = False

    def client(purpose: S3Purpose) -> Store3:
        asked.append(purpose)
        return s3

    context: Any = SimpleNamespace(settings=SimpleNamespace(control=tmp_path), s3_in_time=client)
    for key in ("incidents/a/plan.json", "releases/1.tar.gz", "deployments/b.json"):
        deliver_to_s3(context, key, b"body")
    assert asked == [S3Purpose.INCIDENTS, S3Purpose.RELEASES, S3Purpose.RELEASES]


def test_an_s3_that_hung_a_moment_ago_is_not_waited_for_again(tmp_path: Path) -> None:
    s3 = Store3()
    context: Any = SimpleNamespace(settings=SimpleNamespace(control=tmp_path), s3_in_time=lambda purpose: s3)
    for key in ("a", "b", "c"):
        deliver_to_s3(context, key, b"body")
    flush_spool(context)
    assert s3.asked == 1
    assert sorted(path.name for path in spool.spool_directory(context.settings).iterdir()) == ["a", "b", "c"]
