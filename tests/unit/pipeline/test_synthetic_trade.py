from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from cassandra import ReadTimeout
from moto import mock_aws

from kintsugi.core.errors import KintsugiError, StepFailed
from kintsugi.pipeline import synthetic_trade
from kintsugi.pipeline.row_parser import Trade, parse_trade
from kintsugi.pipeline.trade_identity import SYNTHETIC_SYMBOL

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

NOW = datetime(2024, 10, 8, 18, 30, 5, 123000, tzinfo=UTC)


@pytest.fixture
def s3() -> Iterator[S3Client]:
    with mock_aws():
        client = boto3.client("s3", region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="x")
        client.create_bucket(Bucket="bucket")
        yield client


def test_a_synthetic_trade_is_a_file_with_one_valid_trade_of_the_reserved_symbol(s3: S3Client) -> None:
    identity = synthetic_trade.send_synthetic_trade(s3, "bucket", NOW)
    other = synthetic_trade.send_synthetic_trade(s3, "bucket", NOW)
    keys = [item["Key"] for item in s3.list_objects_v2(Bucket="bucket")["Contents"]]
    assert all(key.startswith("trades/canary/UnderlyingOptionsTradesCalcs_2024-10-08_") for key in keys)
    bodies = [s3.get_object(Bucket="bucket", Key=key)["Body"].read().decode() for key in keys]
    trades = [parse_trade(body.splitlines()[1]) for body in bodies]
    found = {
        trade.trade_id for trade in trades if isinstance(trade, Trade) and trade.symbol == SYNTHETIC_SYMBOL
    }
    assert found == {identity, other}
    assert {trade.ts for trade in trades if isinstance(trade, Trade)} == {int(NOW.timestamp() * 1000)}


def test_the_key_of_a_synthetic_trade_sorts_last_so_that_the_quick_scans_find_it(
    s3: S3Client,
) -> None:
    sent = [
        synthetic_trade.send_synthetic_trade(s3, "bucket", NOW + timedelta(seconds=number))
        for number in range(12)
    ]
    keys = [item["Key"] for item in s3.list_objects_v2(Bucket="bucket")["Contents"]]
    bodies = [s3.get_object(Bucket="bucket", Key=key)["Body"].read().decode() for key in keys]
    found = [parse_trade(body.splitlines()[1]) for body in bodies]
    assert [trade.trade_id for trade in found if isinstance(trade, Trade)] == sent


class BusyRing:
    """A session whose first ``late`` queries time out; the synthetic trade is there."""

    def __init__(self, late: int) -> None:
        self.late = late

    def execute(self, query: str, values: Any) -> list[Any]:
        self.late -= 1
        if self.late >= 0:
            raise ReadTimeout("received only 1 responses")
        return [SimpleNamespace(trade_id=bytes.fromhex("c0ffee"))]


@pytest.fixture
def busy_ring(monkeypatch: pytest.MonkeyPatch) -> BusyRing:
    ring = BusyRing(late=2)
    monkeypatch.setattr(synthetic_trade, "POLL_S", 0.01)
    return ring


def test_a_ring_that_is_not_there_yet_is_no_failure(busy_ring: BusyRing) -> None:
    context = [KintsugiError("no Cassandra node takes connections"), nullcontext(busy_ring)]

    def connected() -> Any:
        found = context.pop(0)
        if isinstance(found, KintsugiError):
            raise found
        return found

    synthetic_trade.await_arrival(connected, "c0ffee", lambda waited_s: waited_s > 10)
    assert context == [], "it connects once, and keeps the session"
    context.append(KintsugiError("the reason"))
    with pytest.raises(StepFailed, match=r"c0ffee.*the reason"):
        synthetic_trade.await_arrival(connected, "c0ffee", lambda waited_s: True)


def test_a_query_that_a_busy_cluster_answers_too_late_is_no_failure(busy_ring: BusyRing) -> None:
    synthetic_trade.await_arrival(lambda: nullcontext(busy_ring), "c0ffee", lambda waited_s: waited_s > 10)
    assert busy_ring.late < 0


def test_the_failure_names_the_last_error_of_cassandra(busy_ring: BusyRing) -> None:
    with pytest.raises(StepFailed, match=r"c0ffee.*received only 1 responses"):
        synthetic_trade.await_arrival(lambda: nullcontext(busy_ring), "c0ffee", lambda waited_s: True)
