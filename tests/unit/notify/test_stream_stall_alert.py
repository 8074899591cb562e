"""When a stream that stands still, or falls behind, calls a person."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from kintsugi.notify.paging_rules import Page
from kintsugi.notify.stream_stall_alert import BEHIND, StreamStallAlert
from kintsugi.probes.stream_progress import FlowReading

T0 = datetime(2026, 8, 1, 2, 0, tzinfo=UTC)


def watched(minutes: int, committed: int | None, produced: int | None) -> FlowReading:
    return FlowReading(T0 + timedelta(minutes=minutes), True, committed, produced)


def fed(*readings: FlowReading) -> list[Page | None]:
    stream = StreamStallAlert()
    return [stream.observe(reading) for reading in readings]


def test_a_stream_that_stores_nothing_for_a_quarter_of_an_hour_calls_once_and_reminds() -> None:
    found = fed(*(watched(minute, 1000, 1000 + 60 * minute) for minute in range(200)))
    assert found[:15] == [None] * 15
    pages = [page for page in found[15:] if page is not None]
    assert len(pages) == 185
    assert all(page.key.startswith("page/stream/still/") for page in pages)
    assert "15 minutes" in pages[0].title
    assert all(fact in pages[0].text for fact in ("900 ", "02:00:00 UTC"))
    assert len({page.key for page in pages}) == 2  # one call, and a reminder after two hours


def test_a_stream_that_stores_slowly_or_has_nothing_to_store_calls_nobody() -> None:
    assert not any(fed(*(watched(minute, 10 * minute, 10 * minute + 500) for minute in range(60))))
    assert not any(fed(*(watched(minute, 700, 700) for minute in range(60))))


def test_a_reading_that_could_not_be_taken_neither_calls_nor_forgives() -> None:
    away = [watched(minute, None, None) for minute in range(1, 15)]
    found = fed(watched(0, 5, 10), *away, watched(15, 5, 20))
    assert found[:-1] == [None] * 15
    assert found[-1] is not None


def test_what_moved_once_begins_anew() -> None:
    still = [watched(minute, 5, 10) for minute in range(14)]
    assert not any(fed(*still, watched(14, 6, 10), *(watched(minute, 6, 10) for minute in range(15, 29))))


def test_a_lag_that_only_grows_calls_after_half_an_hour() -> None:
    growing = [watched(minute, 1000 * minute, 1500 * minute + BEHIND + 1) for minute in range(40)]
    found = fed(*growing)
    assert found[:30] == [None] * 30
    page = found[30]
    assert page is not None
    assert page.key.startswith("page/stream/behind/")
    assert all(fact in page.text for fact in (f"{BEHIND + 1 + 15_000:,}", "30 minutes", f"{BEHIND + 1:,}"))


def test_a_large_lag_that_is_worked_off_calls_nobody() -> None:
    assert not any(fed(*(watched(minute, 2000 * minute, 500_000 + 1000 * minute) for minute in range(120))))


def test_a_stream_that_is_not_wanted_is_forgotten() -> None:
    stream = StreamStallAlert()
    assert stream.observe(watched(0, 5, 10)) is None
    stream.forget()
    assert stream.observe(watched(20, 5, 10)) is None
