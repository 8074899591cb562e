"""The real S3 server: each key may do what its purpose needs, and nothing else."""

from __future__ import annotations

import http.client
import io
import shutil
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import product
from types import SimpleNamespace
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from kintsugi.controlplane.s3proxy import ObjectStore, drop_replaced_keys, renew_keys
from kintsugi.core.connections import data_sources, s3_client
from kintsugi.core.processes import wait_until
from kintsugi.core.s3_keys import S3Purpose, current_key, new_secret, replaced_secret, secret_name
from kintsugi.core.settings import BUCKET, Settings
from kintsugi.operations.spool import deliver_to_s3, spool_directory
from kintsugi.pipeline.ingest.redrive import delete_manifests
from kintsugi.pipeline.object_listing import list_trade_files
from kintsugi.pipeline.stream.baselines import manifest_key, pending_uris
from kintsugi.pipeline.synthetic_trade import send_synthetic_trade
from kintsugi.recovery.report import delete_expired_records
from kintsugi.web.archive import read_archive
from tests.installations import installation, open_directory

# Written out, not taken from the product: a right more is a line more here.
NEEDS = {
    S3Purpose.INGEST: {
        "read": {"trades/", "trades/canary/", "eod/", "manifests/", "manifests/eod/", "identities/"},
        "write": {"manifests/", "manifests/eod/", "identities/", "dead-letter/"},
        "delete": {"manifests/eod/"},
    },
    S3Purpose.MONITOR: {
        "read": {
            *("trades/", "trades/canary/", "eod/", "manifests/", "manifests/eod/", "identities/"),
            "dead-letter/",
        }
    },
    S3Purpose.DELIVERY: {
        "read": {"trades/", "trades/canary/", "eod/", "manifests/", "manifests/eod/"},
        "write": {"trades/", "trades/canary/", "eod/"},
        "delete": {"trades/", "trades/canary/", "eod/"},
    },
    S3Purpose.SYNTHETIC: {"write": {"trades/canary/"}},
    S3Purpose.RELEASES: {"read": {"releases/", "deployments/"}, "write": {"releases/", "deployments/"}},
    S3Purpose.INCIDENTS: {"read": {"incidents/"}, "write": {"incidents/"}},
    S3Purpose.PAGE: {"read": {"incidents/"}},
    S3Purpose.EXPIRY: {"read": {"incidents/"}, "delete": {"incidents/"}},
    S3Purpose.BACKUP: {"read": {"backups/"}, "write": {"backups/"}, "delete": {"backups/"}},
}
PREFIXES = (
    *("trades/", "trades/canary/", "eod/", "manifests/", "manifests/eod/", "identities/", "dead-letter/"),
    *("releases/", "deployments/", "incidents/", "backups/", "elsewhere/", ""),
)


@pytest.fixture(scope="module")
def settings() -> Iterator[Settings]:
    with open_directory() as directory:
        made = installation(directory, "127.47")
        made.make_state()
        made.control.mkdir(mode=0o711)
        server = ObjectStore.of(made)
        server.prepare()
        with (directory / "s3.log").open("wb") as log:
            process = subprocess.Popen(server.program().command, cwd="/", stdout=log, stderr=log)
            try:
                client = server.client(S3Purpose.PAGE)
                assert wait_until(lambda: server.answers(client), 120), (directory / "s3.log").read_text()
                yield made
            finally:
                process.terminate()
                process.wait(30)


@pytest.fixture(autouse=True)
def objects(settings: Settings) -> Iterator[None]:
    """An object below each prefix, put there by the disk."""
    bucket = ObjectStore.of(settings).bucket
    for prefix in PREFIXES:
        (bucket / prefix).mkdir(parents=True, exist_ok=True)
        (bucket / prefix / "object").write_bytes(b"what only its readers see")
    yield
    for path in bucket.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def refusal(call: Callable[..., Any], **arguments: Any) -> int:
    """The status with which S3 refuses the call; 0 if it obeys."""
    try:
        call(**arguments)
    except ClientError as error:
        return int(error.response["ResponseMetadata"]["HTTPStatusCode"])
    return 0


def attempts(client: Any, prefix: str) -> dict[str, set[int]]:
    """What S3 says to each kind of request below the prefix."""
    place = {"Bucket": BUCKET, "Key": f"{prefix}object"}
    return {
        "read": {
            refusal(client.get_object, **place),
            refusal(client.head_object, **place),
            refusal(client.list_objects_v2, Bucket=BUCKET, Prefix=prefix),
            refusal(client.list_objects, Bucket=BUCKET, Prefix=prefix),
        },
        "write": {refusal(client.put_object, **place, Body=b"written")},
        "delete": {refusal(client.delete_object, **place)},
    }


@pytest.mark.parametrize("purpose", S3Purpose)
def test_each_key_may_do_what_its_purpose_needs_and_no_more(settings: Settings, purpose: S3Purpose) -> None:
    client = s3_client(settings, purpose)
    seen = {prefix: attempts(client, prefix) for prefix in PREFIXES}
    expected = {
        prefix: {
            action: {0} if prefix in NEEDS[purpose].get(action, ()) else {403}
            for action in ("read", "write", "delete")
        }
        for prefix in PREFIXES
    }
    assert seen == expected


@pytest.mark.parametrize("purpose", S3Purpose)
def test_no_key_rules_over_buckets_or_the_access_of_others(settings: Settings, purpose: S3Purpose) -> None:
    client = s3_client(settings, purpose)
    (ObjectStore.of(settings).bucket.parent / "other").mkdir(exist_ok=True)
    place = {"Bucket": BUCKET, "Key": "incidents/object"}
    assert [
        refusal(client.list_buckets),
        refusal(client.create_bucket, Bucket="another"),
        refusal(client.delete_bucket, Bucket=BUCKET),
        refusal(client.head_bucket, Bucket="other"),
        refusal(client.list_objects_v2, Bucket="other", Prefix="trades/"),
        refusal(client.get_bucket_acl, Bucket=BUCKET),
        refusal(client.put_bucket_acl, Bucket=BUCKET, ACL="public-read"),
        refusal(client.put_object_acl, **place, ACL="public-read"),
        refusal(client.list_multipart_uploads, Bucket=BUCKET),
    ] == [403] * 9


def test_a_copy_needs_to_read_the_one_and_to_write_the_other(settings: Settings) -> None:
    def copy(purpose: S3Purpose, source: str, target: str) -> int:
        return refusal(
            s3_client(settings, purpose).copy_object,
            Bucket=BUCKET,
            Key=f"{target}copy",
            CopySource={"Bucket": BUCKET, "Key": f"{source}object"},
        )

    assert copy(S3Purpose.DELIVERY, "trades/", "eod/") == 0
    assert copy(S3Purpose.DELIVERY, "manifests/", "eod/") == 0
    assert copy(S3Purpose.DELIVERY, "incidents/", "eod/") == 403
    assert copy(S3Purpose.DELIVERY, "trades/", "manifests/") == 403
    assert copy(S3Purpose.PAGE, "incidents/", "incidents/") == 403


def test_of_many_objects_none_is_deleted_if_one_may_not_be(settings: Settings) -> None:
    client = s3_client(settings, S3Purpose.EXPIRY)
    names = [{"Key": key} for key in ("incidents/object", "releases/object")]
    assert refusal(client.delete_objects, Bucket=BUCKET, Delete={"Objects": names}) == 403
    assert (ObjectStore.of(settings).bucket / "incidents/object").exists()
    assert refusal(client.delete_objects, Bucket=BUCKET, Delete={"Objects": names[:1]}) == 0
    assert not (ObjectStore.of(settings).bucket / "incidents/object").exists()


def test_a_large_object_is_written_in_parts_where_it_may_be_written(settings: Settings) -> None:
    client = s3_client(settings, S3Purpose.DELIVERY)
    upload = client.create_multipart_upload(Bucket=BUCKET, Key="trades/large")["UploadId"]
    place = {"Bucket": BUCKET, "Key": "trades/large", "UploadId": upload}
    part = client.upload_part(**place, PartNumber=1, Body=b"x" * 1000)
    other = s3_client(settings, S3Purpose.INGEST)
    assert refusal(other.upload_part, **place, PartNumber=2, Body=b"y") == 403
    stolen = {"Bucket": BUCKET, "Key": "incidents/object"}
    assert refusal(client.upload_part_copy, **place, PartNumber=2, CopySource=stolen) in (403, 501)
    parts = {"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}
    assert refusal(other.complete_multipart_upload, **place, MultipartUpload=parts) == 403
    client.complete_multipart_upload(**place, MultipartUpload=parts)
    assert client.get_object(Bucket=BUCKET, Key="trades/large")["Body"].read() == b"x" * 1000
    assert refusal(client.create_multipart_upload, Bucket=BUCKET, Key="incidents/large") == 403
    large = io.BytesIO(b"x" * (9 * 1024 * 1024))
    other.upload_fileobj(large, BUCKET, "dead-letter/large")  # in parts, and where this key can't read
    again = client.create_multipart_upload(Bucket=BUCKET, Key="trades/large")["UploadId"]
    assert refusal(other.abort_multipart_upload, **(place | {"UploadId": again})) == 403


def test_no_client_names_what_s3proxy_notes_of_an_upload(settings: Settings) -> None:
    owner = s3_client(settings, S3Purpose.DELIVERY)
    note = f".s3proxy-mpu-stub-{owner.create_multipart_upload(Bucket=BUCKET, Key='trades/large')['UploadId']}"
    assert (ObjectStore.of(settings).bucket / note).exists(), "it has another name in this S3Proxy"
    client, place = s3_client(settings, S3Purpose.INCIDENTS), {"Bucket": BUCKET, "Key": note}
    named = {"Bucket": BUCKET, "Key": "incidents/copy", "CopySource": {"Bucket": BUCKET, "Key": note}}
    many = {"Bucket": BUCKET, "Delete": {"Objects": [{"Key": note}]}}
    assert {
        refusal(client.get_object, **place),
        refusal(client.head_object, **place),
        refusal(client.put_object, **place, Body=b""),
        refusal(client.delete_object, **place),
        refusal(client.copy_object, **named),
        refusal(client.list_objects_v2, Bucket=BUCKET, Prefix=".s3proxy-mpu-stub-"),
    } <= {400, 403}
    part = s3_client(settings, S3Purpose.DELIVERY)
    part.upload_part(Bucket=BUCKET, Key="trades/large", UploadId=note[18:], PartNumber=1, Body=b"x")
    [key] = [path.name for path in ObjectStore.of(settings).bucket.glob(".mpus-*/")]
    assert refusal(client.get_object, Bucket=BUCKET, Key=f"{key}/large-1") == 403
    refusal(client.delete_objects, **many)  # S3 answers 200, and says for each object what it did
    assert (ObjectStore.of(settings).bucket / note).exists()


def test_a_conditional_write_is_one_as_without_rights(settings: Settings) -> None:
    """S3Proxy looks at what kind of store it has; ours must look like that of the disk."""
    client, place = s3_client(settings, S3Purpose.INCIDENTS), {"Bucket": BUCKET, "Key": "incidents/once"}
    assert refusal(client.put_object, **place, Body=b"1", IfNoneMatch="*") == 0
    assert refusal(client.put_object, **place, Body=b"2", IfNoneMatch="*") == 412


@pytest.mark.parametrize(
    "key",
    [
        "incidents/../releases/object", "incidents/./../releases/object", "incidents//../../releases/object",
        "incidents/%2e%2e/releases/object", "incidents/..%2Freleases/object",
    ],
)  # fmt: skip
def test_no_way_round_leads_to_another_prefix(settings: Settings, key: str) -> None:
    signer = s3_client(settings, S3Purpose.INCIDENTS)
    server = ObjectStore.of(settings)
    before = (server.bucket / "releases/object").read_bytes()
    for method, body in (("get_object", None), ("put_object", b"altered")):
        url = signer.generate_presigned_url(method, Params={"Bucket": BUCKET, "Key": key})
        path = url.removeprefix(server.endpoint)
        # As the client writes it, and as somebody writes it who wants the server to decode it once more.
        for variant in (path, path.replace("%2E", ".").replace("%25", "%")):
            connection = http.client.HTTPConnection(server.address, server.port, timeout=10)
            connection.request("GET" if body is None else "PUT", variant, body=body)
            answer = connection.getresponse()
            assert before not in answer.read()
            # A percent sign is a letter of a key; only what the disk would follow is refused.
            assert answer.status in (400, 403, *((200, 404) if "%" in key else ())), (variant, answer.status)
            connection.close()
    assert (server.bucket / "releases/object").read_bytes() == before


def test_only_who_knows_a_secret_is_let_in(settings: Settings) -> None:
    server, page = ObjectStore.of(settings), current_key(settings, S3Purpose.PAGE)
    ingest = current_key(settings, S3Purpose.INGEST)
    for access_key, secret in (
        ("kintsugi", "x"),  # the one key of version 0.1
        ("nobody", "nobody"),  # what S3Proxy's own configuration has
        (page.access_key, ingest.secret),
        ("", page.secret),
        ("page", page.secret),
    ):
        client = boto3.client(
            "s3", endpoint_url=server.endpoint, region_name="us-east-1",
            aws_access_key_id=access_key, aws_secret_access_key=secret,
            config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}),
        )  # fmt: skip
        status = refusal(client.get_object, Bucket=BUCKET, Key="incidents/object")
        assert status in (400, 403), (access_key, status)
    for method, path in product(
        ("GET", "PUT", "POST", "DELETE", "HEAD"), ("/", f"/{BUCKET}/incidents/object")
    ):
        connection = http.client.HTTPConnection(server.address, server.port, timeout=10)
        connection.request(method, path, body=b"")
        answer = connection.getresponse()
        assert answer.status in (400, 403, 501), (method, path)
        assert b"readers" not in answer.read()
        connection.close()


def test_a_rotation_locks_nobody_out_and_ends_with_the_old_keys_refused(settings: Settings) -> None:
    place = {"Bucket": BUCKET, "Key": "releases/object"}
    old = s3_client(settings, S3Purpose.RELEASES)
    assert renew_keys(settings) == len(S3Purpose)
    new = s3_client(settings, S3Purpose.RELEASES)
    assert renew_keys(settings) == 0, "not a second time while the first isn't finished"
    assert [refusal(client.get_object, **place) for client in (old, new)] == [0, 0]
    assert refusal(old.get_object, Bucket=BUCKET, Key="incidents/object") == 403
    assert drop_replaced_keys(settings) == len(S3Purpose)
    assert [refusal(client.get_object, **place) for client in (old, new)] == [403, 0]
    assert {path.name for path in settings.secrets.iterdir()} == {secret_name(one) for one in S3Purpose}


@pytest.mark.parametrize("written", [0, 3, 6])
def test_a_rotation_that_was_killed_goes_on(settings: Settings, written: int) -> None:
    """Killed after it has told the server, and has replaced the first keys only."""
    place = {"Bucket": BUCKET, "Key": "incidents/object"}
    purposes = (S3Purpose.PAGE, S3Purpose.INCIDENTS)
    old = [s3_client(settings, purpose) for purpose in purposes]
    for purpose in S3Purpose:
        new_secret(settings, purpose).write_text(f"new-of-{purpose}-{written}")
    for purpose in list(S3Purpose)[: written + 1]:
        replaced_secret(settings, purpose).write_text(settings.secret(secret_name(purpose)))
    for purpose in list(S3Purpose)[:written]:
        new_secret(settings, purpose).replace(settings.secrets / secret_name(purpose))
    assert renew_keys(settings) == len(S3Purpose) - written
    new = [s3_client(settings, purpose) for purpose in purposes]
    assert [refusal(client.get_object, **place) for client in (*old, *new)] == [0] * 4
    assert drop_replaced_keys(settings) == len(S3Purpose)
    assert {path.name for path in settings.secrets.iterdir()} == {secret_name(one) for one in S3Purpose}
    assert [refusal(client.get_object, **place) for client in (*old, *new)] == [403, 403, 0, 0]


def test_what_the_product_calls_needs_no_other_right(settings: Settings) -> None:
    """A right that is missing would show in a run only: a record would wait in the spool, a listing would fail."""
    context: Any = SimpleNamespace(
        settings=settings,
        s3=partial(s3_client, settings),
        s3_in_time=partial(s3_client, settings, in_time=True),
    )
    for key in ("incidents/i/plan.json", "deployments/d.json", "releases/r.tar.gz"):
        deliver_to_s3(context, key, b"{}")
    assert not spool_directory(settings).exists()
    assert read_archive(settings, "i").plan == {}
    send_synthetic_trade(context.s3(S3Purpose.SYNTHETIC))
    monitor = data_sources(settings, S3Purpose.MONITOR)
    assert any(file.key.startswith("trades/canary/") for file in list_trade_files(monitor))
    day = "eod/UnderlyingOptionsEODCalcs_2024-10-08.csv"
    etag = context.s3(S3Purpose.DELIVERY).put_object(Bucket=BUCKET, Key=day, Body=b"x")["ETag"]
    assert pending_uris(context.s3(S3Purpose.MONITOR), monitor) == [f"s3://{BUCKET}/{day}"]
    ingest, name = context.s3(S3Purpose.INGEST), manifest_key(day, etag)
    ingest.put_object(Bucket=BUCKET, Key=name, Body=b'{"state": "failed"}')
    assert pending_uris(ingest, data_sources(settings, S3Purpose.INGEST)) == []
    assert delete_manifests(ingest, data_sources(settings, S3Purpose.INGEST)) == [day]
    assert delete_expired_records(context, datetime.now(UTC) + timedelta(days=365)) == 2
    assert read_archive(settings, "i").plan is None


def test_the_keys_are_their_owners_alone(settings: Settings) -> None:
    server = ObjectStore.of(settings)
    assert server.keys_file.stat().st_mode & 0o077 == 0
    assert server.bucket.parent.stat().st_mode & 0o077 == 0
    assert not any(key.secret in " ".join(server.program().command) for key in server.keys)
