"""Back-pressure: ingest and replay wait while much of the topic waits for the stream.

1. Before a part of a chunk is sent, `FlowControl.admit` checks for room. It reads the backlog again when the known room
   is used up, or older than RENEW_S.
2. Without room it waits, and reads the backlog every POLL_S. After SAY_S it writes that to the log, and to the record
   that the page and `make status` show. If the stream doesn't run, it waits until the stream runs.
3. While it waits, it calls ``meanwhile``. There the caller sends synthetic trades, because a repair waits for them.
4. The offsets of acknowledged messages are recorded (`SentOffsets`).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Protocol

from kintsugi.core.connections import store_dsn
from kintsugi.core.fleet import Role
from kintsugi.core.settings import KAFKA_PORT
from kintsugi.db.database import StoreUnavailable
from kintsugi.db.sent_offsets import SentOffsets
from kintsugi.db.stream_record import StreamRecord
from kintsugi.pipeline.ingest.backlog import BacklogGauge

if TYPE_CHECKING:
    from kintsugi.core.settings import Settings
    from kintsugi.pipeline.ingest.backlog import Backlog
    from kintsugi.pipeline.object_listing import S3Object

log = logging.getLogger(__name__)

RENEW_S = 5.0
POLL_S = 0.5
SAY_S = 5.0  # a shorter wait is normal for a large file, so it isn't reported
LOG_S = 60.0


class Gauge(Protocol):
    """Reads the backlog; see `BacklogGauge`."""

    def read(self) -> Backlog | None:
        """Return the backlog now; None when it is unknown."""


class WaitRecord(Protocol):
    """Records who waits; see `db.stream_record.StreamRecord`."""

    def wait(self, name: str, key: str, why: str, since: datetime) -> None: ...

    def go_on(self, name: str) -> None: ...


class OffsetRecord(Protocol):
    """Records which messages belong to which file; see `sent_offsets.SentOffsets`."""

    def add(self, key: str, etag: str, replay: str, ranges: Mapping[int, tuple[int, int]]) -> None: ...


class FlowControl:
    """The back-pressure on one ingest or replay, called ``name``."""

    def __init__(
        self, name: str, gauge: Gauge, waits: WaitRecord, sent: OffsetRecord, *,
        clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep,
    ) -> None:  # fmt: skip
        self.name = name
        self._gauge, self._waits, self._sent = gauge, waits, sent
        self._clock, self._sleep = clock, sleep
        self._room = 0
        self._read_at = float("-inf")

    def admit(
        self, key: str, messages: int, meanwhile: Callable[[], None] | None = None,
        flush: Callable[[], None] | None = None,
    ) -> None:  # fmt: skip
        """Wait until ``messages`` more messages of the file ``key`` may be sent.

        When nothing waits for the stream, any number is admitted: a part larger than the limit would wait forever.
        ``meanwhile`` is called repeatedly while it waits. ``flush`` is called before the backlog is read, because Kafka
        doesn't count what it has not acknowledged yet.
        """
        if self._room < messages or self._clock() - self._read_at > RENEW_S:
            if flush is not None:
                flush()
            self._await_room(key, messages, meanwhile)
        self._room -= messages

    def note_sent(self, source: S3Object, replay: str, ranges: Mapping[int, tuple[int, int]]) -> None:
        """Record the offsets of messages of a file; raises StoreUnavailable."""
        if ranges:
            self._sent.add(source.key, source.etag, replay, ranges)

    def _await_room(self, key: str, messages: int, meanwhile: Callable[[], None] | None) -> None:
        started, since = self._clock(), datetime.now(UTC)
        recorded_at, logged_at, is_recorded = started, started + SAY_S - LOG_S, False
        while (why := self._why_wait(messages)) is not None:
            now = self._clock()
            if now - logged_at >= LOG_S:
                log.info("%s has waited with %s for %.0f s: %s", self.name, key, now - started, why)
                logged_at = now
            if now - recorded_at >= SAY_S:
                self._record(lambda reason=why: self._waits.wait(self.name, key, reason, since))  # type: ignore[misc]
                recorded_at, is_recorded = now, True
            if meanwhile is not None:
                meanwhile()
            self._sleep(POLL_S)
        if is_recorded:
            log.info("%s continues with %s after %.0f s", self.name, key, self._clock() - started)
            self._record(lambda: self._waits.go_on(self.name))

    def _why_wait(self, messages: int) -> str | None:
        backlog = self._gauge.read()
        if backlog is None:
            return "Kafka doesn't report what waits for the stream"
        self._read_at, self._room = self._clock(), backlog.room()
        return None if self._room >= messages or not backlog.total else str(backlog)

    @staticmethod
    def _record(write: Callable[[], None]) -> None:
        try:
            write()
        except StoreUnavailable as error:
            log.warning("the page and `make status` don't show that the ingest waits: %s", error)


def flow_control(settings: Settings, name: str) -> FlowControl:
    """Return the back-pressure of this installation for an ingest or replay called ``name``."""
    bootstrap, dsn = settings.fleet.endpoints(Role.KAFKA, KAFKA_PORT), store_dsn(settings)
    return FlowControl(name, BacklogGauge(bootstrap), StreamRecord(dsn), SentOffsets(dsn))
