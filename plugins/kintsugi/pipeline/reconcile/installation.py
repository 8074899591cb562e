"""The reconciliation of this installation: when it is quiet, after an ingest, or at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable
from datetime import UTC, datetime, timedelta

from kintsugi.core.certificates import Principal
from kintsugi.core.connections import data_sources, s3_client, store_dsn
from kintsugi.core.errors import ReconciliationError
from kintsugi.core.fleet import Role
from kintsugi.core.s3_keys import S3Purpose
from kintsugi.core.settings import KAFKA_PORT, Settings
from kintsugi.db.ingest_ledger import IngestLedger
from kintsugi.db.ledger_entry import LedgerEntry
from kintsugi.db.stream_record import StreamRecord
from kintsugi.pipeline.cassandra_session import installation_session, shut_down_after
from kintsugi.pipeline.reconcile.progress import FileKey
from kintsugi.pipeline.reconcile.reconciliation import reconcile_files
from kintsugi.pipeline.reconcile.report import ReconciliationReport
from kintsugi.pipeline.stream_lag import read_consumer_lag, read_snapshot
from kintsugi.pipeline.synthetic_trade import PREFIX as SYNTHETIC_PREFIX

MAX_LAG = 10_000  # messages that may wait for the stream when a reconciliation begins
MAX_WAIT_S = 900.0
POLL_S = 5.0
MAX_FILES = 200  # that one run of the DAG reconciles
RECENT = timedelta(days=2)


def reconcile_installation(
    settings: Settings,
    *,
    until: float | None = None,
    kafka: bool = True,
    files: Collection[FileKey] | None = None,
    repair: bool = False,
) -> ReconciliationReport:
    """Reconcile the trade files, the topic (if ``kafka``) and the tables of this installation.

    ``until``: seconds to wait for trades that are on their way. ``files``: only these, as (key, ETag). ``repair``:
    write the correct rows where rows of derived tables are wrong. Raises KintsugiError when Cassandra or Postgres can't
    be reached, and what S3 and Kafka raise.
    """
    fleet, purpose = settings.fleet, S3Purpose.MONITOR
    with shut_down_after(installation_session(settings, Principal.RECOVERY)) as session:
        report = reconcile_files(
            s3_client(settings, purpose), session, IngestLedger(store_dsn(settings)), until=until, files=files,
            derived=files is None, repair=repair,
            bootstrap=fleet.endpoints(Role.KAFKA, KAFKA_PORT) if kafka else None,
            sources=data_sources(settings, purpose),
        )  # fmt: skip
    report.stream_losses = [str(loss) for loss in StreamRecord(store_dsn(settings)).losses()]
    return report


def reconcile_when_quiet(
    settings: Settings, deadline_s: float = 120.0, files: Collection[FileKey] | None = None
) -> ReconciliationReport:
    """Wait until every file is ingested and the stream has no lag; then reconcile, only ``files`` if given.

    Waits at most ``deadline_s`` seconds. After that it reconciles anyway; the report says what is missing.
    """
    deadline = time.monotonic() + deadline_s
    while time.monotonic() < deadline:
        flow = read_snapshot(settings)
        if flow.lag == 0 and not flow.pending:
            break
        time.sleep(1)
    return reconcile_installation(settings, until=max(5.0, deadline - time.monotonic()), files=files)


def reconcile_ingested(settings: Settings, deadline_s: float) -> ReconciliationReport | None:
    """Reconcile the files that were ingested recently and never reconciled; return None when there are none.

    Files whose trades are all stored are noted in the ledger; the next run takes the others. The reconciliation first
    waits up to MAX_WAIT_S for a stream that lags behind: reading the trades costs Cassandra as much as writing them.
    Raises ReconciliationError, which names a trade, when one is lost or altered, and what `reconcile_installation`
    raises.
    """
    bootstrap = settings.fleet.endpoints(Role.KAFKA, KAFKA_PORT)
    await_caught_up(lambda: read_consumer_lag(bootstrap), time.monotonic() + MAX_WAIT_S)
    entries = due_entries(IngestLedger(store_dsn(settings)).unreconciled(), datetime.now(UTC))
    if not entries:
        return None
    files = [(entry.key, entry.etag) for entry in entries]
    report = reconcile_installation(settings, until=deadline_s, files=files)
    if not report.balanced:
        names = ", ".join([*report.lost, *report.altered][:3])
        raise ReconciliationError(
            f"the reconciliation of {len(entries)} files found faults: {report}; {names}; run `make reconcile`"
        )
    return report


def await_caught_up(read_lag: Callable[[], int | None], deadline: float) -> None:
    """Return when at most MAX_LAG messages wait for the stream, Kafka doesn't report the lag, or at ``deadline``."""
    while (read_lag() or 0) > MAX_LAG and time.monotonic() < deadline:
        time.sleep(POLL_S)


def due_entries(entries: Iterable[LedgerEntry], now: datetime) -> list[LedgerEntry]:
    """Return the entries that `reconcile_ingested` takes: the newest of the last two days, without synthetic trades."""
    recent = [
        entry for entry in entries
        if not entry.key.startswith(SYNTHETIC_PREFIX) and entry.finished_at and now - entry.finished_at < RECENT
    ]  # fmt: skip
    return sorted(recent, key=lambda entry: entry.started_at)[-MAX_FILES:]
