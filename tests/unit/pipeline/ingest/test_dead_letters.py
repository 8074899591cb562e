from __future__ import annotations

import base64
import json
import tracemalloc
from collections.abc import Iterator
from typing import TYPE_CHECKING

import boto3
from moto import mock_aws

from kintsugi.core.rejections import Reason, Rejection
from kintsugi.pipeline.ingest.dead_letters import DeadLetters, dead_letter
from kintsugi.pipeline.ingest.file_ingest import LETTER_BYTES, split_chunks
from kintsugi.pipeline.ingest.file_reader import NarrowedLine, raw_bytes
from kintsugi.pipeline.object_listing import S3Object
from tests.unit.pipeline.test_row_parser import LINE

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

WHY = Rejection(Reason.NUMBER, "trade_size is 'ten', not a number")


def test_a_letter_holds_the_whole_raw_line_whatever_it_is() -> None:
    for raw in (LINE.encode() * 200, b"\xe9" * 60_000, b"\0,\x07"):
        letter = json.loads(dead_letter("trades/f", "e", 7, raw, WHY))
        kept = letter["raw"].encode() if "raw" in letter else base64.b64decode(letter["raw_base64"])
        assert kept == raw
        assert (letter["line"], letter["reason"]) == (7, "number")


def test_the_raw_line_has_the_unknown_columns_too() -> None:
    assert raw_bytes(NarrowedLine("a,b", "a,venue,b")) == b"a,venue,b"
    assert raw_bytes("caf\udce9") == b"caf\xe9"


@mock_aws
def test_what_exceeds_the_limit_is_counted_and_said() -> None:
    s3: S3Client = boto3.client(
        "s3", region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="x"
    )
    s3.create_bucket(Bucket="bucket")
    letters = DeadLetters(limit=1000)
    kept = [letters.add(b"x" * 299) for _ in range(5)]
    assert kept == [True, True, True, False, False]
    assert letters.dropped == 2
    assert "2 rejected rows" in str(letters.note())
    letters.upload(s3, "bucket", "f")
    body = s3.get_object(Bucket="bucket", Key="dead-letter/f.jsonl")["Body"].read()
    assert body == (b"x" * 299 + b"\n") * 3


@mock_aws
def test_without_a_letter_there_is_no_object() -> None:
    s3: S3Client = boto3.client(
        "s3", region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="x"
    )
    s3.create_bucket(Bucket="bucket")
    letters = DeadLetters()
    letters.upload(s3, "bucket", "f")
    assert letters.note() is None
    assert s3.list_objects_v2(Bucket="bucket")["KeyCount"] == 0


def test_many_long_bad_rows_fit_into_memory() -> None:
    def lines() -> Iterator[tuple[int, str]]:
        for number in range(3_000):
            yield number, "\x01" * 8192 + str(number)

    tracemalloc.start()
    count = 0
    for chunk in split_chunks(S3Object("k", "e", 1), lines(), 20_000):
        count += chunk.tally.read
        assert sum(map(len, chunk.letters)) < 2 * LETTER_BYTES
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 3_000
    assert peak < 64 << 20
