"""When the stream pages a person. Pure: from readings of the flow to a page.

The watch of the flow restarts the driver, which recovers a driver that died or hangs. A restart does not help when a
batch fails every time, or when more trades arrive than the machine can store. Then every node is ready, and the lag
does not shrink.

1. Messages wait, and none was committed for STANDS, which is longer than any repair that the flow waits for.
2. More than BEHIND messages wait, and for GROWS the lag was never below its value at the start of that time.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from kintsugi.notify.paging_rules import REMIND, Page
from kintsugi.pipeline.schema import TOPIC_RETENTION_HOURS
from kintsugi.probes.stream_progress import FlowReading

STANDS = timedelta(minutes=15)
GROWS = timedelta(minutes=30)
BEHIND = 50_000


@dataclass(slots=True)
class StreamStallAlert:
    """The state of the stream so far, from readings in order of time; a reading may be empty.

    ``_moved``: when the committed offsets last moved, and their sum. ``_behind``: since when the lag has been above
    BEHIND and never below its value at that time, and that value.
    """

    _moved: tuple[datetime, int] | None = None
    _behind: tuple[datetime, int] | None = None

    def observe(self, reading: FlowReading) -> Page | None:
        """The page that is due, else None; the key stays the same while the reason stays the same."""
        lag, at, committed = reading.lag, reading.at, reading.committed
        if lag is None or committed is None:
            return None
        if self._moved is None or committed != self._moved[1] or lag == 0:
            self._moved = (at, committed)
        since = self._moved[0]
        if at - since >= STANDS:
            return self._page("still", since, at, f"{lag:,} messages wait, and none was stored")
        if lag <= BEHIND:
            self._behind = None
        elif self._behind is None or lag < self._behind[1]:
            self._behind = (at, lag)
        if self._behind is not None and at - self._behind[0] >= GROWS:
            since, before = self._behind
            reason = f"{lag:,} messages wait; {_format_minutes(at - since)} ago it was {before:,}"
            return self._page("behind", since, at, reason)
        return None

    def forget(self) -> None:
        """Reset the state, because the stream does not have to run."""
        self._moved = self._behind = None

    @staticmethod
    def _page(what: str, since: datetime, at: datetime, reason: str) -> Page:
        reminder = int((at - since) / REMIND)
        title = {
            "still": f"The stream needs a person: nothing was stored for {_format_minutes(at - since)}",
            "behind": "The stream needs a person: its lag keeps growing",
        }[what]
        return Page(
            f"page/stream/{what}/{since:%Y%m%dT%H%M}/{reminder}",
            title,
            f"{reason} (since {since:%H:%M:%S} UTC). Kafka keeps them for {TOPIC_RETENTION_HOURS} hours; if it deletes "
            "one before it is stored, another page is sent. The ingest waits meanwhile. watch_flow has restarted the "
            "driver as often as a restart can help. Check in `make status` whether a node is down. If not, read "
            "stream-trades.log of the Spark master's node.",
        )


def _format_minutes(span: timedelta) -> str:
    return f"{span.total_seconds() / 60:.0f} minutes"
