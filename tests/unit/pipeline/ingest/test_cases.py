"""Small files that once went wrong (tests/data/cases), each with what is right for it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import orjson
import pytest
from moto import mock_aws

from kintsugi.core.errors import InputError
from kintsugi.pipeline.ingest.file_reader import BadLine, read_lines
from kintsugi.pipeline.row_parser import Rejection, parse_message

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

CASES = Path(__file__).parents[3] / "data" / "cases"
TRADES = "UnderlyingOptionsTradesCalcs_2024-10-08_"


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Client]:
    with mock_aws():
        client = boto3.client("s3", region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="x")
        client.create_bucket(Bucket="bucket")
        yield client


def ingested(s3: S3Client, name: str) -> tuple[list[dict[str, Any]], Counter[str]]:
    """The messages of a trade file, and its rejected rows by reason."""
    key = f"trades/{name}"
    etag = s3.put_object(Bucket="bucket", Key=key, Body=(CASES / name).read_bytes())["ETag"]
    messages: list[dict[str, Any]] = []
    rejected: Counter[str] = Counter()
    for _, line in read_lines(s3, "bucket", key, etag):
        found = line.rejection if isinstance(line, BadLine) else parse_message(line)
        if isinstance(found, Rejection):
            rejected[found.reason.value] += 1
        else:
            messages.append(orjson.loads(found.value))
    return messages, rejected


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("vendor2022_no_column.csv", 20), ("vendor2022_empty_count.csv", 20),
        ("vendor2022_empty_to_the_right.csv", 20), ("overnight_0315.csv", 5), ("microseconds.csv", 5),
        ("cr_only.csv", 5), ("macos.csv.zip", 20), ("zero_padding.csv.gz", 20), ("midpoints.csv", 8),
    ],
)  # fmt: skip
def test_every_row_is_accepted(s3: S3Client, name: str, rows: int) -> None:
    messages, rejected = ingested(s3, TRADES + name)
    assert (len(messages), rejected) == (rows, {})


def test_a_row_of_the_year_9999_is_rejected_alone(s3: S3Client) -> None:
    messages, rejected = ingested(s3, TRADES + "date_9999.csv")
    assert (len(messages), rejected) == (9, {"time": 1})


def test_a_zip_that_lost_bytes_fails_alone_and_says_so(s3: S3Client) -> None:
    with pytest.raises(InputError, match="seven_bytes_lost"):
        ingested(s3, TRADES + "seven_bytes_lost.csv.zip")


def test_the_three_forms_without_a_count_are_the_same_trades(s3: S3Client) -> None:
    forms = ("no_column", "empty_count", "empty_to_the_right")
    one, *others = (ingested(s3, f"{TRADES}vendor2022_{form}.csv")[0] for form in forms)
    assert all(other == one for other in others)
    assert {trade["exchanges"] for trade in one} == {None}
