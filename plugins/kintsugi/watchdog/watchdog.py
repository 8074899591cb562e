"""The watchdog: a small process of the control plane, outside Airflow, supervised like the other components.

It runs these loops:

- check that every node and the flow are watched (kintsugi.notify.dead_mans_switch);
- check that trades are stored (kintsugi.notify.stream_stall_alert) and ingested
  (kintsugi.pipeline.ingest.intake_monitor);
- take over incidents that no run works on (kintsugi.watchdog.incident_sweeper);
- collect new messages from the store (kintsugi.notify.collector) and deliver the outbox (kintsugi.notify.dispatcher);
- measure fleet and flow.

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
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

from kintsugi.controlplane.control_plane import ControlPlane
from kintsugi.core.connections import s3_client, store_dsn
from kintsugi.core.dag_ids import INGEST_DAG
from kintsugi.core.errors import KintsugiError
from kintsugi.core.fleet import Role, watch_of
from kintsugi.core.observation import ProbeResult
from kintsugi.core.settings import KAFKA_PORT, Settings, load_settings
from kintsugi.db.database import StoreUnavailable
from kintsugi.db.heartbeats import FLOW, Heartbeats
from kintsugi.db.ingest_ledger import IngestLedger
from kintsugi.db.outbox import MessageKind, Outbox, OutboxMessage
from kintsugi.db.sent_offsets import SentOffsets
from kintsugi.db.store import Store
from kintsugi.db.stream_record import StreamRecord
from kintsugi.environments.local.node import expire_quarantine
from kintsugi.infra.airflow_client import Airflow
from kintsugi.notify import collector, dead_letter_collector
from kintsugi.notify.channels import load_channels
from kintsugi.notify.dead_mans_switch import (
    UNHEALTHY,
    DeadMansSwitch,
    Silence,
    Watching,
    find_silences,
    send_ping,
)
from kintsugi.notify.dispatcher import Dispatcher, NoRecipient, notify_people
from kintsugi.notify.intake_paging_rules import FILES_PAGE, intake_pages, unseen_page
from kintsugi.notify.paging_rules import Page
from kintsugi.notify.recurring_failures import exits_in
from kintsugi.notify.stream_stall_alert import StreamStallAlert
from kintsugi.operations.stream_driver import desired_state
from kintsugi.pipeline.failures import format_reason
from kintsugi.pipeline.ingest.intake_monitor import IntakeMonitor, intake_monitor, read_rules
from kintsugi.probes import probe_node
from kintsugi.probes.observe import SERVICES
from kintsugi.probes.stream_progress import FlowReading, read_flow
from kintsugi.telemetry.backend import load_backend
from kintsugi.telemetry.markers import load_markers
from kintsugi.watchdog.incident_sweeper import IncidentSweeper
from kintsugi.watchdog.metrics_export import Measuring

HUNG_S = 300.0
RECENT_INCIDENTS = 100
LOOK_S = 15.0
INIT_LOG_TAIL = 64 * 1024  # bytes; an exit and a start take about 400

log = logging.getLogger(__name__)


@dataclass(slots=True)
class PeriodicTask:
    """A loop: ``work`` runs every ``every_s`` seconds; an error is logged when it changes."""

    name: str
    every_s: float
    work: Callable[[], object]
    last_s: float = field(default_factory=time.monotonic)
    _complaint: str = ""

    def run(self, stop: threading.Event) -> None:
        while not stop.is_set():
            self.once()
            stop.wait(self.every_s)

    def once(self) -> bool:
        """One pass; raises nothing. Returns whether it succeeded."""
        complaint = ""
        try:
            self.work()
        except Exception as error:
            complaint = str(error) or repr(error)
            if complaint != self._complaint:
                expected = isinstance(error, KintsugiError)
                log.warning("%s: %s", self.name, complaint, exc_info=None if expected else error)
        if self._complaint and not complaint:
            log.info("%s: works again", self.name)
        self._complaint = complaint
        self.last_s = time.monotonic()
        return not complaint


@dataclass
class Watchdog:
    """The loops of one installation."""

    settings: Settings
    airflow: Airflow
    switch: DeadMansSwitch = field(default_factory=DeadMansSwitch)
    standstill: StreamStallAlert = field(default_factory=StreamStallAlert)
    _unhealthy: dict[str, datetime] = field(default_factory=dict)
    _store_away: datetime | None = None
    _told_away: bool = False
    _seen: object = None
    _intake: IntakeMonitor | None = None
    _intake_paged_at: datetime | None = None
    _intake_unseen: datetime | None = None

    @cached_property
    def outbox(self) -> Outbox:
        return Outbox(store_dsn(self.settings))

    @cached_property
    def store(self) -> Store:
        return Store(store_dsn(self.settings))

    @cached_property
    def ledger(self) -> IngestLedger:
        return IngestLedger(store_dsn(self.settings))

    @cached_property
    def heartbeats(self) -> Heartbeats:
        return Heartbeats(store_dsn(self.settings))

    @cached_property
    def sweeper(self) -> IncidentSweeper:
        return IncidentSweeper(self.store, self.airflow, self._answers)

    def _answers(self, name: str) -> bool:
        return asyncio.run(probe_node(self.settings.fleet.node(name))).answer is ProbeResult.OK

    @cached_property
    def record(self) -> StreamRecord:
        return StreamRecord(store_dsn(self.settings))

    @cached_property
    def sent(self) -> SentOffsets:
        return SentOffsets(store_dsn(self.settings))

    @cached_property
    def resource(self) -> dict[str, str]:
        """The resource attributes of telemetry."""
        fleet = self.settings.fleet
        return {"service.namespace": fleet.name, "deployment.environment.name": fleet.environment}

    @cached_property
    def post(self) -> Dispatcher:
        return Dispatcher(self.outbox, self.store, self.ledger, self.resource, self.airflow.trigger)

    def prepare(self) -> None:
        """Create or update the tables of the database."""
        self.store.migrate()

    def lines(self) -> list[PeriodicTask]:
        """All loops; metrics only when a backend is defined."""
        found = [
            PeriodicTask("news", 2.0, self.gather),
            PeriodicTask("pages", 2.0, lambda: self._deliver(MessageKind.PAGE, MessageKind.DIGEST)),
            PeriodicTask("recoveries", 2.0, lambda: self._deliver(MessageKind.RECOVERY)),
            PeriodicTask("replays", 10.0, lambda: self._deliver(MessageKind.REPLAY)),
            PeriodicTask("dead man's switch", 15.0, self.look),
            PeriodicTask("flow", 60.0, self.look_at_flow),
            PeriodicTask("open incidents", 15.0, lambda: self.sweeper.sweep()),
            PeriodicTask("housekeeping", 3600.0, self.keep_house),
            PeriodicTask("stream's letters", 60.0, self.take_letters),
            PeriodicTask("intake", 15.0, self.look_at_intake),
        ]
        if load_backend() or load_markers():
            telemetry = (MessageKind.INCIDENT_TRACE, MessageKind.INGEST_TRACE, MessageKind.MARKER)
            found.append(PeriodicTask("telemetry", 2.0, lambda: self._deliver(*telemetry)))
        if load_backend():
            found.append(
                PeriodicTask("metrics", 30.0, Measuring(self.settings, self.store, self.resource).once)
            )
        return found

    # --- telling --------------------------------------------------------------------------------------------

    def gather(self) -> None:
        """Put new messages into the outbox; a pass without changes costs one query."""
        now = datetime.now(UTC)
        # A stalled repair changes nothing in the store, and a page waits for others with the same cause. So collect
        # from time to time even without a change.
        seen = (self._marks(), int(now.timestamp() // LOOK_S))
        if seen == self._seen:
            return
        incidents = self.store.incidents(RECENT_INCIDENTS)
        faults = self.store.faults()
        items = collector.page_items(incidents, now, exits=exits_of(self.settings), faults=faults)
        if load_backend():
            items += collector.trace_items(incidents, self._finished(now), now)
        if load_markers():
            items += collector.marker_items(incidents, faults, now)
        collector.put_items(self.outbox, items)
        self._seen = seen

    def _marks(self) -> tuple[Any, ...]:
        """Values that change with every new entry in the store."""
        with self.store.transaction() as connection:
            row = connection.execute(
                "SELECT (SELECT max(seq) FROM incident_entry) AS entry, (SELECT max(id) FROM fault) AS fault,"
                " (SELECT max(closed_at) FROM incident) AS closed,"
                " (SELECT max(finished_at) FROM ledger_file) AS finished"
            ).fetchone()
        return tuple((row or {}).values())

    def _finished(self, now: datetime) -> list[Any]:
        return [
            entry
            for entry in self.ledger.entries()
            if entry.finished_at is not None and now - entry.finished_at < collector.RECENT
        ]

    def _deliver(self, *kinds: MessageKind) -> None:
        # Only if a message is due: a claim writes, and this process shares its two cores with the fleet.
        if self.outbox.due().intersection(kinds):
            while self.post.deliver_one(*kinds):
                pass

    def keep_house(self) -> None:
        """Delete old delivered messages, and replaced disks after their retention time."""
        self.outbox.forget_old()
        self.sent.forget_old()
        for path in expire_quarantine(self.settings, datetime.now(UTC)):
            log.info("deleted %s: its retention time is over, or the disk is nearly full", path)

    # --- the flow --------------------------------------------------------------------------------------------

    def look_at_flow(self) -> None:
        """Page when a submitted stream stores nothing, or less than arrives."""
        if not desired_state(self.store):
            self.standstill.forget()
            return
        page = self.standstill.observe(self.read_flow())
        if page is not None:
            self.outbox.put(page.key, MessageKind.PAGE, page.body)

    def take_letters(self) -> None:
        """Collect the streaming driver's reports; page and replay messages that Kafka deleted unread."""
        brokers = self.settings.fleet.endpoints(Role.KAFKA, KAFKA_PORT)
        dead_letter_collector.collect_letters(brokers, s3_client(self.settings), self.record)
        losses = self.record.losses()
        for page in dead_letter_collector.loss_pages(losses, datetime.now(UTC)):
            self.outbox.put(page.key, MessageKind.PAGE, page.body)
        for loss in losses:
            if not loss.settled:
                key, body = dead_letter_collector.replay_order(loss)
                self.outbox.put(key, MessageKind.REPLAY, body)

    def read_flow(self) -> FlowReading:
        """The stream as it is now."""
        return asyncio.run(read_flow(self.settings.fleet))

    # --- the intake ------------------------------------------------------------------------------------------

    def look_at_intake(self) -> None:
        """Record which files wait, failed or are missing; page when a person is needed."""
        try:
            self._intake = self._intake or intake_monitor(self.settings)
            found = self._intake.make_report(paused=self._ingest_is_paused())
        except StoreUnavailable:
            raise
        except Exception as error:
            self._intake_unseen = self._intake_unseen or datetime.now(UTC)
            page = unseen_page(self._intake_unseen, datetime.now(UTC), read_rules(), format_reason(error))
            if page is not None:
                self.outbox.put(page.key, MessageKind.PAGE, page.body)
            raise
        self._intake_unseen = None
        if found is None:
            return
        report, unpaged = found
        for page in intake_pages(report, unpaged, self._intake.rules, self._intake_paged_at):
            self.outbox.put(page.key, MessageKind.PAGE, page.body)
            if page.key.startswith(FILES_PAGE):
                self._intake.store.mark_paged(unpaged)
                self._intake_paged_at = report.at

    def _ingest_is_paused(self) -> bool:
        try:
            return any(dag["dag_id"] == INGEST_DAG and dag["is_paused"] for dag in self.airflow.dags())
        except KintsugiError:
            return False  # an Airflow that does not answer is detected elsewhere

    # --- the dead man's switch ------------------------------------------------------------------------------

    def look(self) -> None:
        """Page when a node or the flow is unwatched; ping the heartbeat service with the result."""
        now = datetime.now(UTC)
        unhealthy = self._airflow_since(now)
        try:
            found = find_silences(self._watching(unhealthy))
            page = self.switch.observe(found, now)
            if page is not None:
                self.outbox.put(page.key, MessageKind.PAGE, page.body)
            self._store_away, self._told_away = None, False
        except StoreUnavailable as error:
            self._store_is_away(now, str(error))
            raise
        send_ping(not found, _reasons(found))

    def _airflow_since(self, now: datetime) -> Mapping[str, datetime]:
        """Since when each component is unhealthy. Without the api-server the others are not known."""
        health = self.airflow.health()
        sick = self.airflow_parts(health)
        self._unhealthy = {part: self._unhealthy.get(part, now) for part in sick}
        return self._unhealthy

    @staticmethod
    def airflow_parts(health: Mapping[str, str | None]) -> list[str]:
        """The components that Airflow reports as unhealthy; the api-server when there is no answer."""
        if not health:
            return ["api-server"]
        return sorted(name for name, state in health.items() if state not in ("healthy", None))

    def _watching(self, unhealthy: Mapping[str, datetime]) -> Watching:
        beats, now = self.heartbeats.last()
        gone = set(beats) - set(self.settings.fleet.nodes) - {FLOW}
        if gone:
            self.heartbeats.forget(gone)
        repaired = {incident.node for incident in self.store.incidents(RECENT_INCIDENTS, open_only=True)}
        maintained = {name for name in self.settings.fleet.nodes if self.store.maintenance(name)}
        return Watching(
            now=now,
            beats={name: at for name, at in beats.items() if name not in gone},
            # A stalled incident has its own page.
            excused=repaired | maintained | self._healing(beats, now),
            paused=self._paused(beats),
            unhealthy=unhealthy,
        )

    def _healing(self, beats: Mapping[str, datetime], now: datetime) -> set[str]:
        """Nodes whose repair has just ended: their watch is about to start again."""
        recent = self.store.incidents(RECENT_INCIDENTS)
        return {
            incident.node
            for incident in recent
            if incident.closed_at is not None and now - incident.closed_at < UNHEALTHY
        }

    def _paused(self, beats: Mapping[str, datetime]) -> set[str]:
        try:
            paused = {dag["dag_id"] for dag in self.airflow.dags() if dag["is_paused"]}
        except KintsugiError:
            return set()  # an Airflow that does not answer is detected elsewhere
        return {name for name in beats if watch_of(name) in paused}

    def _store_is_away(self, now: datetime, error: str) -> None:
        """Without the store there is no outbox: after UNHEALTHY this page is sent directly, once."""
        self._store_away = self._store_away or now
        if self._told_away or now - self._store_away < UNHEALTHY:
            return
        since = self._store_away
        page = Page(
            f"page/store/{since:%Y%m%dT%H%M%S}",
            "The store does not answer: no failure is recovered",
            f"Since {since:%H:%M:%S} UTC: {error}",
        )
        try:
            notify_people(OutboxMessage(page.key, MessageKind.PAGE, page.body, now, 1), load_channels())
        except NoRecipient as nobody:
            log.warning("%s: %s", page.title, nobody)
        self._told_away = True


def exits_of(settings: Settings) -> dict[str, list[datetime]]:
    """When each node's service exited by itself, from the tail of its init's log in the collector."""
    found = {}
    for node in settings.fleet:
        path = settings.control / "node-logs" / node.name / "init.log"
        try:
            with path.open("rb") as log:
                log.seek(max(0, log.seek(0, os.SEEK_END) - INIT_LOG_TAIL))
                lines = log.read().decode(errors="replace").splitlines()
        except OSError:
            continue
        found[node.name] = exits_in(lines, SERVICES[node.role])
    return found


def _reasons(found: list[Silence]) -> str:
    return "\n".join(f"{silence.name}: {silence.why}" for silence in found)


def run(watchdog: Watchdog, stop: threading.Event) -> None:
    """Run every loop until ``stop``; ends the process when a loop hangs."""
    lines = watchdog.lines()
    for line in lines:
        threading.Thread(target=line.run, args=(stop,), name=line.name, daemon=True).start()
    while not stop.wait(5.0):
        hung = [line.name for line in lines if time.monotonic() - line.last_s > line.every_s + HUNG_S]
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
        preparing = PeriodicTask("tables", 5.0, watchdog.prepare)
        while not stop.is_set() and not preparing.once():
            stop.wait(preparing.every_s)
        run(watchdog, stop)


if __name__ == "__main__":
    main()
