from __future__ import annotations

import errno
import lzma
import zipfile
import zlib
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from botocore.exceptions import ClientError, EndpointConnectionError, ResponseStreamingError
from kafka.errors import KafkaTimeoutError

from kintsugi.core.errors import InputError, KintsugiError, NotAcknowledged
from kintsugi.pipeline.failures import format_reason, is_gone, is_s3_error, is_transient, stops_all_files
from kintsugi.pipeline.object_listing import S3Object

DENIED = ClientError({"Error": {"Code": "AccessDenied", "Message": "no"}}, "GetObject")


@pytest.mark.parametrize(
    "error",
    [
        InputError("empty"), zipfile.BadZipFile("x"), lzma.LZMAError("x"), zlib.error("x"), EOFError(),
        OSError("Invalid data stream"), OverflowError("date value out of range"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "x"),
        ValueError("x"), KeyError("x"), NotImplementedError("x"), RuntimeError("x"), RecursionError(),
    ],
    ids=repr,
)  # fmt: skip
def test_whatever_a_content_raises_is_the_files_own_fault(error: Exception) -> None:
    assert not is_transient(error)
    assert not stops_all_files(error)


@pytest.mark.parametrize(
    "error",
    [DENIED, EndpointConnectionError(endpoint_url="x"), ResponseStreamingError(error=OSError()), MemoryError(),
     OSError(errno.ENOSPC, "No space left on device"), ConnectionResetError(errno.ECONNRESET, "reset")],
    ids=repr,
)  # fmt: skip
def test_s3_and_the_machine_are_tried_again_and_hold_up_no_other_file(error: Exception) -> None:
    assert is_transient(error)
    assert not stops_all_files(error)


@pytest.mark.parametrize(
    "error",
    [NotAcknowledged("x"), KintsugiError("no Postgres"), psycopg.OperationalError(), KafkaTimeoutError()],
    ids=repr,
)
def test_without_kafka_or_postgres_nothing_can_be_ingested(error: Exception) -> None:
    assert is_transient(error)
    assert stops_all_files(error)
    assert not is_s3_error(error)


@pytest.mark.parametrize(
    ("code", "vanished"), [("404", True), ("PreconditionFailed", True), ("412", True), ("", False)]
)
def test_an_object_that_is_another_now_has_vanished(code: str, vanished: bool) -> None:
    def head_object(**asked: str) -> dict[str, str]:
        assert asked == {"Bucket": "b", "Key": "k", "IfMatch": '"e"'}
        if code:
            raise ClientError({"Error": {"Code": code, "Message": ""}}, "HeadObject")
        return {}

    s3: Any = SimpleNamespace(head_object=head_object)
    assert is_gone(s3, "b", S3Object("k", '"e"', 1)) is vanished


def test_whether_it_has_vanished_is_not_guessed() -> None:
    def head_object(**_: str) -> None:
        raise DENIED

    with pytest.raises(ClientError):
        is_gone(SimpleNamespace(head_object=head_object), "b", S3Object("k", '"e"', 1))  # type: ignore[arg-type]


def test_a_reason_is_one_line_and_names_the_kind_of_an_unforeseen_error() -> None:
    assert format_reason(InputError("k is empty")) == "k is empty"
    assert format_reason(OverflowError("date\nvalue")) == "OverflowError: date value"
