"""What a connection becomes; a bucket behind it is tested on real servers in tests/integration/test_user_bucket.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto import mock_aws

from kintsugi.core import connections, user_bucket
from kintsugi.core.data_source import DataSource, own_source
from kintsugi.core.errors import KintsugiError
from kintsugi.core.file_names import ObjectKind
from kintsugi.core.user_bucket import combined, user_source

GOOD: dict[str, Any] = {"conn_type": "aws", "extra": {"service_config": {"s3": {"bucket_name": "acme"}}}}


def client(url: str = "http://127.0.0.1:1") -> Any:
    return boto3.client(
        "s3", endpoint_url=url, region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="x"
    )


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The client that Airflow's hook would make."""
    own = client()
    monkeypatch.setattr(user_bucket, "s3_client", lambda _: own)
    return own


def fields(**values: Any) -> dict[str, Any]:
    return {
        "conn_type": "aws",
        "extra": json.dumps({"service_config": {"s3": {"bucket_name": "acme", **values}}}),
    }


def test_bucket_and_prefix_come_from_the_connection(made: Any) -> None:
    source = user_source(GOOD)
    assert (source.bucket, source.name, source.uri("k")) == ("acme", "acme", "s3://acme/k")
    assert dict(source.prefixes) == {ObjectKind.TRADES: "", ObjectKind.EOD: ""}
    assert set(user_source(fields(prefix="vendor/")).prefixes.values()) == {"vendor/"}


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ({"conn_type": "aws"}, "bucket_name"), (fields(bucket_name="s3://acme/x"), "bucket_name"),
        (fields(bucket_name=7), "bucket_name"), (fields(prefix="/vendor"), "prefix"), (fields(prefix=7), "prefix"),
        ({"extra": {"service_config": {"s3": "acme"}}}, "JSON object"), ({"extra": "{s3cret"}, "JSON object"),
        ({"extra": {"service_config": ["s3"]}}, "JSON object"),
    ],
)  # fmt: skip
def test_a_connection_that_leads_nowhere_is_refused(made: Any, found: dict[str, Any], said: str) -> None:
    with pytest.raises(KintsugiError, match=said) as error:
        user_source(found)
    assert "s3cret" not in str(error.value)


def test_every_read_says_that_the_reader_pays(made: Any) -> None:
    asked: dict[str, dict[str, str]] = {}

    def note(model: Any, params: dict[str, Any], **_: Any) -> tuple[Any, dict[str, Any]]:
        asked[model.name] = {name.lower(): value for name, value in params["headers"].items()}
        answer = type("Answer", (), {"status_code": 200, "headers": {}, "content": b""})()
        return answer, {"ResponseMetadata": {"HTTPStatusCode": 200}}

    source = user_source(
        fields(request_payer="requester", get_object_args={"SSECustomerAlgorithm": "AES256"})
    )
    noting: Any = note
    source.client.meta.events.register("before-call.s3", noting)
    source.client.list_objects_v2(Bucket="acme")
    source.client.get_object(Bucket="acme", Key="k")
    source.client.head_object(Bucket="acme", Key="k")
    assert {name: headers["x-amz-request-payer"] for name, headers in asked.items()} == dict.fromkeys(
        ("ListObjectsV2", "GetObject", "HeadObject"), "requester"
    )
    algorithm = "x-amz-server-side-encryption-customer-algorithm"
    assert [name for name, headers in asked.items() if algorithm in headers] == ["GetObject", "HeadObject"]


def test_the_same_bucket_is_one_source() -> None:
    own = own_source(client(), "kintsugi")

    def seen(prefix: str, url: str = "http://127.0.0.1:1", bucket: str = "kintsugi") -> list[tuple[str, str]]:
        user = DataSource(client(url), bucket, dict.fromkeys(own.prefixes, prefix), bucket)
        return [(source.name, source.prefixes[ObjectKind.TRADES]) for source in combined(own, user)]

    assert seen("", bucket="acme") == [("", "trades/"), ("acme", "")]
    assert seen("", "http://127.0.0.1:2") == [("", "trades/"), ("kintsugi", "")]
    assert seen("") == seen("vendor/") == [("", "")]
    assert seen("trades/2024/") == [("", "trades/")]


def test_the_connection_is_that_of_the_environment_else_that_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "c.json"
    path.write_text(json.dumps({"kintsugi_data": GOOD}))
    path.chmod(0o600)
    monkeypatch.delenv("AIRFLOW_CONN_KINTSUGI_DATA", raising=False)
    monkeypatch.setenv("KINTSUGI_CONNECTIONS", str(tmp_path / "none.json"))
    assert connections.data_connection() is None
    monkeypatch.setenv("KINTSUGI_CONNECTIONS", str(path))
    assert connections.data_connection() == GOOD
    monkeypatch.setenv("AIRFLOW_CONN_KINTSUGI_DATA", json.dumps(fields()))
    assert connections.data_connection() == fields()


@mock_aws
def test_a_key_of_kms_needs_no_field() -> None:
    s3 = boto3.client("s3", region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="x")
    s3.create_bucket(Bucket="acme")
    put = s3.put_object(Bucket="acme", Key="k", Body=b"x", ServerSideEncryption="aws:kms", SSEKMSKeyId="key")
    assert put["ServerSideEncryption"] == "aws:kms"
    assert s3.get_object(Bucket="acme", Key="k", IfMatch=put["ETag"])["Body"].read() == b"x"
