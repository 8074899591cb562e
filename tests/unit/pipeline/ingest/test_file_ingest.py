"""What needs no server; a whole ingest is tried on real ones in tests/integration/test_trades.py."""

from __future__ import annotations

import json
from typing import Any

import boto3
import pytest
from moto import mock_aws

from kintsugi.core.errors import KintsugiError
from kintsugi.db.ledger_entry import file_id
from kintsugi.pipeline.ingest import file_ingest, file_manifest

REPORT: dict[str, Any] = {
    "key": "trades/f", "etag": '"e"', "state": "done", "reason": None, "lines_done": 11,
    "read": 10, "accepted": 9,
    "rejected": {"columns": 1}, "duplicates": 2, "produced": 7,
}  # fmt: skip


@pytest.mark.parametrize("limit", [3, 100])
def test_recent_identities_are_remembered_at_least_as_long_as_promised(limit: int) -> None:
    recent = file_ingest.RecentIdentities(limit)
    identities = [n.to_bytes(16, "big") for n in range(limit)]
    assert all(recent.add(identity) for identity in identities)
    assert not any(recent.add(identity) for identity in identities)


def test_memory_of_identities_is_bounded() -> None:
    recent = file_ingest.RecentIdentities(10)
    for number in range(1000):
        recent.add(number.to_bytes(16, "big"))
    assert len(recent._new) + len(recent._old) <= 20
    assert recent.add(bytes(16))


def test_a_sum_over_files_adds_counts_and_reasons() -> None:
    other = {**REPORT, "state": "failed", "rejected": {"columns": 2, "time": 1}}
    assert file_manifest.sum_reports([REPORT, other]) == {
        "files": 2, "failed": 1, "read": 20, "accepted": 18, "duplicates": 4, "produced": 14,
        "rejected": {"columns": 3, "time": 1},
    }  # fmt: skip


@mock_aws
@pytest.mark.parametrize(
    ("stored", "claimed", "text"),
    [({}, {}, None), ({"produced": 6}, {}, "produced"), ({"read": 11}, {"read": 11}, "don't add up")],
)
def test_a_manifest_that_disagrees_is_named(
    stored: dict[str, Any], claimed: dict[str, Any], text: str | None
) -> None:
    s3 = boto3.client("s3", region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="x")
    s3.create_bucket(Bucket="bucket")
    key = f"manifests/{file_id(REPORT['key'], REPORT['etag'])}.json"
    s3.put_object(Bucket="bucket", Key=key, Body=json.dumps({**REPORT, **stored}).encode())
    if text is None:
        file_manifest.check_manifest(s3, {**REPORT, **claimed}, "bucket")
    else:
        with pytest.raises(KintsugiError, match=f"trades/f.*{text}"):
            file_manifest.check_manifest(s3, {**REPORT, **claimed}, "bucket")
