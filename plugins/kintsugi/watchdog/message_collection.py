"""Put what is new in the database into the outbox: pages, traces and markers."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from kintsugi.core.settings import Settings
from kintsugi.db.ingest_ledger import IngestLedger
from kintsugi.db.outbox import Outbox
from kintsugi.db.store import Store
from kintsugi.notify import collector
from kintsugi.notify.recurring_failures import exits_in
from kintsugi.probes.observe import SERVICES
from kintsugi.telemetry.backend import load_backend
from kintsugi.telemetry.markers import load_markers

RECENT_INCIDENTS = 100
CLOSED_RECENTLY = timedelta(hours=1)  # an old incident that ends now is among the newest no more
RECOLLECT_S = 15.0
INIT_LOG_TAIL = 64 * 1024  # bytes; an exit and a start take about 400


@dataclass
class MessageCollection:
    """Collects the messages of one installation."""

    settings: Settings
    store: Store
    ledger: IngestLedger
    outbox: Outbox
    _collected: object = None

    def collect_messages(self) -> None:
        """Put new messages into the outbox; a pass without changes costs one query."""
        now = datetime.now(UTC)
        # A stalled repair changes nothing in the store, and a page waits for others with the same cause. So collect
        # from time to time even without a change.
        current = (self._marks(), int(now.timestamp() // RECOLLECT_S))
        if current == self._collected:
            return
        incidents = self.store.read_current_incidents(now - CLOSED_RECENTLY, newest=RECENT_INCIDENTS)
        faults = self.store.read_faults()
        items = collector.page_items(incidents, now, exits=service_exits(self.settings), faults=faults)
        if load_backend():
            items += collector.trace_items(incidents, self._finished_files(now), now)
        if load_markers():
            items += collector.marker_items(incidents, faults, now)
        collector.put_items(self.outbox, items)
        self._collected = current

    def _marks(self) -> tuple[Any, ...]:
        """Values that change with every new entry in the store."""
        with self.store.transaction() as connection:
            row = connection.execute(
                "SELECT (SELECT max(seq) FROM incident_entry) AS entry, (SELECT max(id) FROM fault) AS fault,"
                " (SELECT max(closed_at) FROM incident) AS closed,"
                " (SELECT max(finished_at) FROM ledger_file) AS finished"
            ).fetchone()
        return tuple((row or {}).values())

    def _finished_files(self, now: datetime) -> list[Any]:
        return [
            entry
            for entry in self.ledger.entries()
            if entry.finished_at is not None and now - entry.finished_at < collector.RECENT
        ]


def service_exits(settings: Settings) -> dict[str, list[datetime]]:
    """When each node's service exited by itself, from the tail of its init's log in the collector."""
    exits = {}
    for node in settings.fleet:
        path = settings.control / "node-logs" / node.name / "init.log"
        try:
            with path.open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - INIT_LOG_TAIL))
                lines = file.read().decode(errors="replace").splitlines()
        except OSError:
            continue
        exits[node.name] = exits_in(lines, SERVICES[node.role])
    return exits
