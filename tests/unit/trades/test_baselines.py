from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import boto3
import pytest
from moto import mock_aws

from kintsugi.trades import baselines

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client


def row(symbol: str, as_of: str) -> tuple[object, ...]:
    return (symbol, as_of, "C", "0-20", "short", 30, 10.0, 8.0, 2.0, 0.5, 30, 0.2, 0.02, 0.1)


def test_a_day_is_measured_by_the_newest_file_before_it() -> None:
    found = baselines.with_validity([row("A", "2024-10-07"), row("A", "2024-10-04"), row("B", "2024-10-04")])
    assert [(r[0], r[1], r[2]) for r in found] == [
        ("A", "2024-10-07", baselines.FOREVER), ("A", "2024-10-04", "2024-10-07"),
        ("B", "2024-10-04", baselines.FOREVER),
    ]  # fmt: skip


@pytest.fixture
def s3() -> Iterator[S3Client]:
    with mock_aws():
        client = boto3.client("s3", region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="x")
        client.create_bucket(Bucket="bucket")
        yield client


def test_a_file_waits_until_it_has_a_manifest_and_again_when_its_content_is_new(s3: S3Client) -> None:
    key = "eod/UnderlyingOptionsEODCalcs_2024-10-07.csv"
    etag = s3.put_object(Bucket="bucket", Key=key, Body=b"one")["ETag"]
    s3.put_object(Bucket="bucket", Key="eod/readme.txt", Body=b"")
    assert baselines.pending_files(s3, "bucket") == [key]
    s3.put_object(Bucket="bucket", Key=baselines.manifest_key(key, etag), Body=b"{}")
    assert baselines.pending_files(s3, "bucket") == []
    s3.put_object(Bucket="bucket", Key=key, Body=b"two")
    assert baselines.pending_files(s3, "bucket") == [key]
