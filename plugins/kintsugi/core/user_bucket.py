"""The user's bucket, from the Airflow connection ``kintsugi_data``; `docs/your-bucket.md` explains its fields.

The Airflow AWS provider creates the client, so every field of its connection works: keys, profile, role and external
id, endpoint, region, ``config_kwargs``, ``verify``. There are also these fields in ``extra.service_config.s3``:

- ``bucket_name``: the bucket (the provider's own field); required
- ``prefix``: only keys below it are read; default: the whole bucket
- ``request_payer``: ``requester`` if the reader pays for requests to the bucket
- ``get_object_args``: more parameters for each GetObject and HeadObject, for instance ``SSECustomerKey``

Only ListObjectsV2, GetObject and HeadObject are ever called, which need ``s3:ListBucket`` and ``s3:GetObject``.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from kintsugi.core.connections import DATA_CONNECTION, TIMEOUTS, extras, hook_client
from kintsugi.core.data_source import DataSource
from kintsugi.core.errors import KintsugiError
from kintsugi.core.file_names import ObjectKind
from kintsugi.core.settings import load_settings

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

READS = ("ListObjectsV2", "GetObject", "HeadObject")


def user_source(conn: Mapping[str, Any]) -> DataSource:
    """Return the bucket of the connection ``conn``; raises KintsugiError, which says which field is wrong."""
    fields = service_fields(conn)
    bucket, prefix = fields.get("bucket_name"), fields.get("prefix", "")
    if not bucket or not isinstance(bucket, str) or "/" in bucket:
        raise KintsugiError(
            f"the connection {DATA_CONNECTION} names no bucket: set extra.service_config.s3.bucket_name, "
            "a name without s3:// and without a slash"
        )
    if not isinstance(prefix, str) or prefix.startswith(("/", "s3:")):
        raise KintsugiError(
            f"the prefix of the connection {DATA_CONNECTION} is {prefix!r}; give the beginning of keys, as vendor/cboe/"
        )
    client = s3_client(conn)
    _add_parameters(client, fields)
    return DataSource(client, bucket, {ObjectKind.TRADES: prefix, ObjectKind.EOD: prefix}, name=bucket)


def service_fields(conn: Mapping[str, Any], conn_id: str = DATA_CONNECTION) -> dict[str, Any]:
    """Return ``extra.service_config.s3`` of the connection ``conn_id``; KintsugiError unless it is a JSON object."""
    try:
        config = extras(conn).get("service_config") or {}
        fields = config.get("s3") or {}
        return dict(fields)
    except (ValueError, TypeError, AttributeError) as error:
        raise KintsugiError(
            f"extra.service_config.s3 of the connection {conn_id} is not a JSON object: write it as "
            '{"service_config": {"s3": {"bucket_name": "…"}}}'
        ) from error


def s3_client(conn: Mapping[str, Any]) -> S3Client:
    """Return `connection_client` for the connection with market data."""
    return connection_client(DATA_CONNECTION, conn)


def connection_client(conn_id: str, conn: Mapping[str, Any]) -> S3Client:
    """Return the client that Airflow's S3Hook creates from a connection, with the time-outs of this project.

    Raises KintsugiError if the provider can't create one (such as a missing profile, or a role that isn't granted).
    """
    # The hook looks up the connection by its id, first in the environment: the same inside and outside Airflow.
    os.environ.setdefault(f"AIRFLOW_CONN_{conn_id.upper()}", json.dumps(dict(conn)))
    if "airflow" not in sys.modules:
        # On the command line: Airflow must write neither to the user's home nor to the command's output.
        os.environ.setdefault("AIRFLOW_HOME", str(load_settings().control / "airflow"))
        os.environ.setdefault("AIRFLOW__LOGGING__LOGGING_LEVEL", "ERROR")
    client: S3Client = hook_client(conn_id, TIMEOUTS)
    return client


def combine_sources(own: DataSource, user: DataSource) -> tuple[DataSource, ...]:
    """Return both sources; only one if they are the same bucket, so that no file is read twice."""
    if (own.client.meta.endpoint_url, own.bucket) != (user.client.meta.endpoint_url, user.bucket):
        return own, user
    prefixes = {kind: _common_prefix(own.prefixes[kind], user.prefixes[kind]) for kind in own.prefixes}
    return (DataSource(user.client, own.bucket, prefixes, own.name),)


def _common_prefix(one: str, other: str) -> str:
    """Return the longest common prefix of both prefixes."""
    equal = takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))
    return "".join(letter for letter, _ in equal)


def _add_parameters(client: S3Client, fields: Mapping[str, Any]) -> None:
    """Add the user's parameters to every read of ``client``."""
    payer = {"RequestPayer": fields["request_payer"]} if fields.get("request_payer") else {}
    get = {**payer, **(fields.get("get_object_args") or {})}

    def make_handler(parameters: Mapping[str, Any]) -> Any:
        def add_defaults(params: dict[str, Any], **_: Any) -> None:
            for name, value in parameters.items():
                params.setdefault(name, value)

        return add_defaults

    for operation in READS:
        parameters = payer if operation == "ListObjectsV2" else get
        if parameters:
            client.meta.events.register(f"provide-client-params.s3.{operation}", make_handler(parameters))
