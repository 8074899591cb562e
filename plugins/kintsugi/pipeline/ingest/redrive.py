"""A person has files taken again: trade files by the ledger, end-of-day files by their manifest."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection
from typing import TYPE_CHECKING

from kintsugi.core.connections import data_sources, s3_client, store_dsn
from kintsugi.core.file_names import ObjectKind, kind_of
from kintsugi.core.settings import BUCKET, Settings
from kintsugi.db.intake import IntakeStore
from kintsugi.pipeline.object_listing import files_of, objects
from kintsugi.pipeline.stream.baselines import EOD_MANIFESTS, manifest_key

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

    from kintsugi.core.data_source import DataSource

log = logging.getLogger(__name__)


def redrive_files(settings: Settings, keys: Collection[str] = ()) -> list[str]:
    """Let the ingest and the baseline take files again from their first line; returns their keys.

    ``keys``: of these files; empty: of every file that failed. Raises InputError for a trade file that the ledger
    doesn't know, and what S3 and Postgres raise.
    """
    eod = [key for key in keys if kind_of(key) is ObjectKind.EOD]
    trades = [key for key in keys if key not in eod]
    again: list[str] = []
    if trades or not keys:
        again += IntakeStore(store_dsn(settings)).redrive(trades)
    if eod or not keys:
        again += forget_manifests(s3_client(settings), data_sources(settings), eod)
    log.info("to be taken again: %s", ", ".join(again) or "nothing")
    return again


def forget_manifests(s3: S3Client, sources: Collection[DataSource], keys: Collection[str] = ()) -> list[str]:
    """Delete the manifests of end-of-day files, so that they are read again; returns the keys of the files.

    ``keys``: of these files; empty: of every file whose manifest says that it failed.
    """
    written = {item["Key"] for item in objects(s3, BUCKET, EOD_MANIFESTS)}
    again = []
    for item in (item for source in sources for item in files_of(source, ObjectKind.EOD)):
        name = manifest_key(item.key, item.etag)
        if name not in written or (keys and item.key not in keys):
            continue
        if (
            not keys
            and json.loads(s3.get_object(Bucket=BUCKET, Key=name)["Body"].read()).get("state") != "failed"
        ):
            continue
        s3.delete_object(Bucket=BUCKET, Key=name)
        again.append(item.key)
    return sorted(again)
