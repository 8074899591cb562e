"""The stream's progress over time: one row for each reading, kept for a week in the database.

The watch of the stream writes them, because it reads the stream every 5 s. The Pipeline Health page draws them.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from kintsugi.db.database import Database, fetch_as

KEPT = timedelta(days=7)


@dataclass(frozen=True, slots=True)
class FlowSample:
    """The stream at ``at`` (UTC); None means unknown.

    ``running``: the application holds cores. ``committed``, ``produced``: messages stored, and messages in the
    topic, both as sums of offsets over its partitions.
    """

    at: datetime
    running: bool | None
    committed: int | None
    produced: int | None

    @property
    def lag(self) -> int | None:
        """The number of messages that are produced but not yet stored."""
        if self.produced is None or self.committed is None:
            return None
        return max(0, self.produced - self.committed)


class FlowSamples(Database):
    """A week of samples. Methods raise StoreUnavailable."""

    def add(self, sample: FlowSample) -> None:
        """Write a sample (once for each time) and delete samples that are older than a week."""
        with self.transaction() as connection:
            connection.execute(
                "INSERT INTO flow_sample (at, running, committed, produced) VALUES (%s, %s, %s, %s)"
                " ON CONFLICT (at) DO NOTHING",
                (sample.at, sample.running, sample.committed, sample.produced),
            )
            connection.execute("DELETE FROM flow_sample WHERE at < %s", (sample.at - KEPT,))

    def since(self, moment: datetime, *, at_most: int = 720) -> list[FlowSample]:
        """Return samples since ``moment``, oldest first, thinned evenly in time to about ``at_most``.

        The last sample of each interval is returned, so the newest sample is always included.
        """
        with self.transaction() as connection:
            return fetch_as(
                connection,
                FlowSample,
                "SELECT DISTINCT ON (bucket) at, running, committed, produced FROM ("
                "  SELECT *, floor(extract(epoch FROM at - %(since)s)"
                "    / greatest(1, extract(epoch FROM clock_timestamp() - %(since)s) / %(most)s)) AS bucket"
                "  FROM flow_sample WHERE at >= %(since)s) AS counted"
                " ORDER BY bucket, at DESC",
                {"since": moment, "most": at_most},
            )
