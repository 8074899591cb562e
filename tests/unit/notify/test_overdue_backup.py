from __future__ import annotations

from datetime import UTC, datetime, timedelta

from kintsugi.notify.overdue_backup import OVERDUE_BACKUP, overdue_backup_page

MADE = datetime(2026, 11, 1, 12, tzinfo=UTC)
NIGHT = datetime(2026, 11, 10, 8, tzinfo=UTC)
SECOND = timedelta(seconds=1)


def test_two_nights_without_a_backup_page_once_a_day() -> None:
    assert overdue_backup_page(NIGHT, MADE, NIGHT + OVERDUE_BACKUP) is None
    first = overdue_backup_page(NIGHT, MADE, NIGHT + OVERDUE_BACKUP + SECOND)
    later = overdue_backup_page(NIGHT, MADE, NIGHT + OVERDUE_BACKUP + timedelta(hours=20))
    next_day = overdue_backup_page(NIGHT, MADE, NIGHT + OVERDUE_BACKUP + timedelta(days=1))
    assert first is not None
    assert later is not None
    assert next_day is not None
    assert first.key == later.key != next_day.key


def test_a_new_installation_has_two_days_for_its_first_backup() -> None:
    assert overdue_backup_page(None, MADE, MADE + OVERDUE_BACKUP) is None
    assert overdue_backup_page(None, MADE, MADE + OVERDUE_BACKUP + SECOND) is not None


def test_a_restored_one_has_two_days_too() -> None:
    restored = NIGHT + timedelta(days=9)
    assert overdue_backup_page(NIGHT, restored, restored + SECOND) is None
