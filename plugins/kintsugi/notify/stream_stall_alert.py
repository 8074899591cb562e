"""Is a person needed for the stream? Pure: from readings of the flow to a page.

The watch of the flow starts the driver again, which heals a driver that died or hangs. It doesn't heal a batch that
fails every time, nor more trades than the machine takes; then every node is well, and nothing is stored.

1. Messages wait, and none was committed for STANDS: longer than any repair takes that the flow waits for.
2. More than BEHIND messages wait, and for GROWS always more than at the beginning of that time.
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
    """What was seen of the stream so far; fed with readings in order of time, of which some may say nothing.

    ``_moved``: when the committed offsets last moved, and where they are since. ``_behind``: since when the lag has
    been above BEHIND and never lower than it was then, and what it was.
    """

    _moved: tuple[datetime, int] | None = None
    _behind: tuple[datetime, int] | None = None

    def observe(self, reading: FlowReading) -> Page | None:
        """The page that is due, with a key that is the same for as long as it is the same call; else None."""
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
            said = f"{lag:,} messages wait, {before:,} did {_minutes(at - since)} ago"
            return self._page("behind", since, at, said)
        return None

    def forget(self) -> None:
        """The stream isn't wanted: what was seen of it counts no longer."""
        self._moved = self._behind = None

    @staticmethod
    def _page(what: str, since: datetime, at: datetime, said: str) -> Page:
        reminder = int((at - since) / REMIND)
        title = {
            "still": f"The stream needs a person: nothing was stored for {_minutes(at - since)}",
            "behind": "The stream needs a person: it falls ever further behind",
        }[what]
        return Page(
            f"page/stream/{what}/{since:%Y%m%dT%H%M}/{reminder}",
            title,
            f"{said} (since {since:%H:%M:%S} UTC). They wait in Kafka, for {TOPIC_RETENTION_HOURS} hours "
            "at most; what it deletes before, another page names. The ingest waits meanwhile. The driver was started "
            "again by watch_flow as often as that could help. See `make status`: is a node sick? Else "
            "stream-trades.log of the Spark master's node names what fails.",
        )


def _minutes(span: timedelta) -> str:
    return f"{span.total_seconds() / 60:.0f} minutes"
