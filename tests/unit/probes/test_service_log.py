"""Lines of a service's log: which were written when."""

from __future__ import annotations

from datetime import UTC, datetime

from kintsugi.probes.service_log import time_of, written_since

LINES = [
    "2026-08-01T02:14:59.999Z INFO  [main] early",
    "2026-08-01T04:15:00.000+02:00 ERROR [main] late",  # 02:15 UTC
    "\tat org.apache.cassandra.Some.where(Some.java:1)",
    "2026-08-01T09:00:00 no zone",
    "2026-08-01 a day is no time of a zone",
    "",
    "2026-08-01T02:16:00Z WARN  [main] later",
]


def test_only_lines_that_say_when_count_and_none_that_is_older() -> None:
    assert written_since(LINES, datetime(2026, 8, 1, 2, 15, tzinfo=UTC)) == [LINES[1], LINES[6]]


def test_a_time_needs_its_zone() -> None:
    assert [time_of(line) is None for line in LINES] == [False, False, True, True, True, True, False]
