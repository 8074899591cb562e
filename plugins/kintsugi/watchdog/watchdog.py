"""The watchdog: a small process of the control plane, outside Airflow, supervised like the other components.

It runs these loops:

- check that every node and the flow are watched (kintsugi.watchdog.watch_check);
- check that trades are stored (kintsugi.watchdog.stream_check) and ingested (kintsugi.watchdog.intake_check);
- take over incidents that no run works on (kintsugi.watchdog.incident_sweeper);
- collect new messages (kintsugi.watchdog.message_collection) and deliver the outbox (kintsugi.notify.dispatcher);
- measure fleet and flow (kintsugi.watchdog.metrics_export).

Each loop has its own thread, so a pager that hangs does not block the dead man's switch. If a loop hangs, the process
ends and its supervisor restarts it. Nothing is lost, because the state is in Postgres.

    python -m kintsugi.watchdog.watchdog
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property

from kintsugi.controlplane.control_plane import ControlPlane
from kintsugi.core.backup_record import control_plane_made_at, last_backup
from kintsugi.core.connections import store_dsn
from kintsugi.core.observation import ProbeResult
from kintsugi.core.settings import Settings, load_settings
from kintsugi.db.heartbeats import Heartbeats
from kintsugi.db.ingest_ledger import IngestLedger
from kintsugi.db.outbox import MessageKind, Outbox
from kintsugi.db.sent_offsets import SentOffsets
from kintsugi.db.store import Store
from kintsugi.db.stream_record import StreamRecord
from kintsugi.environments.local.node import expire_quarantine
from kintsugi.infra.airflow_client import Airflow
from kintsugi.notify.dispatcher import Dispatcher
from kintsugi.notify.overdue_backup import overdue_backup_page
from kintsugi.probes import probe_node
from kintsugi.telemetry.backend import load_backend
from kintsugi.telemetry.markers import load_markers
from kintsugi.watchdog.incident_sweeper import IncidentSweeper
from kintsugi.watchdog.intake_check import IntakeCheck
from kintsugi.watchdog.message_collection import MessageCollection
from kintsugi.watchdog.metrics_export import MetricsExport
from kintsugi.watchdog.periodic_task import PeriodicTask
from kintsugi.watchdog.stream_check import StreamCheck
from kintsugi.watchdog.watch_check import WatchCheck

HUNG_S = 300.0

log = logging.getLogger(__name__)


@dataclass
class Watchdog:
    """The loops of one installation."""

    settings: Settings
    airflow: Airflow

    @cached_property
    def dsn(self) -> str:
        return store_dsn(self.settings)

    @cached_property
    def outbox(self) -> Outbox:
        return Outbox(self.dsn)

    @cached_property
    def store(self) -> Store:
        return Store(self.dsn)

    @cached_property
    def ledger(self) -> IngestLedger:
        return IngestLedger(self.dsn)

    @cached_property
    def heartbeats(self) -> Heartbeats:
        return Heartbeats(self.dsn)

    @cached_property
    def resource(self) -> dict[str, str]:
        """The resource attributes of telemetry."""
        fleet = self.settings.fleet
        return {"service.namespace": fleet.name, "deployment.environment.name": fleet.environment}

    @cached_property
    def dispatcher(self) -> Dispatcher:
        return Dispatcher(self.outbox, self.store, self.ledger, self.resource, self.airflow.trigger)

    def create_tables(self) -> None:
        """Create or update the tables of the database."""
        self.store.migrate()

    def tasks(self) -> list[PeriodicTask]:
        """All loops; metrics only when a backend is defined."""
        collection = MessageCollection(self.settings, self.store, self.ledger, self.outbox)
        stream = StreamCheck(self.settings, self.store, StreamRecord(self.dsn), self.outbox)
        intake = IntakeCheck(self.settings, self.airflow, self.outbox)
        watches = WatchCheck(self.settings, self.airflow, self.store, self.heartbeats, self.outbox)
        sweeper = IncidentSweeper(
            self.store, self.airflow, self._is_responding, lambda: self.settings.fleet.nodes
        )
        tasks = [
            PeriodicTask("new messages", 2.0, collection.collect_messages),
            PeriodicTask("pages", 2.0, lambda: self._deliver(MessageKind.PAGE, MessageKind.DIGEST)),
            PeriodicTask("recoveries", 2.0, lambda: self._deliver(MessageKind.RECOVERY)),
            PeriodicTask("replays", 10.0, lambda: self._deliver(MessageKind.REPLAY)),
            PeriodicTask("dead man's switch", 15.0, watches.check_watches),
            PeriodicTask("flow", 60.0, stream.check_progress),
            PeriodicTask("open incidents", 15.0, sweeper.sweep),
            PeriodicTask("housekeeping", 3600.0, self._delete_old),
            PeriodicTask("backups", 3600.0, self._check_backup),
            PeriodicTask("dead letters", 60.0, stream.collect_dead_letters),
            PeriodicTask("intake", 15.0, intake.check_intake),
        ]
        if load_backend() or load_markers():
            telemetry = (MessageKind.INCIDENT_TRACE, MessageKind.INGEST_TRACE, MessageKind.MARKER)
            tasks.append(PeriodicTask("telemetry", 2.0, lambda: self._deliver(*telemetry)))
        if load_backend():
            metrics = MetricsExport(self.settings, self.store, self.resource)
            tasks.append(PeriodicTask("metrics", 30.0, metrics.export_metrics))
        return tasks

    def _is_responding(self, name: str) -> bool:
        return asyncio.run(probe_node(self.settings.fleet.node(name))).answer is ProbeResult.OK

    def _deliver(self, *kinds: MessageKind) -> None:
        # Only if a message is due: a claim writes, and this process shares its two cores with the fleet.
        if self.outbox.find_due_kinds().intersection(kinds):
            while self.dispatcher.deliver_one(*kinds):
                pass

    def _check_backup(self) -> None:
        """Page when the last backup is too old; other environments than `local` have none."""
        made_at = control_plane_made_at(self.settings)
        if self.settings.fleet.environment != "local" or made_at is None:
            return
        page = overdue_backup_page(last_backup(self.settings), made_at, datetime.now(UTC))
        if page is not None:
            self.outbox.add_message(page.key, MessageKind.PAGE, page.body)

    def _delete_old(self) -> None:
        """Delete old delivered messages, and replaced disks after their retention time."""
        self.outbox.forget_old()
        SentOffsets(self.dsn).forget_old()
        for path in expire_quarantine(self.settings, datetime.now(UTC)):
            log.info("deleted %s: its retention time is over, or the disk is nearly full", path)


def run_tasks(watchdog: Watchdog, stop: threading.Event) -> None:
    """Run every loop until ``stop``; ends the process when a loop hangs."""
    tasks = watchdog.tasks()
    for task in tasks:
        threading.Thread(target=task.run, args=(stop,), name=task.name, daemon=True).start()
    while not stop.wait(5.0):
        hung = [task.name for task in tasks if time.monotonic() - task.last_s > task.every_s + HUNG_S]
        if hung:
            log.error("%s hangs; this process ends, and its supervisor restarts it", ", ".join(hung))
            logging.shutdown()
            os._exit(1)


@contextmanager
def _stopped_by_signals() -> Iterator[threading.Event]:
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    yield stop


def main() -> None:
    """Run the watchdog of the installation that the environment names."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for chatty in ("httpx", "httpcore", "apprise", "urllib3"):
        logging.getLogger(chatty).setLevel(logging.ERROR)  # they would log URLs, which contain secrets
    settings = load_settings()
    watchdog = Watchdog(settings, ControlPlane(settings).airflow)
    with _stopped_by_signals() as stop:
        migration = PeriodicTask("tables", 5.0, watchdog.create_tables)
        while not stop.is_set() and not migration.run_once():
            stop.wait(migration.every_s)
        run_tasks(watchdog, stop)


if __name__ == "__main__":
    main()
