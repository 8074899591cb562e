from __future__ import annotations

import gzip
import io
import zipfile
from collections.abc import Iterator
from typing import TYPE_CHECKING

import boto3
import pytest
from moto import mock_aws

from kintsugi.errors import InputError
from kintsugi.trades import files
from kintsugi.trades.files import BadLine, read_lines
from kintsugi.trades.rows import HEAD_COLUMNS, Reason
from tests.unit.trades.test_rows import changed

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

HEADER = ",".join(HEAD_COLUMNS).encode()
ROWS = [changed(2, str(number)).encode() for number in range(1, 401)]
BODY = b"\n".join([HEADER, *ROWS, b""])


@pytest.fixture
def s3() -> Iterator[S3Client]:
    with mock_aws():
        client = boto3.client("s3", region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="x")
        client.create_bucket(Bucket="bucket")
        yield client


def read(s3: S3Client, body: bytes, key: str = "trades/f.csv") -> list[tuple[int, str | BadLine]]:
    etag = s3.put_object(Bucket="bucket", Key=key, Body=body)["ETag"]
    return list(read_lines(s3, "bucket", key, etag))


def zipped(*bodies: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for number, body in enumerate(bodies):
            archive.writestr(f"part{number}.csv", body)
    return out.getvalue()


EXPECTED = [(number, row.decode()) for number, row in enumerate(ROWS, 2)]


@pytest.mark.parametrize(
    "body",
    [
        BODY, BODY.removesuffix(b"\n"), BODY.replace(b"\n", b"\r\n"), b"\xef\xbb\xbf" + BODY,
        gzip.compress(BODY),
        gzip.compress(BODY[:5000]) + gzip.compress(BODY[5000:]), zipped(BODY),
    ],
    ids=["plain", "no-last-newline", "crlf", "bom", "gzip", "gzip-members", "zip"],
)  # fmt: skip
def test_every_form_gives_the_same_numbered_lines(s3: S3Client, body: bytes) -> None:
    assert read(s3, body) == EXPECTED


def test_small_chunks_give_the_same_lines(s3: S3Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "CHUNK", 7)
    assert read(s3, BODY[:3000] + b"\n") == read(s3, BODY[:3000])
    assert read(s3, gzip.compress(BODY)) == EXPECTED


def test_a_file_without_a_header_is_taken(s3: S3Client) -> None:
    assert read(s3, ROWS[0] + b"\n") == [(1, ROWS[0].decode())]


def test_a_line_in_a_wrong_encoding_is_rejected_and_the_rest_goes_in(s3: S3Client) -> None:
    found = read(s3, b"\n".join([HEADER, ROWS[0], b"\xe9" + ROWS[1], ROWS[2]]))
    assert [number for number, _ in found] == [2, 3, 4]
    bad = found[1][1]
    assert isinstance(bad, BadLine)
    assert bad.rejection.reason is Reason.ENCODING
    assert bad.raw.startswith(b"\xe9")
    assert found[2][1] == ROWS[2].decode()


def test_a_truncated_gzip_keeps_what_came_before_and_says_where_it_ends(s3: S3Client) -> None:
    found = read(s3, gzip.compress(BODY, 0)[:-1500])
    *good, (number, bad) = found
    assert len(good) > 10
    assert good == EXPECTED[: len(good)]
    assert isinstance(bad, BadLine)
    assert (number, bad.rejection.reason) == (good[-1][0] + 1, Reason.TRUNCATED)


def test_a_corrupt_gzip_ends_with_a_corrupt_line(s3: S3Client) -> None:
    body = bytearray(gzip.compress(BODY, 0))
    body[-8] ^= 0xFF  # the checksum
    *good, (number, bad) = read(s3, bytes(body))
    assert good == EXPECTED
    assert isinstance(bad, BadLine)
    assert (number, bad.rejection.reason) == (402, Reason.CORRUPT)


def test_an_endless_line_is_rejected_in_bounded_memory(s3: S3Client) -> None:
    found = read(s3, b"\n".join([HEADER, b"x" * 3_000_000, ROWS[0]]))
    bad = found[0][1]
    assert isinstance(bad, BadLine)
    assert (found[0][0], bad.rejection.reason, len(bad.raw)) == (2, Reason.TOO_LONG, 1024)
    assert found[1] == (3, ROWS[0].decode())


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", "is empty"),
        (b"\x00\x01\x02\xff\xfe", "can't be read"),
        (b"hello,world\n1,2\n", "neither a header nor a trade"),
        (HEADER.replace(b"root", b"stem") + b"\n", "column 3 must be root"),
        (b"\x1f\x8bnot gzip at all", "corrupt"),
        (b"PK\x03\x04no archive", "broken zip"),
    ],
)
def test_an_unusable_file_is_one_error_with_its_name(s3: S3Client, body: bytes, text: str) -> None:
    with pytest.raises(InputError, match=text) as error:
        read(s3, body)
    assert "trades/f.csv" in str(error.value)


def test_an_object_that_changed_is_not_read_as_the_old_one(s3: S3Client) -> None:
    old = s3.put_object(Bucket="bucket", Key="k", Body=BODY)["ETag"]
    s3.put_object(Bucket="bucket", Key="k", Body=BODY + ROWS[0])
    with pytest.raises(InputError, match="changed"):
        list(read_lines(s3, "bucket", "k", old))
