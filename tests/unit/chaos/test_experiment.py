"""When chaos has come too late to be a night's."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from kintsugi.chaos.experiment import night_is_over

DUE = datetime(2026, 8, 4, 6, 0, tzinfo=UTC)


def test_a_night_that_was_missed_is_not_made_up_for_by_day() -> None:
    assert night_is_over("scheduled", DUE, DUE + timedelta(seconds=5)) is None
    assert night_is_over("scheduled", DUE, DUE + timedelta(minutes=59)) is None
    said = night_is_over("scheduled", DUE, DUE + timedelta(hours=10))
    assert said == "this run was due at 2026-08-04 06:00 UTC; nothing is broken 10 h later"


def test_who_starts_it_by_hand_gets_it_at_once() -> None:
    assert night_is_over("manual", DUE, DUE + timedelta(days=3)) is None
