"""Gaps in what is stored, from readings of the stream's offsets and from the batches that the driver logged."""

from __future__ import annotations

from datetime import datetime

from benchmarks.rotation_test import describe_gaps, measure_gaps_s, read_batches
from benchmarks.throughput.meters import StreamReading


def readings(*pairs: tuple[float, int]) -> list[StreamReading]:
    return [StreamReading(at, produced=stored + 10, stored=stored) for at, stored in pairs]


def test_a_gap_lasts_from_one_increase_to_the_next_and_the_longest_comes_first() -> None:
    assert measure_gaps_s(readings((0, 0), (1, 5), (2, 5), (7, 9), (8, 10))) == [6, 1, 1]


def test_time_without_a_reading_is_part_of_a_gap() -> None:
    assert measure_gaps_s(readings((0, 0), (1, 5), (9, 6))) == [8, 1]


def test_the_time_after_the_last_increase_is_a_gap() -> None:
    assert measure_gaps_s(readings((0, 0), (1, 5), (4, 5), (6.5, 5))) == [5.5, 1]


def test_without_a_reading_there_is_no_gap() -> None:
    assert measure_gaps_s([]) == []


def test_the_report_counts_the_gaps_over_the_limit() -> None:
    found = describe_gaps(readings((0, 0), (5, 50), (10.5, 100), (20, 200)))
    assert found == {
        "seconds": 20,
        "stored_per_s": 10.0,
        "longest_gaps_s": [9.5, 5.5, 5.0],
        "gaps_over_limit": 2,
        "most_lag": 10,
    }


LOG = """\
2026-11-30T10:17:50.000000+00:00 2026-11-30 10:17:50,000 INFO stream_trades: batch 628: 999 trades, 0 unusual
2026-11-30T10:17:51.250000+00:00 2026-11-30 10:17:51,250 INFO stream_trades: batch 629: 1000 trades, 0 unusual
2026-11-30T10:17:51.300000+00:00 2026-11-30T10:17:51.300Z WARN ProcessingTimeExecutor: Current batch is falling behind.
2026-11-30T10:17:56.250000+00:00 2026-11-30 10:17:56,250 INFO stream_trades: batch 630: 2770 trades, 0 unusual
2026-11-30T10:18:00.000000+00:00 2026-11-30 10:18:00,000 INFO stream_trades: batch 631: 999 trades, 0 unusual
"""


def test_batches_of_the_drivers_log_count_in_their_time_only() -> None:
    begin, end = (
        datetime.fromisoformat(f"2026-11-30T10:17:{second}+00:00").timestamp() for second in (51, 59)
    )
    batches = read_batches(LOG.splitlines(), begin, end)
    assert [batch.stored for batch in batches] == [1000, 3770]
    assert measure_gaps_s(batches) == [5.0]
