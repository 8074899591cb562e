from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from kintsugi.pipeline.ingest.intake_report import FileNote, IntakeReport, IntakeRules
from kintsugi.web.intake import assess_intake, not_taken_line, notes_of
from kintsugi.web.severity import Severity

NOW = datetime(2026, 11, 27, 18, tzinfo=UTC)
RULES = IntakeRules()


def note(share: float = 0.0, minutes: float = 1) -> FileNote:
    return FileNote("trades/2024-10-08/f.csv", "the reason", NOW - timedelta(minutes=minutes), share=share)


LONG = {"waiting": 2, "oldest": "f", "oldest_at": NOW, "waits_since": NOW - timedelta(minutes=16)}


@pytest.mark.parametrize(
    ("found", "level"),
    [
        ({}, Severity.WELL), ({"waiting": 3}, Severity.WELL),
        ({"not_taken_count": 4, "not_taken": ["x.md5"]}, Severity.WELL),
        ({"failed": [note()], "failed_count": 1}, Severity.BAD), ({"empty": [note()]}, Severity.BAD),
        ({"rejected": [note(0.1)]}, Severity.NOTE), ({"rejected": [note(1.0)]}, Severity.BAD),
        ({"retried": [note()]}, Severity.NOTE), ({"retried": [note(minutes=16)]}, Severity.BAD),
        (LONG, Severity.BAD), ({**LONG, "paused": True}, Severity.NOTE),
        ({"missing": ["trades 2026-11-25"]}, Severity.BAD),
    ],
)  # fmt: skip
def test_how_grave_it_is(found: dict[str, Any], level: Severity) -> None:
    seen = assess_intake(IntakeReport(NOW, **found), RULES, NOW)
    assert seen.level is level, seen


def test_the_file_is_named_and_an_action_offered() -> None:
    seen = assess_intake(IntakeReport(NOW, failed=[note()], failed_count=1), RULES, NOW)
    assert ("f.csv" in seen.sentence, "the reason" in seen.sentence, seen.action) == (True, True, "redrive")
    assert seen.to_json()["level"] == "bad"
    assert seen.to_json()["failed"][0]["key"] == "trades/2024-10-08/f.csv"


def test_nobody_says_well_who_has_not_looked() -> None:
    assert assess_intake(None, RULES, NOW).level is Severity.UNKNOWN
    assert assess_intake(IntakeReport(NOW), RULES, NOW + timedelta(minutes=6)).level is Severity.UNKNOWN
    assert assess_intake(IntakeReport(NOW), RULES, NOW + timedelta(minutes=16)).level is Severity.BAD


def test_what_is_not_taken_is_named() -> None:
    assert not_taken_line(IntakeReport(NOW)) == ""
    line = not_taken_line(
        IntakeReport(NOW, not_taken=["a/x.csv.md5", "b/Other_2024-10.csv"], not_taken_count=9)
    )
    assert all(text in line for text in ("9", "x.csv.md5", "Other_2024-10.csv"))


def test_the_gravest_files_come_first() -> None:
    report = IntakeReport(NOW, failed=[note()], rejected=[note()], empty=[note()])
    assert [what for what, _ in notes_of(report)] == ["failed", "empty", "rows rejected"]
