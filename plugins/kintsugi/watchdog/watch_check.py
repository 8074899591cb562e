"""Check that every node and the flow are watched; the dead man's switch of the watchdog."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from kintsugi.core.errors import KintsugiError
from kintsugi.core.fleet import watch_dag_id
from kintsugi.core.settings import Settings
from kintsugi.db.database import StoreUnavailable
from kintsugi.db.heartbeats import FLOW, Heartbeats
from kintsugi.db.outbox import MessageKind, Outbox, OutboxMessage
from kintsugi.db.store import Store
from kintsugi.infra.airflow_client import Airflow
from kintsugi.notify.channels import load_channels
from kintsugi.notify.dead_mans_switch import (
    UNHEALTHY,
    DeadMansSwitch,
    Silence,
    Watching,
    find_silences,
    send_ping,
)
from kintsugi.notify.dispatcher import NoRecipient, notify_people
from kintsugi.notify.paging_rules import Page

log = logging.getLogger(__name__)


@dataclass
class WatchCheck:
    """The check of one installation's watches."""

    settings: Settings
    airflow: Airflow
    store: Store
    heartbeats: Heartbeats
    outbox: Outbox
    switch: DeadMansSwitch = field(default_factory=DeadMansSwitch)
    _unhealthy: dict[str, datetime] = field(default_factory=dict)
    _store_away_since: datetime | None = None
    _store_paged: bool = False

    def check_watches(self) -> None:
        """Page when a node or the flow is unwatched; ping the heartbeat service with the result."""
        now = datetime.now(UTC)
        unhealthy = self._unhealthy_since(now)
        try:
            silent = find_silences(self._watching(unhealthy))
            page = self.switch.observe(silent, now)
            if page is not None:
                self.outbox.add_message(page.key, MessageKind.PAGE, page.body)
            self._store_away_since, self._store_paged = None, False
        except StoreUnavailable as error:
            self._page_store_away(now, str(error))
            raise
        send_ping(not silent, _format_silences(silent))

    def _unhealthy_since(self, now: datetime) -> Mapping[str, datetime]:
        """Since when each component is unhealthy. Without the api-server the others are not known."""
        health = self.airflow.health()
        sick = self.unhealthy_parts(health)
        self._unhealthy = {part: self._unhealthy.get(part, now) for part in sick}
        return self._unhealthy

    @staticmethod
    def unhealthy_parts(health: Mapping[str, str | None]) -> list[str]:
        """The components that Airflow reports as unhealthy; the api-server when there is no answer."""
        if not health:
            return ["api-server"]
        return sorted(name for name, state in health.items() if state not in ("healthy", None))

    def _watching(self, unhealthy: Mapping[str, datetime]) -> Watching:
        beats, now = self.heartbeats.last()
        former_nodes = set(beats) - set(self.settings.fleet.nodes) - {FLOW}
        if former_nodes:
            self.heartbeats.forget(former_nodes)
        repaired = set(self.store.first_failures())
        maintained = {name for name in self.settings.fleet.nodes if self.store.read_maintenance(name)}
        return Watching(
            now=now,
            beats={name: at for name, at in beats.items() if name not in former_nodes},
            # A stalled incident has its own page.
            excused=repaired | maintained | self._just_repaired(now),
            paused=self._paused(beats),
            unhealthy=unhealthy,
        )

    def _just_repaired(self, now: datetime) -> set[str]:
        """Nodes whose repair has just ended: their watch is about to start again."""
        return {
            incident.node
            for incident in self.store.read_current_incidents(now - UNHEALTHY)
            if incident.closed_at is not None
        }

    def _paused(self, beats: Mapping[str, datetime]) -> set[str]:
        try:
            paused = {dag["dag_id"] for dag in self.airflow.dags() if dag["is_paused"]}
        except KintsugiError:
            return set()  # an Airflow that does not answer is detected elsewhere
        return {name for name in beats if watch_dag_id(name) in paused}

    def _page_store_away(self, now: datetime, error: str) -> None:
        """Without the store there is no outbox: after UNHEALTHY this page is sent directly, once."""
        self._store_away_since = self._store_away_since or now
        if self._store_paged or now - self._store_away_since < UNHEALTHY:
            return
        since = self._store_away_since
        page = Page(
            f"page/store/{since:%Y%m%dT%H%M%S}",
            "Postgres does not answer: no failure is recovered",
            f"Since {since:%H:%M:%S} UTC: {error}. Run `make up` on the control plane's machine.",
        )
        try:
            notify_people(OutboxMessage(page.key, MessageKind.PAGE, page.body, now, 1), load_channels())
        except NoRecipient as nobody:
            log.warning("%s: %s", page.title, nobody)
        self._store_paged = True


def _format_silences(silent: list[Silence]) -> str:
    return "\n".join(f"{silence.name}: {silence.why}" for silence in silent)
