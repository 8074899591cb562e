"""Check that files are ingested: record which wait, failed or are missing, and page when a person is needed."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from kintsugi.core.dag_ids import INGEST_DAG
from kintsugi.core.errors import KintsugiError
from kintsugi.core.settings import Settings
from kintsugi.db.database import StoreUnavailable
from kintsugi.db.outbox import MessageKind, Outbox
from kintsugi.infra.airflow_client import Airflow
from kintsugi.notify.intake_paging_rules import FILES_PAGE, intake_pages, unseen_page
from kintsugi.pipeline.failures import format_reason
from kintsugi.pipeline.ingest.intake_monitor import IntakeMonitor, intake_monitor, read_rules


@dataclass
class IntakeCheck:
    """The check of one installation's intake."""

    settings: Settings
    airflow: Airflow
    outbox: Outbox
    _intake: IntakeMonitor | None = None
    _paged_at: datetime | None = None
    _unseen_since: datetime | None = None

    def check_intake(self) -> None:
        """Record which files wait, failed or are missing; page when a person is needed."""
        try:
            self._intake = self._intake or intake_monitor(self.settings)
            result = self._intake.make_report(paused=self._ingest_is_paused())
        except StoreUnavailable:
            raise
        except Exception as error:
            self._intake = None  # its client may have a key of S3 that a rotation has replaced
            self._unseen_since = self._unseen_since or datetime.now(UTC)
            page = unseen_page(self._unseen_since, datetime.now(UTC), read_rules(), format_reason(error))
            if page is not None:
                self.outbox.add_message(page.key, MessageKind.PAGE, page.body)
            raise
        self._unseen_since = None
        if result is None:
            return
        report, unpaged = result
        for page in intake_pages(report, unpaged, self._intake.rules, self._paged_at):
            self.outbox.add_message(page.key, MessageKind.PAGE, page.body)
            if page.key.startswith(FILES_PAGE):
                self._intake.store.mark_paged(unpaged)
                self._paged_at = report.at

    def _ingest_is_paused(self) -> bool:
        try:
            return any(dag["dag_id"] == INGEST_DAG and dag["is_paused"] for dag in self.airflow.dags())
        except KintsugiError:
            return False  # an Airflow that does not answer is detected elsewhere
