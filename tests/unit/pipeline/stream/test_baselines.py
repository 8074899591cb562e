from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import boto3
import numpy as np
import pytest
from moto import mock_aws

from kintsugi.core.errors import KintsugiError
from kintsugi.pipeline.stream import baselines
from kintsugi.pipeline.stream.baselines import STATISTICS, BaselineCache, Buckets, newest_before
from kintsugi.pipeline.stream.derived_records import Day

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client


def row(symbol: str, as_of: str, median: float = 8.0) -> tuple[object, ...]:
    return (symbol, as_of, "C", "0-20", "short", 30, 10.0, median, 2.0, 0.5, 30, 0.2, 0.02, None)


def test_a_day_is_measured_by_the_newest_file_before_it() -> None:
    rows = [row("A", "2024-10-07", 7.0), row("A", "2024-10-04", 4.0), row("B", "2024-10-04", 5.0)]
    days = [("A", "2024-10-08"), ("A", "2024-10-07"), ("A", "2024-10-04"), ("B", "2024-12-31")]
    found = newest_before(rows, days)
    medians = [None if buckets is None else buckets[0][2] for buckets in found.values()]
    assert medians == [7.0, 4.0, None, 5.0]


def test_a_bucket_has_a_place_and_what_is_unknown_is_no_number() -> None:
    found = baselines.buckets_from_rows([("P", "80-100", "long", *range(9)), ("P", None, "long", *range(9))])
    assert found is not None
    assert found.shape == (30, len(STATISTICS))
    assert found[-1].tolist() == list(range(9))
    assert np.isnan(found[:-1]).all()
    assert baselines.buckets_from_rows([]) is None


class Table(BaselineCache):
    """A cache over a table that the test holds; ``reads``: what was read."""

    def __init__(self, **options: Any) -> None:
        super().__init__([], refresh=0.0, **options)
        self.table: list[Any] = []
        self.version: int | Exception = 1
        self.reads: list[Day] = []

    def _read_version(self) -> int:
        if isinstance(self.version, Exception):
            raise self.version
        return self.version

    def _read(self, days: list[Day]) -> list[Buckets | None]:
        self.reads += days
        return list(newest_before(self.table, days).values())


TODAY = ("A", "2024-10-08")


def test_only_what_the_trades_need_is_read_and_only_once() -> None:
    cache = Table()
    cache.table = [row("A", "2024-10-07"), row("B", "2024-10-07")]
    assert cache.look_up([TODAY]).keys() == {TODAY}
    assert cache.look_up([TODAY, ("C", "2024-10-08")])["C", "2024-10-08"] is None
    cache.look_up([("C", "2024-10-08")])
    assert cache.reads == [TODAY, ("C", "2024-10-08")]


def test_what_is_announced_is_read_anew() -> None:
    cache = Table()
    assert cache.look_up([TODAY])[TODAY] is None
    cache.table = [row("A", "2024-10-07")]
    assert cache.look_up([TODAY])[TODAY] is None, "nothing was announced"
    cache.version = 2
    assert cache.look_up([TODAY])[TODAY] is not None


def test_while_the_version_cannot_be_read_what_is_known_holds() -> None:
    cache = Table()
    cache.version = KintsugiError("no quorum")
    with pytest.raises(KintsugiError):
        cache.look_up([TODAY])
    cache.version = 1
    cache.table = [row("A", "2024-10-07")]
    known = cache.look_up([TODAY])[TODAY]
    cache.version = KintsugiError("no quorum")
    assert cache.look_up([TODAY])[TODAY] is known is not None


def test_memory_is_bounded_and_what_was_used_last_stays() -> None:
    cache = Table(capacity=2)
    days = [(symbol, "2024-10-08") for symbol in "ABC"]
    assert len(cache.look_up(days)) == 3, "a batch may need more"
    cache.look_up([days[1]])
    cache.look_up([days[0]])
    assert len(cache._cache) == 2
    cache.look_up([days[1]])
    assert cache.reads == [*days, days[0]]


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
