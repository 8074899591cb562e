from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from kintsugi.db.ledger_entry import FileState, LedgerEntry, Tally
from kintsugi.notify.intake_paging_rules import FILES_PAGE, PAUSE, intake_pages, unseen_page
from kintsugi.pipeline.ingest.intake_report import FileNote, IntakeReport, IntakeRules

NOW = datetime(2026, 11, 27, 18, tzinfo=UTC)
RULES = IntakeRules()
FAILED = [FileNote(f"trades/{number}.csv", f"reason {number}", NOW) for number in range(3)]


def entry(number: int) -> LedgerEntry:
    at = NOW - timedelta(minutes=1)
    return LedgerEntry(f"trades/{number}.csv", '"e"', FileState.FAILED, Tally(), "why", at, at, None, None, 1)


def waiting(minutes: float, **more: object) -> IntakeReport:
    since = NOW - timedelta(minutes=minutes)
    return replace(
        IntakeReport(NOW, waiting=2, oldest="trades/1.csv", oldest_at=since, waits_since=since),
        **more,  # type: ignore[arg-type]
    )


def test_nothing_pages_while_files_come_in() -> None:
    assert intake_pages(IntakeReport(NOW, not_taken=["x.md5"], not_taken_count=1), [], RULES) == []
    assert intake_pages(waiting(14), [], RULES) == []


def test_every_bad_file_is_named_in_one_page_and_a_new_one_in_another() -> None:
    report = IntakeReport(NOW, failed=FAILED, failed_count=3)
    (page,) = intake_pages(report, [entry(0), entry(1)], RULES)
    assert page.key.startswith(FILES_PAGE)
    assert all(text in page.text for text in ("trades/0.csv", "reason 1"))
    assert "trades/2.csv" not in page.text, "one was written about it already"
    (again,) = intake_pages(report, [entry(1), entry(0)], RULES)
    assert again.key == page.key
    (other,) = intake_pages(report, [entry(2)], RULES)
    assert other.key != page.key
    assert intake_pages(report, [], RULES) == []


def test_a_bad_feed_does_not_page_with_each_look() -> None:
    report = IntakeReport(NOW, failed=FAILED, failed_count=3)
    assert intake_pages(report, [entry(2)], RULES, NOW - PAUSE / 2) == []
    assert len(intake_pages(report, [entry(2)], RULES, NOW - PAUSE)) == 1


def test_files_that_wait_while_nothing_comes_in_page_and_the_page_is_repeated() -> None:
    (page,) = intake_pages(waiting(16), [], RULES)
    assert "trades/1.csv" in page.text
    since = NOW - timedelta(minutes=16)
    later = replace(waiting(16), at=NOW + timedelta(hours=1))
    assert [one.key for one in intake_pages(later, [], RULES)] == [page.key]
    reminder = replace(waiting(16), at=since + timedelta(hours=2, minutes=1))
    assert [one.key for one in intake_pages(reminder, [], RULES)] != [page.key]


def test_a_paused_ingest_pages_after_a_day() -> None:
    assert intake_pages(waiting(23 * 60, paused=True), [], RULES) == []
    (page,) = intake_pages(waiting(25 * 60, paused=True), [], RULES)
    assert "paused" in page.text


def test_a_file_that_s3_refuses_pages_once_it_does_so_for_long() -> None:
    def refused(minutes: float) -> IntakeReport:
        return IntakeReport(
            NOW, retried=[FileNote("trades/1.csv", "AccessDenied", NOW - timedelta(minutes=minutes))]
        )

    assert intake_pages(refused(14), [], RULES) == []
    (page,) = intake_pages(refused(16), [], RULES)
    assert "AccessDenied" in page.text


def test_a_missing_day_pages_once_for_both_kinds() -> None:
    found = intake_pages(
        IntakeReport(NOW, missing=["trades 2026-11-24", "eod 2026-11-24", "eod 2026-11-25"]), [], RULES
    )
    assert [page.key.rpartition("missing/")[2] for page in found] == [
        "2026-11-24/trades+eod",
        "2026-11-25/eod",
    ]


def test_an_end_of_day_file_that_failed_pages_by_its_manifest() -> None:
    note = FileNote("eod/1.csv", "no rows", NOW, "eod")
    (page,) = intake_pages(IntakeReport(NOW, failed=[note], failed_count=1), [], RULES)
    assert "eod/1.csv" in page.text


def test_buckets_that_nobody_can_look_at_page() -> None:
    assert unseen_page(NOW - timedelta(minutes=14), NOW, RULES, "AccessDenied") is None
    page = unseen_page(NOW - timedelta(minutes=16), NOW, RULES, "AccessDenied")
    assert page is not None
    assert "AccessDenied" in page.text
