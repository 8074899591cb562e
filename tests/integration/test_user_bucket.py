"""The user's bucket, read with the permission that docs/your-bucket.md gives and no other.

The bucket is on moto's server, which enforces IAM, and on the S3 server of the environment `local`. What the ingest
writes goes into the installation's own bucket.
"""

from __future__ import annotations

import json
import re
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from botocore.exceptions import ClientError
from moto.server import ThreadedMotoServer

from kintsugi.core.data_source import DataSource, own_source
from kintsugi.core.errors import KintsugiError
from kintsugi.core.fleet import REPOSITORY
from kintsugi.core.settings import BUCKET
from kintsugi.core.user_bucket import combine_sources, user_source
from kintsugi.db.ledger_entry import FileState
from kintsugi.pipeline.object_listing import PendingFileScanner, list_trade_files
from kintsugi.pipeline.stream.baselines import find_source, manifest_key, pending_uris
from tests.integration.pipeline import s3_client
from tests.integration.test_intake import Place, body, lines, place, started

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

__all__ = ["lines", "place", "started"]
ADDRESS = "127.31.97.1"
THEIRS, PREFIX = "acme-market-data", "vendor/cboe/"
TRADES = f"{PREFIX}order_1/UnderlyingOptionsTradesCalcs_2024-10-08.csv"
EOD = f"{PREFIX}UnderlyingOptionsEODCalcs_2024-10-07.csv"


@dataclass
class Account:
    """An AWS account: its endpoint, and the connection of a user who may only read."""

    url: str
    connection: dict[str, Any]
    by_role: dict[str, Any]
    admin: S3Client


def connection(url: str, login: str, password: str, **extra: Any) -> dict[str, Any]:
    fields = {"bucket_name": THEIRS, "prefix": PREFIX, **extra.pop("fields", {})}
    return {
        "conn_type": "aws", "login": login, "password": password,
        "extra": {
            "region_name": "us-east-1", "endpoint_url": url, "config_kwargs": {"s3": {"addressing_style": "path"}},
            **extra, "service_config": {"s3": fields, "sts": {"endpoint_url": url}},
        },
    }  # fmt: skip


def documented_policies() -> list[str]:
    """The JSON of docs/your-bucket.md that are policies: the reader's permission, then the role's trust."""
    text = (REPOSITORY / "docs" / "your-bucket.md").read_text()
    return [found for found in re.findall(r"```json\n(.*?)```", text, re.DOTALL) if '"Version"' in found]


def enforce(url: str, enforced: bool) -> None:
    """Let moto check permissions from the next request on, or none for a long time."""
    body = b"0" if enforced else b"100000"
    request = urllib.request.Request(
        f"{url}/moto-api/reset-auth", data=body, method="POST", headers={"Content-Type": "text/plain"}
    )
    urllib.request.urlopen(request, timeout=10).read()


@pytest.fixture(scope="module")
def aws() -> Iterator[Account]:
    server = ThreadedMotoServer(ip_address=ADDRESS, port=0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    url = f"http://{ADDRESS}:{port}"
    enforce(url, False)
    any_key = {"aws_access_key_id": "x", "aws_secret_access_key": "x", "region_name": "us-east-1"}
    iam: Any = boto3.client("iam", endpoint_url=url, **any_key)  # type: ignore[call-overload]
    iam.create_user(UserName="kintsugi")
    permission, trust = documented_policies()
    iam.put_user_policy(UserName="kintsugi", PolicyName="read", PolicyDocument=permission)
    iam.create_role(RoleName="reader", AssumeRolePolicyDocument=trust)
    iam.put_role_policy(RoleName="reader", PolicyName="read", PolicyDocument=permission)
    iam.create_user(UserName="machine")
    assume = {"Effect": "Allow", "Action": "sts:AssumeRole", "Resource": "*"}
    iam.put_user_policy(
        UserName="machine", PolicyName="assume",
        PolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [assume]}),
    )  # fmt: skip
    key = iam.create_access_key(UserName="kintsugi")["AccessKey"]
    machine = iam.create_access_key(UserName="machine")["AccessKey"]
    admin = s3_client(url)
    admin.create_bucket(Bucket=THEIRS)
    reader = connection(url, key["AccessKeyId"], key["SecretAccessKey"])
    by_role = connection(
        url, machine["AccessKeyId"], machine["SecretAccessKey"],
        role_arn="arn:aws:iam::123456789012:role/reader", assume_role_kwargs={"ExternalId": "kintsugi"},
    )  # fmt: skip
    try:
        yield Account(url, reader, by_role, admin)
    finally:
        server.stop()


@pytest.fixture(params=["keys", "role", "local S3"])
def theirs(request: pytest.FixtureRequest, aws: Account, started: Any, place: Place) -> Iterator[DataSource]:
    """The user's bucket with nothing in it yet, seen through the connection; on AWS permissions are enforced."""
    url = aws.url if request.param != "local S3" else started[0].extra["url"]
    admin = s3_client(url)
    if request.param == "local S3":
        found = connection(url, "kintsugi", "kintsugi-test")
        if THEIRS not in [bucket["Name"] for bucket in admin.list_buckets()["Buckets"]]:
            admin.create_bucket(Bucket=THEIRS)
    else:
        found = aws.by_role if request.param == "role" else aws.connection
        enforce(url, False)
    for item in admin.list_objects_v2(Bucket=THEIRS).get("Contents", []):
        admin.delete_object(Bucket=THEIRS, Key=item["Key"])
    request.node.admin = admin
    monkeypatch = request.getfixturevalue("monkeypatch")
    monkeypatch.setenv("AIRFLOW_CONN_KINTSUGI_DATA", json.dumps(found))
    yield user_source(found)
    if request.param != "local S3":
        enforce(url, False)


def test_files_come_in_from_a_bucket_that_may_only_be_read(
    theirs: DataSource, place: Place, lines: list[bytes], request: pytest.FixtureRequest
) -> None:
    admin = request.node.admin
    admin.put_object(Bucket=THEIRS, Key=TRADES, Body=body([*lines[:40], b"no trade"]))
    admin.put_object(Bucket=THEIRS, Key=EOD, Body=b"underlying_symbol\n")
    admin.put_object(
        Bucket=THEIRS, Key="elsewhere/UnderlyingOptionsTradesCalcs_2024-10-09.csv", Body=body(lines[40:60])
    )
    place.put("trades/UnderlyingOptionsTradesCalcs_2024-10-07.csv", body(lines[60:70]))
    if "local" not in request.node.name:
        enforce(theirs.client.meta.endpoint_url, True)
        with pytest.raises(ClientError, match="AccessDenied"):
            theirs.client.put_object(Bucket=THEIRS, Key=f"{PREFIX}x", Body=b"x")
        with pytest.raises(ClientError, match="AccessDenied"):
            theirs.client.delete_object(Bucket=THEIRS, Key=TRADES)
    sources = combine_sources(own_source(place.s3), theirs)
    assert [source.bucket for source in sources] == [BUCKET, THEIRS]

    from kintsugi.pipeline.ingest.file_manifest import check_manifest
    from kintsugi.pipeline.ingest.ingest_run import ingest_pending

    reports = {report.key: report for report in ingest_pending(place.s3, place.ledger, [], sources=sources)}
    assert {key: report.tally.accepted for key, report in reports.items()} == {
        TRADES: 40, "trades/UnderlyingOptionsTradesCalcs_2024-10-07.csv": 10,
    }  # fmt: skip
    assert place.ledger.by_key({TRADES})[THEIRS, TRADES][0].state is FileState.DONE
    check_manifest(place.s3, reports[TRADES].to_dict())
    assert [key for (_, key) in place.ledger.by_key()] == sorted(reports), "nothing outside of the prefix"
    (uri,) = pending_uris(place.s3, sources)
    source, key = find_source(sources, uri)
    found = source.client.get_object(Bucket=source.bucket, Key=key)
    assert (uri, key) == (f"s3://{THEIRS}/{EOD}", EOD)
    place.put(manifest_key(key, found["ETag"]), b"{}")
    assert pending_uris(place.s3, sources) == []


def test_a_bucket_that_is_the_installations_own_is_read_once(
    started: Any, place: Place, lines: list[bytes]
) -> None:
    place.put("trades/UnderlyingOptionsTradesCalcs_2024-10-07.csv", body(lines[:10]))
    found = connection(
        started[0].extra["url"], "kintsugi", "kintsugi-test", fields={"bucket_name": BUCKET, "prefix": ""}
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIRFLOW_CONN_KINTSUGI_DATA", json.dumps(found))
        sources = combine_sources(own_source(place.s3), user_source(found))
    assert [item.bucket for item in list_trade_files(sources)] == [""]


def test_a_connection_that_airflow_cannot_read_is_refused(
    aws: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Airflow's hook would go on with the identity of the machine, and the reader would look for its keys elsewhere."""
    misspelt = {**aws.connection, "pasword": "x"}
    monkeypatch.setenv("AIRFLOW_CONN_KINTSUGI_DATA", json.dumps(misspelt))
    with pytest.raises(KintsugiError, match="misspelt"):
        user_source(misspelt)


def test_a_bucket_that_cannot_be_listed_keeps_nothing_of_the_own_one_out(
    started: Any, place: Place, lines: list[bytes]
) -> None:
    place.put("trades/UnderlyingOptionsTradesCalcs_2024-10-07.csv", body(lines[:10]))
    own = own_source(place.s3)
    gone = DataSource(place.s3, "no-such-bucket", dict.fromkeys(own.prefixes, ""), "no-such-bucket")
    assert [item.bucket for item in PendingFileScanner((own, gone), place.ledger).scan()] == [""]
    with pytest.raises(ClientError):
        PendingFileScanner((DataSource(place.s3, "no-such-bucket"), gone), place.ledger).scan()
