"""What a look at the step before Kafka finds: each rule on made-up listings and rows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import pytest

from kintsugi.core.errors import KintsugiError
from kintsugi.db.ledger_entry import FileState, LedgerEntry, Tally
from kintsugi.pipeline.ingest.intake_monitor import read_rules
from kintsugi.pipeline.ingest.intake_report import (
    FileNote,
    IntakeReport,
    IntakeRules,
    IntakeSurvey,
    assess_intake,
    missing_periods,
    needs_calendar,
)
from kintsugi.pipeline.object_listing import S3Object

NOW = datetime(2026, 11, 27, 18, tzinfo=UTC)  # the Friday after Thanksgiving
RULES = IntakeRules()
NAME = "UnderlyingOptionsTradesCalcs_"
# XNYS: no session on Thanksgiving, an early close on the day after.
SESSIONS = {
    date(2026, 11, day): datetime(2026, 11, day, 18 if day == 27 else 21, tzinfo=UTC)
    for day in (9, 10, 11, 12, 13, 16, 17, 18, 19, 20, 23, 24, 25, 27, 30)
}


def file(key: str, *, minutes: float = 60, etag: str = '"e"') -> S3Object:
    """A file that was put there ``minutes`` ago."""
    return S3Object(f"trades/{key}", etag, 1, NOW - timedelta(minutes=minutes))


def row(
    item: S3Object, state: FileState = FileState.DONE, tally: Tally | None = None, *,
    minutes: float = 30, attempts: int = 0, etag: str = "",
) -> LedgerEntry:  # fmt: skip
    at = NOW - timedelta(minutes=minutes)
    return LedgerEntry(
        item.key, etag or item.etag, state, tally or Tally(11, 10, 10, {}, 0, 10), "why", at,
        None if state is FileState.RUNNING else at, None, None, 1, modified=item.modified, attempts=attempts,
        updated_at=at, failing_since=at if attempts else None,
        retry_at=NOW + timedelta(minutes=1) if attempts else None,
    )  # fmt: skip


def look(files: Iterable[S3Object], rows: Iterable[LedgerEntry] = (), **more: object) -> IntakeReport:
    by_key: dict[tuple[str, str], list[LedgerEntry]] = {}
    for entry in rows:
        by_key.setdefault((entry.bucket, entry.key), []).append(entry)
    return assess_intake(IntakeSurvey(list(files)), by_key, {}, RULES, NOW, **more)  # type: ignore[arg-type]


def test_the_oldest_waiting_file_is_named_with_its_age() -> None:
    done, young, old = file("1.csv"), file(f"{NAME}2.csv", minutes=3), file(f"{NAME}3.csv", minutes=50)
    report = look([done, young, old], [row(done, minutes=40)])
    assert (report.waiting, report.oldest, report.oldest_waiting_s) == (2, old.key, 3000)
    assert report.waits_since == NOW - timedelta(minutes=40), "something came in since it waits"


def test_what_waited_before_anybody_looked_counts_from_there() -> None:
    since = NOW - timedelta(minutes=2)
    assert look([file("1.csv", minutes=10**6)], watched_since=since).waits_since == since
    assert look([]).waits_since is None


def test_a_file_that_s3_refuses_waits_and_is_named_though_its_pause_is_not_over() -> None:
    item = file("1.csv")
    report = look([item], [row(item, FileState.RUNNING, attempts=3)])
    assert (report.waiting, [note.said for note in report.retried]) == (1, ["why"])
    assert report.waits_since == item.modified, "a failed attempt is no progress"


def test_a_failed_file_is_named_until_other_content_is_there() -> None:
    item = file("1.csv")
    failed = row(item, FileState.FAILED)
    assert [(note.key, note.said) for note in look([item], [failed]).failed] == [(item.key, "why")]
    again = file("1.csv", etag='"f"', minutes=5)
    report = look([again], [failed])
    assert (report.failed_count, report.waiting) == (0, 1)
    assert look([again], [failed, row(again, minutes=2)]).failed_count == 0
    assert look([], [failed]).failed_count == 0, "it was removed"


def test_files_without_rows_and_with_many_rejected_rows_are_named_for_a_week() -> None:
    empty, bad, good = file("1.csv"), file("2.csv"), file("3.csv")
    rows = [
        row(empty, tally=Tally()), row(bad, tally=Tally(11, 10, 0, {"columns": 10})),
        row(good, tally=Tally(101, 100, 97, {"time": 3})),
    ]  # fmt: skip
    report = look([empty, bad, good], rows)
    assert [note.key for note in report.empty] == [empty.key]
    assert [(note.key, note.share) for note in report.rejected] == [(bad.key, 1.0)]
    assert report.rejected_share == pytest.approx(13 / 110)
    old = [
        row(item, tally=entry.tally, minutes=8 * 24 * 60)
        for item, entry in zip((empty, bad), rows, strict=False)
    ]
    report = look([empty, bad], old)
    assert (report.empty, report.rejected, report.rejected_share) == ([], [], None)


def test_a_reason_does_not_name_its_file_once_more() -> None:
    item = file("1.csv")
    for reason, said in (
        (f"{item.key} is empty; deliver it again", "is empty; deliver it again"),
        (f"{item.key} can't be read: {item.key}: no header", "can't be read: no header"),
        (
            f"{item.key} can't be read: a.csv in {item.key} is corrupt",
            "can't be read: a.csv in it is corrupt",
        ),
    ):
        failed = replace(row(item, FileState.FAILED), reason=reason)
        assert [note.said for note in look([item], [failed]).failed] == [said]


@pytest.mark.parametrize("reason", ["truncated", "corrupt", "expansion", "unsupported"])
def test_a_file_that_breaks_off_is_named_however_few_rows_that_counts_as(reason: str) -> None:
    item = file("1.csv")
    broken = row(item, tally=Tally(10_001, 10_000, 9_998, {reason: 1, "time": 1}), minutes=30 * 24 * 60)
    report = look([item], [broken])
    [note] = report.failed
    assert (report.failed_count, note.key, broken.damage) == (1, item.key, [reason])
    assert reason in note.said
    assert "9,998" in note.said
    assert broken.faulty


def test_synthetic_trades_are_left_out() -> None:
    item = file(f"canary/{NAME}2026-11-27_1_x.csv")
    assert look([item]).waiting == 0
    assert look([item], [row(item, FileState.FAILED)]).failed_count == 0


def test_a_report_survives_its_way_through_the_store() -> None:
    item = file("1.csv")
    report = look([item, file("2.csv")], [row(item, FileState.FAILED)], paused=True)
    report = IntakeReport.from_json({**report.to_json(), "of a later release": 1})
    assert (
        report.to_json() == look([item, file("2.csv")], [row(item, FileState.FAILED)], paused=True).to_json()
    )
    assert isinstance(report.failed[0], FileNote)


def delivered(*days: int, after_hours: float = 14) -> list[S3Object]:
    """Files of these days of November, each that many hours after the close of its session."""
    return [
        S3Object(
            f"trades/{NAME}2026-11-{day:02d}.zip", '"e"', 1,
            SESSIONS[date(2026, 11, day)] + timedelta(hours=after_hours),
        )
        for day in days
    ]  # fmt: skip


def test_a_session_without_a_file_is_missing_once_it_is_due() -> None:
    files = delivered(11, 12, 13, 16, 17, 18, 19, 20, 23)
    assert missing_periods(files, SESSIONS, RULES, NOW) == ["2026-11-24", "2026-11-25"]
    assert missing_periods(files, SESSIONS, RULES, datetime(2026, 11, 25, 12, tzinfo=UTC)) == []
    assert missing_periods([*files, *delivered(24, 25)], SESSIONS, RULES, NOW) == []


def test_a_holiday_and_a_weekend_miss_no_file() -> None:
    files = delivered(11, 12, 13, 16, 17, 18, 19, 20, 23, 24, 25)
    thanksgiving, sunday = datetime(2026, 11, 27, 12, tzinfo=UTC), datetime(2026, 11, 29, 12, tzinfo=UTC)
    assert missing_periods(files, SESSIONS, RULES, thanksgiving) == []
    assert missing_periods([*files, *delivered(27)], SESSIONS, RULES, sunday) == []


def test_a_gap_between_two_deliveries_is_missing() -> None:
    assert missing_periods(delivered(16, 17, 18, 20, 23, 24, 25), SESSIONS, RULES, NOW) == ["2026-11-19"]


def test_nothing_is_missing_where_no_delivery_is_established() -> None:
    sample = [S3Object(f"trades/{NAME}2024-10-0{day}.csv", '"e"', 1, NOW) for day in range(1, 9)]
    backfill = [S3Object(item.key, '"e"', 1, NOW) for item in delivered(9, 10, 11, 12, 13, 16, 17, 18)]
    for files in ([], sample, backfill, delivered(16, 17, 18, 19)):
        assert missing_periods(files, SESSIONS, RULES, NOW) == [], files


def test_a_delivery_that_usually_comes_late_is_waited_for() -> None:
    files = delivered(12, 13, 16, 17, 18, 19, 20, 23, after_hours=60)
    assert missing_periods(files, SESSIONS, RULES, datetime(2026, 11, 27, 8, tzinfo=UTC)) == []
    assert missing_periods(files, SESSIONS, RULES, NOW) == ["2026-11-24"]


def test_a_monthly_file_is_the_file_of_all_its_sessions() -> None:
    files = delivered(13, 16, 17, 18, 19, 20)
    month = S3Object(f"trades/{NAME}2026-11.zip", '"e"', 1, NOW)
    assert missing_periods(files, SESSIONS, RULES, NOW) == ["2026-11-23", "2026-11-24", "2026-11-25"]
    assert missing_periods([*files, month], SESSIONS, RULES, NOW) == []


def test_what_is_expected_can_be_said() -> None:
    never, daily = IntakeRules(delivery="none"), IntakeRules(delivery="daily")
    assert missing_periods(delivered(11, 12, 13, 16, 17, 18), SESSIONS, never, NOW) == []
    assert missing_periods(delivered(20, 24), SESSIONS, daily, NOW) == ["2026-11-23", "2026-11-25"]
    assert missing_periods([], SESSIONS, daily, NOW) == ["2026-11-25"], (
        "none came ever: the last one is missing"
    )
    assert missing_periods([], {}, daily, NOW) == []


def test_the_calendar_is_fetched_only_where_a_file_could_be_missing() -> None:
    assert needs_calendar(delivered(20), RULES, NOW)
    assert not needs_calendar([S3Object(f"trades/{NAME}2024-10-08.csv", '"e"', 1, NOW)], RULES, NOW)
    assert not needs_calendar([S3Object(f"trades/{NAME}2026-99-99.csv", '"e"', 1, NOW)], RULES, NOW)
    assert not needs_calendar(delivered(20), IntakeRules(delivery="none"), NOW)
    assert needs_calendar([], IntakeRules(delivery="daily"), NOW)


def test_rules_come_from_the_environment() -> None:
    found = read_rules({"KINTSUGI_INTAKE_WAITING_MINUTES": "5", "KINTSUGI_INTAKE_DELIVERY": "daily"})
    assert (found.waiting, found.delivery, found.due) == (timedelta(minutes=5), "daily", RULES.due)
    assert read_rules({}) == RULES


@pytest.mark.parametrize(
    ("name", "value"),
    [("REJECTED_SHARE", "5"), ("WAITING_MINUTES", "soon"), ("DUE_HOURS", "-1"), ("DELIVERY", "weekly")],
)
def test_a_value_that_cannot_be_used_is_named(name: str, value: str) -> None:
    with pytest.raises(KintsugiError, match=f"KINTSUGI_INTAKE_{name}={value}"):
        read_rules({f"KINTSUGI_INTAKE_{name}": value})
