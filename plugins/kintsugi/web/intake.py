"""The intake (the step before Kafka) as words and figures, for Pipeline Health and ``kintsugi status``. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from kintsugi.notify.intake_paging_rules import waiting_for
from kintsugi.pipeline.ingest.intake_report import FileNote, IntakeReport, IntakeRules
from kintsugi.web.severity import Severity

STALE_AFTER = timedelta(minutes=5)
MOST_REJECTED = 0.5


@dataclass(frozen=True, slots=True)
class Intake:
    """The state of the intake: its level, one sentence, what to do, and since when (UTC).

    ``action``: the action of the page that can help, or None. ``report``: the report behind it.
    """

    level: Severity
    sentence: str
    advice: str = ""
    since: datetime | None = None
    action: str | None = None
    report: IntakeReport | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values: ``level``, ``said``, and the fields of the report."""
        document = self.report.to_json() if self.report else {}
        said = " ".join(text for text in (self.sentence, self.advice) if text)
        return {"level": self.level.value, "said": said, **document}


def assess_intake(report: IntakeReport | None, rules: IntakeRules, now: datetime) -> Intake:
    """The state from the first rule that applies, the most severe first; ``report`` None: there is no report yet.

    A person is needed for failed, empty, mostly rejected or missing files, for a stalled intake, and for files that S3
    does not return. Files with some rejected rows, and waiting files while the ingest is paused, are a note. Objects
    that are not ingested (some vendors put a checksum beside every file) change no level.
    """
    if report is None:
        return Intake(Severity.UNKNOWN, "the watchdog has not listed S3 yet.", "Wait a few seconds.")
    if now - report.at > STALE_AFTER:
        level = Severity.BAD if now - report.at > rules.waiting else Severity.UNKNOWN
        sentence = f"the watchdog can't list S3 since {report.at:%Y-%m-%d %H:%M} UTC."
        return Intake(
            level, sentence, "Check S3 and its permissions. See watchdog.log.", report.at, report=report
        )
    for rule in (
        _assess_failed_files,
        _assess_stall,
        _assess_retries,
        _assess_missing_files,
        _assess_rejected_rows,
        _assess_pause,
    ):
        intake = rule(report, rules)
        if intake is not None:
            return intake
    return Intake(Severity.WELL, "Files are ingested.", report=report)


def not_taken_line(report: IntakeReport) -> str:
    """The objects that are not ingested, as a line; empty when there are none."""
    if not report.not_taken_count:
        return ""
    names = ", ".join(_file_name(key) for key in report.not_taken[:5])
    more = " and others" if report.not_taken_count > 5 else ""
    return f"Not ingested ({report.not_taken_count:,}): {names}{more}."


def _assess_failed_files(report: IntakeReport, rules: IntakeRules) -> Intake | None:
    hollow = [*report.empty, *(note for note in report.rejected if note.share >= MOST_REJECTED)]
    count = report.failed_count + len(hollow)
    if not count:
        return None
    first = [*report.failed, *hollow][0]
    name, reason = _file_name(first.key), first.said.rstrip(".")
    sentence = f"{_count_files(count)} can't be used as delivered; the first is {name}: {reason}."
    return Intake(
        Severity.BAD, sentence, "Other files are ingested. Deliver it again; or fix the reason, then ingest it again.",
        min(note.since for note in (*report.failed, *hollow)), "redrive", report,
    )  # fmt: skip


def _assess_stall(report: IntakeReport, rules: IntakeRules) -> Intake | None:
    span = waiting_for(report)
    if span is None or span < rules.waiting or report.paused:
        return None
    minutes = f"{span.total_seconds() / 60:.0f} minutes"
    sentence = f"{_count_files(report.waiting)} wait, and none was ingested for {minutes}."
    return Intake(
        Severity.BAD, sentence, "Look at ingest_trades in Airflow.", report.waits_since, report=report
    )


def _assess_retries(report: IntakeReport, rules: IntakeRules) -> Intake | None:
    if not report.retried:
        return None
    first = min(report.retried, key=lambda note: note.since)
    late = report.at - first.since >= rules.waiting
    sentence = f"S3 fails for {_count_files(len(report.retried))}; the first is {_file_name(first.key)}: {first.said}"
    advice = "It is tried again every few minutes. Check the permissions of the bucket."
    return Intake(Severity.BAD if late else Severity.NOTE, sentence, advice, first.since, report=report)


def _assess_missing_files(report: IntakeReport, rules: IntakeRules) -> Intake | None:
    if not report.missing:
        return None
    sentence = f"the file of a session is missing: {', '.join(report.missing[-3:])}."
    return Intake(Severity.BAD, sentence, "Ask the vendor.", report=report)


def _assess_rejected_rows(report: IntakeReport, rules: IntakeRules) -> Intake | None:
    if not report.rejected:
        return None
    first = report.rejected[0]
    sentence = (
        f"{_count_files(len(report.rejected))} lost rows; the first is {_file_name(first.key)}: {first.said}."
    )
    return Intake(Severity.NOTE, sentence, "See `dead-letter/` in S3.", first.since, report=report)


def _assess_pause(report: IntakeReport, rules: IntakeRules) -> Intake | None:
    if not report.paused or not report.waiting:
        return None
    sentence = f"{_count_files(report.waiting)} wait, and ingest_trades is paused."
    return Intake(Severity.NOTE, sentence, "Unpause it in Airflow.", report.waits_since, report=report)


def _file_name(key: str) -> str:
    return key.rpartition("/")[2]


def _count_files(count: int) -> str:
    return "one file" if count == 1 else f"{count:,} files"


def notes_of(report: IntakeReport) -> Sequence[tuple[str, FileNote]]:
    """Every file with a problem and the kind of its problem, the most severe first."""
    kinds: Mapping[str, Sequence[FileNote]] = {
        "failed": report.failed,
        "empty": report.empty,
        "refused by S3": report.retried,
        "rows rejected": report.rejected,
    }
    return [(name, note) for name, notes in kinds.items() for note in notes]
