"""The flow over time: one row each reading, kept for a week, in the store's database.

The watch of the flow writes them (it reads the stream every 5 s anyway), the Pipeline Health page draws them.
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
    """The stream at ``at`` (UTC); None where it couldn't be found out.

    ``running``: the application holds cores. ``committed``, ``produced``: messages stored, and messages in the
    topic, both as sums of offsets over its partitions.
    """

    at: datetime
    running: bool | None
    committed: int | None
    produced: int | None

    @property
    def lag(self) -> int | None:
        """Messages produced but not yet stored."""
        if self.produced is None or self.committed is None:
            return None
        return max(0, self.produced - self.committed)


class FlowSamples(Database):
    """A week of samples; makes its table at first use. Methods raise StoreUnavailable."""

    _has_table = False

    def prepare(self) -> None:
        """Make the table where it is missing; safe to race."""
        with self.transaction() as connection:
            connection.execute("SELECT pg_advisory_xact_lock(%s)", (FLOW_SAMPLE_TABLES,))
            connection.execute(_TABLE)
        self._has_table = True

    def _need_table(self) -> None:
        if not self._has_table:
            self.prepare()

    def add(self, sample: FlowSample) -> None:
        """Write a sample (the same moment is written once) and drop what is older than a week."""
        self._need_table()
        with self.transaction() as connection:
            connection.execute(
                "INSERT INTO flow_sample (at, running, committed, produced) VALUES (%s, %s, %s, %s)"
                " ON CONFLICT (at) DO NOTHING",
                (sample.at, sample.running, sample.committed, sample.produced),
            )
            connection.execute("DELETE FROM flow_sample WHERE at < %s", (sample.at - KEPT,))

    def since(self, moment: datetime, *, at_most: int = 720) -> list[FlowSample]:
        """Samples since ``moment``, oldest first, thinned evenly in time to ``at_most`` or a few more.

        Of each stretch of time the last sample is kept, and the newest of all is always there.
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
