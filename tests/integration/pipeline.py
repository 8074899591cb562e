"""The servers around the stream for tests: S3, Postgres, Kafka and Cassandra, one of each."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
from botocore.config import Config

from kintsugi.core.settings import BUCKET
from kintsugi.db.ingest_ledger import IngestLedger
from kintsugi.pipeline import schema
from kintsugi.pipeline.cassandra_session import session_scope
from kintsugi.pipeline.reconcile.reconciliation import reconcile_files
from kintsugi.pipeline.reconcile.report import ReconciliationReport
from tests.integration import servers
from tests.integration.servers import Server

if TYPE_CHECKING:
    from cassandra.cluster import Session
    from mypy_boto3_s3.client import S3Client


@dataclass
class Pipeline:
    folder: Path
    s3: S3Client
    ledger: IngestLedger
    dsn: str
    bootstrap: list[str]
    contact_points: list[str]
    session: Session
    started: list[Server]

    def put(self, key: str, body: bytes) -> None:
        self.s3.put_object(Bucket=BUCKET, Key=key, Body=body)

    def reconcile(self, until: float = 0.0, *, derived: bool = False) -> ReconciliationReport:
        return reconcile_files(
            self.s3, self.session, self.ledger, until=until, bootstrap=self.bootstrap, derived=derived
        )


@contextmanager
def running(folder: Path, net: str) -> Iterator[Pipeline]:
    """Started servers on the addresses ``net``.1 to .3 with topics and tables; gone at the end of the block."""
    started: list[Server] = []
    try:
        started.append(kafka := servers.kafka(folder / "kafka", f"{net}.1"))
        started.append(s3 := servers.s3(folder / "s3", f"{net}.2"))
        started.append(postgres := servers.postgres(folder / "postgres", f"{net}.2"))
        started.append(cassandra := servers.cassandra(folder / "cassandra", f"{net}.3"))
        schema.ensure_topics([kafka.endpoint], replication=1)
        schema.ensure_tables([cassandra.address], replication=1)
        dsn = postgres.extra["dsn"]
        with session_scope([cassandra.address]) as session:
            client = s3_client(s3.extra["url"])
            client.create_bucket(Bucket=BUCKET)
            yield Pipeline(
                folder,
                client,
                IngestLedger(dsn),
                dsn,
                [kafka.endpoint],
                [cassandra.address],
                session,
                started,
            )
    finally:
        servers.stop_all(started)
        shutil.rmtree(folder, ignore_errors=True)


def s3_client(url: str) -> S3Client:
    config = Config(s3={"addressing_style": "path"})
    return boto3.client(
        "s3", endpoint_url=url, aws_access_key_id="kintsugi", aws_secret_access_key="kintsugi-test",
        region_name="us-east-1", config=config,
    )  # fmt: skip
