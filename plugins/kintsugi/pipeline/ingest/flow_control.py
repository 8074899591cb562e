"""Back-pressure: ingest and replay wait while much of the topic waits for the stream.

1. Before a part of a chunk is sent, `FlowControl.admit` asks for room. It reads the backlog when the room that it knows
   of is used up, or is RENEW_S old.
2. Without room it waits and looks again every POLL_S. From SAY_S on it says so: in the log, and in the record that the
   page and `make status` read. A stream that doesn't run makes it wait until it runs.
3. While it waits, the caller's ``meanwhile`` is called. Synthetic trades go ahead there: a repair waits for them.
4. What Kafka acknowledged is noted with its offsets (`SentOffsets`).
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
SAY_S = 5.0  # a shorter wait is how a large file goes at the stream's pace, and no news
LOG_S = 60.0


class Gauge(Protocol):
    """Where the backlog is read."""

    def read(self) -> Backlog | None:
        """The backlog now; None when nobody can tell."""


class WaitRecord(Protocol):
    """Where it is said that somebody waits; see `db.stream_record.StreamRecord`."""

    def wait(self, name: str, key: str, why: str, since: datetime) -> None: ...

    def go_on(self, name: str) -> None: ...


class OffsetRecord(Protocol):
    """Where it is noted which messages are of which file; see `sent_offsets.SentOffsets`."""

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

    def admit(self, key: str, messages: int, meanwhile: Callable[[], None] | None = None) -> None:
        """Return when ``messages`` more of the file ``key`` may be sent; waits as long as that takes.

        When nothing waits for the stream any number is admitted, or a part larger than the limit would wait for ever.
        ``meanwhile`` is called again and again while it waits.
        """
        if self._room < messages or self._clock() - self._read_at > RENEW_S:
            self._await_room(key, messages, meanwhile)
        self._room -= messages

    def note_sent(self, source: S3Object, replay: str, ranges: Mapping[int, tuple[int, int]]) -> None:
        """Note where on the topic messages of a file lie; raises StoreUnavailable."""
        if ranges:
            self._sent.add(source.key, source.etag, replay, ranges)

    def _await_room(self, key: str, messages: int, meanwhile: Callable[[], None] | None) -> None:
        started, since = self._clock(), datetime.now(UTC)
        said, logged, told = started, started + SAY_S - LOG_S, False
        while (why := self._why_wait(messages)) is not None:
            now = self._clock()
            if now - logged >= LOG_S:
                log.info("%s waits with %s for %.0f s: %s", self.name, key, now - started, why)
                logged = now
            if now - said >= SAY_S:
                self._say(lambda reason=why: self._waits.wait(self.name, key, reason, since))  # type: ignore[misc]
                said, told = now, True
            if meanwhile is not None:
                meanwhile()
            self._sleep(POLL_S)
        if told:
            log.info("%s goes on with %s after %.0f s", self.name, key, self._clock() - started)
            self._say(lambda: self._waits.go_on(self.name))

    def _why_wait(self, messages: int) -> str | None:
        backlog = self._gauge.read()
        if backlog is None:
            return "Kafka doesn't tell what waits for the stream"
        self._read_at, self._room = self._clock(), backlog.room()
        return None if self._room >= messages or not backlog.total else str(backlog)

    @staticmethod
    def _say(speak: Callable[[], None]) -> None:
        try:
            speak()
        except StoreUnavailable as error:
            log.warning("nobody is told that the ingest waits: %s", error)


def flow_control(settings: Settings, name: str) -> FlowControl:
    """The back-pressure of this installation on an ingest or replay called ``name``."""
    bootstrap, dsn = settings.fleet.endpoints(Role.KAFKA, KAFKA_PORT), store_dsn(settings)
    return FlowControl(name, BacklogGauge(bootstrap), StreamRecord(dsn), SentOffsets(dsn))
