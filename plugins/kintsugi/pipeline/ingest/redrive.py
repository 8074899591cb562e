"""Ingest failed files again on a person's request: trade files by the ledger, end-of-day files by their manifest."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection
from typing import TYPE_CHECKING

from kintsugi.core.connections import data_sources, s3_client, store_dsn
from kintsugi.core.file_names import ObjectKind, kind_of
from kintsugi.core.s3_keys import S3Purpose
from kintsugi.core.settings import BUCKET, Settings
from kintsugi.db.intake import IntakeStore
from kintsugi.pipeline.object_listing import list_files, list_objects
from kintsugi.pipeline.stream.baselines import EOD_MANIFESTS, manifest_key

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

    from kintsugi.core.data_source import DataSource

log = logging.getLogger(__name__)


def redrive_files(settings: Settings, keys: Collection[str] = (), *, user: str) -> list[str]:
    """Let the ingest and the baseline read files again from their first line; returns the keys of these files.

    ``keys``: the files; empty: every file that failed. ``user``: in whose name; the log has it. Raises InputError for a
    trade file that isn't in the ledger, and what S3 and Postgres raise.
    """
    eod = [key for key in keys if kind_of(key) is ObjectKind.EOD]
    trades = [key for key in keys if key not in eod]
    redriven: list[str] = []
    if trades or not keys:
        redriven += IntakeStore(store_dsn(settings)).redrive(trades)
    if eod or not keys:
        s3, sources = s3_client(settings, S3Purpose.INGEST), data_sources(settings, S3Purpose.INGEST)
        redriven += delete_manifests(s3, sources, eod)
    log.info("%s lets files be read again: %s", user, ", ".join(redriven) or "none")
    return redriven


def delete_manifests(s3: S3Client, sources: Collection[DataSource], keys: Collection[str] = ()) -> list[str]:
    """Delete the manifests of end-of-day files, so that they are read again; returns the keys of the files.

    ``keys``: the files; empty: every file whose manifest says that it failed.
    """
    manifests = {item["Key"] for item in list_objects(s3, BUCKET, EOD_MANIFESTS)}
    redriven = []
    for file in (file for source in sources for file in list_files(source, ObjectKind.EOD)):
        name = manifest_key(file.key, file.etag)
        if name not in manifests or (keys and file.key not in keys):
            continue
        if not keys:
            manifest = json.loads(s3.get_object(Bucket=BUCKET, Key=name)["Body"].read())
            if manifest.get("state") != "failed":
                continue
        s3.delete_object(Bucket=BUCKET, Key=name)
        redriven.append(file.key)
    return sorted(redriven)
