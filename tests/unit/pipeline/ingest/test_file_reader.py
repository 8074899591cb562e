from __future__ import annotations

import gzip
import io
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import boto3
import pytest
from moto import mock_aws

from kintsugi.core.errors import InputError
from kintsugi.pipeline.ingest import byte_sources, decompression
from kintsugi.pipeline.ingest.file_reader import MAX_LINE, BadLine, raw_bytes, read_lines
from kintsugi.pipeline.row_parser import HEAD_COLUMNS, Reason, Rejection, parse_message
from tests.unit.pipeline.test_row_parser import changed

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


def jumbled(*bodies: bytes) -> bytes:
    """A zip whose members have no last line end and each its own header."""
    return zipped(*(b"\r\n".join([HEADER, *body.split(b"\n")]) for body in bodies))


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
    monkeypatch.setattr(byte_sources, "CHUNK", 7)
    assert read(s3, BODY[:3000] + b"\n") == read(s3, BODY[:3000])
    assert read(s3, gzip.compress(BODY)) == EXPECTED


def test_a_file_without_a_header_is_taken(s3: S3Client) -> None:
    assert read(s3, ROWS[0] + b"\n") == [(1, ROWS[0].decode())]


def test_a_line_in_a_wrong_encoding_is_rejected_and_the_rest_goes_in(s3: S3Client) -> None:
    found = read(s3, b"\n".join([HEADER, ROWS[0], b"\xe9" + ROWS[1], ROWS[2]]))
    assert [number for number, _ in found] == [2, 3, 4]
    assert isinstance(found[1][1], str)
    bad = parse_message(found[1][1])
    assert isinstance(bad, Rejection)
    assert bad.reason is Reason.ENCODING
    assert raw_bytes(found[1][1]) == b"\xe9" + ROWS[1]
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
    assert (found[0][0], bad.rejection.reason, len(bad.raw)) == (2, Reason.TOO_LONG, MAX_LINE)
    assert found[1] == (3, ROWS[0].decode())


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", "empty"),
        (b"\x00\x01\x02\xff\xfe", "UnderlyingOptionsTradesCalcs_"),
        (b"hello,world\n1,2\n", "'hello,world'"),
        (HEADER.replace(b"root", b"stem") + b"\n", "column 3 .* root"),
        (b"\x1f\x8bnot gzip at all", "gzip .* corrupt"),
        (b"PK\x03\x04no archive", "corrupt zip"),
    ],
)
def test_an_unusable_file_is_one_error_with_its_name(s3: S3Client, body: bytes, text: str) -> None:
    with pytest.raises(InputError, match=text) as error:
        read(s3, body)
    assert "trades/f.csv" in str(error.value)


def test_every_member_of_a_zip_may_have_its_own_header_and_no_last_line_end(s3: S3Client) -> None:
    found = read(s3, jumbled(b"\n".join(ROWS[:150]), b"\n".join(ROWS[150:151]), b"\n".join(ROWS[151:])))
    assert [line for _, line in found] == [row.decode() for row in ROWS]
    assert (found[149][0], found[150][0], found[151][0]) == (151, 153, 155)


def test_files_joined_as_gzip_members_are_one_file(s3: S3Client) -> None:
    one, two = b"\n".join([HEADER, *ROWS[:9], b""]), b"\n".join([HEADER, *ROWS[9:], b""])
    assert [line for _, line in read(s3, gzip.compress(one) + gzip.compress(two))] == [
        r.decode() for r in ROWS
    ]


def test_a_later_header_with_other_columns_ends_the_file_there(s3: S3Client) -> None:
    other = HEADER.replace(b"trade_size", b"quantity")
    *good, (number, bad) = read(s3, b"\n".join([HEADER, ROWS[0], other, ROWS[1]]))
    assert good == EXPECTED[:1]
    assert isinstance(bad, BadLine)
    assert (number, bad.rejection.reason, bad.raw) == (3, Reason.HEADER, other)
    assert "trade_size" in bad.rejection.text


def test_an_unknown_column_is_left_out_of_every_line_and_told(s3: S3Client) -> None:
    def wider(cells: bytes, more: bytes) -> bytes:
        head, tail = cells.split(b",")[:4], cells.split(b",")[4:]
        return b",".join([*head, more, *tail])

    body = b"\n".join([wider(HEADER, b"venue"), *(wider(row, b'"a,b"') for row in ROWS)])
    etag = s3.put_object(Bucket="bucket", Key="k", Body=body)["ETag"]
    told: list[str] = []
    assert list(read_lines(s3, "bucket", "k", etag, told.append)) == EXPECTED
    assert len(told) == 1
    assert "venue" in told[0]


@pytest.mark.parametrize("fill", [b"\0", b"\n", b"1,"])
@pytest.mark.parametrize("pack", [gzip.compress, zipped])
def test_a_bomb_is_cut_off_in_bounded_memory(
    s3: S3Client, monkeypatch: pytest.MonkeyPatch, fill: bytes, pack: Callable[[bytes], bytes]
) -> None:
    monkeypatch.setattr(decompression, "MAX_EXPANSION_FREE", 1 << 20)
    monkeypatch.setattr(decompression, "MAX_EXPANSION", 20)  # of millions of lines the test need not see all
    bomb = pack(b"\n".join([HEADER, ROWS[0], fill * ((64 << 20) // len(fill))]))
    tracemalloc.start()
    found = read(s3, bomb)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found[0] == EXPECTED[0]
    bad = found[-1][1]
    assert isinstance(bad, BadLine)
    assert bad.rejection.reason is Reason.EXPANSION
    assert peak < 64 << 20  # most of it is a list of a piece's million empty lines


def test_an_archive_of_thousands_of_files_is_refused(s3: S3Client) -> None:
    with pytest.raises(InputError, match="1001 files"):
        read(s3, zipped(*([b"x"] * 1001)))


def test_an_object_that_changed_is_not_read_as_the_old_one(s3: S3Client) -> None:
    old = s3.put_object(Bucket="bucket", Key="k", Body=BODY)["ETag"]
    s3.put_object(Bucket="bucket", Key="k", Body=BODY + ROWS[0])
    with pytest.raises(InputError, match=r"^k\b"):
        list(read_lines(s3, "bucket", "k", old))
