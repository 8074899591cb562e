"""One run of the ingest: every pending file, and synthetic trades between their chunks.

No file delays another:

1. If the content of a file raises an error, expected or not, the file ends as failed with that reason. The run
   continues with the next file.
2. If S3 fails for a file, or the machine does, the file is postponed (`Claim.postpone`). The run continues with the
   next file.
3. If Kafka or Postgres fails, no file can be ingested. The error is raised, and Airflow tries the task again.
4. Synthetic trades are ingested first, and between two chunks of a long file.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from kintsugi.core.data_source import DataSource, own_source
from kintsugi.core.settings import BUCKET
from kintsugi.db.ingest_ledger import IngestLedger
from kintsugi.pipeline.failures import format_reason, is_transient, stops_all_files
from kintsugi.pipeline.ingest.file_ingest import ingest_object, is_synthetic
from kintsugi.pipeline.ingest.file_manifest import FileIngestReport
from kintsugi.pipeline.kafka_producer import Producer, open_producer
from kintsugi.pipeline.object_listing import (
    PendingFileScanner,
    S3Object,
    list_own_trade_files,
    select_waiting,
)
from kintsugi.pipeline.synthetic_trade import PREFIX as SYNTHETIC_PREFIX

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

    from kintsugi.pipeline.ingest.flow_control import FlowControl

log = logging.getLogger(__name__)

POLL_S = 0.5
SYNTHETIC_EVERY_S = 1.0


def ingest_pending(
    s3: S3Client, ledger: IngestLedger, bootstrap: list[str], *,
    bucket: str = BUCKET, sources: Sequence[DataSource] | None = None, idle: float = 0.0, at_most: float = 60.0,
    control: FlowControl | None = None,
) -> list[FileIngestReport]:  # fmt: skip
    """Ingest every pending file, synthetic trades first, then by key; returns the reports of the finished files.

    ``sources``: where files are read from; default: ``bucket``. ``idle``: seconds to wait for another file after the
    last one, for a steady feed. No new round begins after ``at_most`` seconds. ``control``: the back-pressure. Raises
    what stops all files: what Kafka and Postgres raise, and S3 when it can't be listed.
    """
    started = last = time.monotonic()
    reports: list[FileIngestReport] = []
    scanner = PendingFileScanner(sources or (own_source(s3, bucket),), ledger)
    with open_producer(bootstrap) as kafka:
        synthetic = SyntheticTradeIngest(s3, ledger, kafka, bucket)
        while True:
            for file in sorted(scanner.scan(), key=lambda file: not is_synthetic(file.key)):
                report = _ingest_or_postpone(s3, file, ledger, kafka, bucket, synthetic.ingest_new, control)
                if report is not None:
                    reports.append(report)
                    last = time.monotonic()
            now = time.monotonic()
            if now - last >= idle or now - started >= at_most:
                return [*reports, *synthetic.reports]
            time.sleep(POLL_S)


def _ingest_or_postpone(
    s3: S3Client,
    file: S3Object,
    ledger: IngestLedger,
    kafka: Producer,
    bucket: str,
    after_chunk: Callable[[], None] | None = None,
    control: FlowControl | None = None,
) -> FileIngestReport | None:
    """Ingest one file of several; return None when it was postponed. Raises only what stops all of them."""
    try:
        return ingest_object(
            s3, file, ledger=ledger, kafka=kafka, bucket=bucket, after_chunk=after_chunk, control=control
        )
    except Exception as error:
        if stops_all_files(error) or not is_transient(error):
            raise
        log.warning("%s is postponed: %s", file.key, format_reason(error))
        return None


class SyntheticTradeIngest:
    """Ingests the synthetic trades that arrive while a long file is ingested.

    Their keys begin with day and time, so only the keys after the last one are listed.
    """

    def __init__(self, s3: S3Client, ledger: IngestLedger, kafka: Producer, bucket: str) -> None:
        self._s3, self._ledger, self._kafka, self._bucket = s3, ledger, kafka, bucket
        self._last_key = ""
        self._due = 0.0
        self.reports: list[FileIngestReport] = []

    def ingest_new(self) -> None:
        """Ingest new synthetic trades, at most once a second; when S3 can't be listed, the next call tries again."""
        if time.monotonic() < self._due:
            return
        self._due = time.monotonic() + SYNTHETIC_EVERY_S
        try:
            files = list_own_trade_files(self._s3, self._bucket, SYNTHETIC_PREFIX, self._last_key)
            waiting = select_waiting(files, self._ledger)
        except Exception as error:
            if stops_all_files(error) or not is_transient(error):
                raise
            return
        for file in waiting:
            report = _ingest_or_postpone(self._s3, file, self._ledger, self._kafka, self._bucket)
            if report is not None:
                self.reports.append(report)
        if files:
            self._last_key = files[-1].key
