"""The offsets of each file's messages, to find the files of messages that Kafka deleted unread.

One row for each file, replay and partition: from the first message to the last. Messages of other files may lie in
between. So a range gives every file that is affected, and perhaps some that aren't. To send such a file again
changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta

from kintsugi.db.database import Database, fetch_as
from kintsugi.db.stream_record import subtract_ranges

KEPT = timedelta(days=40)

Range = tuple[int, int]  # first offset, and the one after the last


@dataclass(frozen=True, slots=True)
class SentFile:
    """A file with messages in a range. ``stored``: a later reconciliation found all its trades in Cassandra."""

    key: str
    etag: str
    replay: str
    first: int
    end: int
    stored: bool

    @property
    def needs_replay(self) -> bool:
        """False for an ingested file whose trades are all stored. True for a replay: it may have restored trades."""
        return bool(self.replay) or not self.stored


class SentOffsets(Database):
    """The offsets of one installation. Methods raise StoreUnavailable."""

    def add(self, key: str, etag: str, replay: str, ranges: Mapping[int, Range]) -> None:
        """Extend a file's ranges, by partition, by the ranges of messages that were just acknowledged."""
        with self.transaction() as connection:
            for partition, (first, end) in ranges.items():
                connection.execute(
                    "INSERT INTO sent_offsets AS known (key, etag, replay, partition, first, ends)"
                    " VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT (key, etag, replay, partition) DO UPDATE SET"
                    " first = least(known.first, excluded.first), ends = greatest(known.ends, excluded.ends),"
                    " at = excluded.at",
                    (key, etag, replay, partition, first, end),
                )

    def files_in(self, partition: int, first: int, end: int) -> list[SentFile]:
        """Return the files with messages in the range ``first`` to ``end`` - 1 of a partition, by key."""
        with self.transaction() as connection:
            return fetch_as(
                connection,
                SentFile,
                'SELECT s.key, s.etag, s.replay, s.first, s.ends AS "end",'
                " coalesce(l.reconciled_at > s.at, false) AS stored"
                " FROM sent_offsets AS s LEFT JOIN ledger_file AS l"
                " ON l.key = s.key AND l.etag = s.etag AND l.replay = '' AND s.replay = ''"
                " WHERE s.partition = %s AND s.first < %s AND s.ends > %s ORDER BY s.key, s.replay",
                (partition, end, first),
            )

    def known(self) -> set[tuple[str, str]]:
        """Return (key, ETag) of every file whose offsets are known."""
        with self.transaction() as connection:
            rows = connection.execute("SELECT DISTINCT key, etag FROM sent_offsets").fetchall()
        return {(row["key"], row["etag"]) for row in rows}

    def forget_old(self) -> None:
        """Delete the rows of messages that are older than the trades that Cassandra keeps."""
        with self.transaction() as connection:
            connection.execute("DELETE FROM sent_offsets WHERE at < clock_timestamp() - %s", (KEPT,))


def count_uncovered_offsets(lost: Range, files: Iterable[SentFile]) -> int:
    """Return how many offsets of the range belong to no known file."""
    return sum(
        end - first for first, end in subtract_ranges(lost, [(file.first, file.end) for file in files])
    )
