"""The stream's progress over time: one row for each reading, kept for a week in the database.

The watch of the stream writes them, because it reads the stream every 5 s. The Pipeline Health page draws them.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from kintsugi.db.advisory_locks import FLOW_SAMPLE_TABLES
from kintsugi.db.database import Database

KEPT = timedelta(days=7)

_TABLE = """
CREATE TABLE IF NOT EXISTS flow_sample (
    at         timestamptz PRIMARY KEY,
    running    boolean,  -- null, here and below: nobody could tell
    committed  bigint,
    produced   bigint
)
"""


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
    """A week of samples; creates its table at first use. Methods raise StoreUnavailable."""

    _has_table = False

    def prepare(self) -> None:
        """Create the table if it is missing; several processes may call it at once."""
        with self.transaction() as connection:
            connection.execute("SELECT pg_advisory_xact_lock(%s)", (FLOW_SAMPLE_TABLES,))
            connection.execute(_TABLE)
        self._has_table = True

    def _need_table(self) -> None:
        if not self._has_table:
            self.prepare()

    def add(self, sample: FlowSample) -> None:
        """Write a sample (once for each time) and delete samples that are older than a week."""
        self._need_table()
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
        self._need_table()
        with self.transaction() as connection:
            rows = connection.execute(
                "SELECT DISTINCT ON (bucket) at, running, committed, produced FROM ("
                "  SELECT *, floor(extract(epoch FROM at - %(since)s)"
                "    / greatest(1, extract(epoch FROM clock_timestamp() - %(since)s) / %(most)s)) AS bucket"
                "  FROM flow_sample WHERE at >= %(since)s) AS counted"
                " ORDER BY bucket, at DESC",
                {"since": moment, "most": at_most},
            ).fetchall()
        return [FlowSample(**row) for row in rows]
