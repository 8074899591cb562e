"""Check that the stream stores what arrives, and collect what its driver reports."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import UTC, datetime

from kintsugi.core.connections import s3_client
from kintsugi.core.fleet import Role
from kintsugi.core.s3_keys import S3Purpose
from kintsugi.core.settings import KAFKA_PORT, Settings
from kintsugi.db.outbox import MessageKind, Outbox
from kintsugi.db.store import Store
from kintsugi.db.stream_record import StreamRecord
from kintsugi.notify import dead_letter_collector
from kintsugi.notify.stream_stall_alert import StreamStallAlert
from kintsugi.operations.stream_driver import desired_state
from kintsugi.probes.stream_progress import FlowReading, read_flow


@dataclass
class StreamCheck:
    """The checks of one installation's stream."""

    settings: Settings
    store: Store
    record: StreamRecord
    outbox: Outbox
    stall_alert: StreamStallAlert = field(default_factory=StreamStallAlert)

    def check_progress(self) -> None:
        """Page when a submitted stream stores nothing, or less than arrives."""
        if not desired_state(self.store):
            self.stall_alert.forget()
            return
        page = self.stall_alert.observe(self.read_flow())
        if page is not None:
            self.outbox.add_message(page.key, MessageKind.PAGE, page.body)

    def collect_dead_letters(self) -> None:
        """Collect the streaming driver's reports; page and replay messages that Kafka deleted unread."""
        brokers = self.settings.fleet.endpoints(Role.KAFKA, KAFKA_PORT)
        s3 = s3_client(self.settings, S3Purpose.INGEST)
        dead_letter_collector.collect_letters(brokers, s3, self.record)
        losses = self.record.losses()
        for page in dead_letter_collector.loss_pages(losses, datetime.now(UTC)):
            self.outbox.add_message(page.key, MessageKind.PAGE, page.body)
        for loss in losses:
            if not loss.settled:
                key, body = dead_letter_collector.replay_order(loss)
                self.outbox.add_message(key, MessageKind.REPLAY, body)

    def read_flow(self) -> FlowReading:
        """The stream as it is now."""
        return asyncio.run(read_flow(self.settings.fleet))
