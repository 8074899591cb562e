"""What a listing of S3 is taken for; the looks themselves are tested on a real S3 API (tests/integration)."""

from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from kintsugi.pipeline.object_listing import NAME, list_own_trade_files

if TYPE_CHECKING:
    import pytest

KEY = f"trades/2024-10-08/{NAME}1.csv"
AT = datetime(2024, 10, 8, tzinfo=UTC)


def store(head: dict[str, str] | None) -> Any:
    """A store that lists an object without its ETag, and says ``head`` of it; None: there is no such object."""

    def head_object(Bucket: str, Key: str) -> dict[str, str]:  # noqa: N803 - boto3's names
        if head is None:
            raise ClientError({"Error": {"Code": "404", "Message": "Not Found"}}, "HeadObject")
        return head

    page = {"Contents": [{"Key": KEY, "Size": 3, "LastModified": AT}]}
    pages = SimpleNamespace(paginate=lambda **_: [page])
    return SimpleNamespace(get_paginator=lambda _: pages, head_object=head_object)


def test_an_object_that_is_listed_without_its_etag_is_asked_for_by_itself() -> None:
    """Seen while the file was being put; the look, and whoever waited for it, ended with a KeyError."""
    (found,) = list_own_trade_files(store({"ETag": '"a1"'}))
    assert (found.key, found.etag, found.size) == (KEY, '"a1"', 3)
    assert list_own_trade_files(store(None)) == []


def test_an_object_without_an_etag_is_named_and_keeps_nobody_from_looking(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert list_own_trade_files(store({})) == []
    assert KEY in caplog.text
