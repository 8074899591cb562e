"""The step before Kafka as words and figures: what Pipeline Health and ``kintsugi status`` say. Pure."""

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
    """What is said of the intake: how grave, one sentence, what to do, and since when (UTC).

    ``deed``: the action of the page that may help; None where there is none. ``report``: what it is said of.
    """

    level: Severity
    sentence: str
    advice: str = ""
    since: datetime | None = None
    deed: str | None = None
    report: IntakeReport | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values: ``level``, ``said``, and the fields of the report."""
        document = self.report.to_json() if self.report else {}
        said = " ".join(text for text in (self.sentence, self.advice) if text)
        return {"level": self.level.value, "said": said, **document}


def assess_intake(report: IntakeReport | None, rules: IntakeRules, now: datetime) -> Intake:
    """The first of these that applies, the gravest first; None: the watchdog has written no report yet.

    Failed, empty, mostly rejected or missing files, an intake that stands still, and files that S3 refuses need a
    person. Files with some rejected rows, and waiting files while the ingest is paused, should be known. What is not
    taken (checksums lie beside every file of some vendors) changes no level.
    """
    if report is None:
        return Intake(
            Severity.UNKNOWN, "the watchdog has not looked at S3 yet.", "It does so every few seconds."
        )
    if now - report.at > STALE_AFTER:
        level = Severity.BAD if now - report.at > rules.waiting else Severity.UNKNOWN
        said = f"the watchdog could not look at S3 since {report.at:%Y-%m-%d %H:%M} UTC."
        return Intake(level, said, "Is S3 away, or a permission? See watchdog.log.", report.at, report=report)
    for rule in (_failed, _stalled, _retried, _missing, _rejected, _paused):
        found = rule(report, rules)
        if found is not None:
            return found
    return Intake(Severity.WELL, "Files come in.", report=report)


def not_taken_line(report: IntakeReport) -> str:
    """Which objects beside the files are not taken; empty where there are none."""
    if not report.not_taken_count:
        return ""
    names = ", ".join(key.rpartition("/")[2] for key in report.not_taken[:5])
    more = " and others" if report.not_taken_count > 5 else ""
    return f"Not taken ({report.not_taken_count:,}): {names}{more}."


def _failed(report: IntakeReport, rules: IntakeRules) -> Intake | None:
    hollow = [*report.empty, *(note for note in report.rejected if note.share >= MOST_REJECTED)]
    count = report.failed_count + len(hollow)
    if not count:
        return None
    first = [*report.failed, *hollow][0]
    name, reason = first.key.rpartition("/")[2], first.said.rstrip(".")
    said = f"{_files(count)} can't be used as delivered, first {name}: {reason}."
    return Intake(
        Severity.BAD, said, "The other files come in. Deliver it again, or take it again once the reason is gone.",
        min(note.since for note in (*report.failed, *hollow)), "redrive", report,
    )  # fmt: skip


def _stalled(report: IntakeReport, rules: IntakeRules) -> Intake | None:
    span = waiting_for(report)
    if span is None or span < rules.waiting or report.paused:
        return None
    said = f"{_files(report.waiting)} wait, and none came in for {span.total_seconds() / 60:.0f} minutes."
    return Intake(Severity.BAD, said, "Look at ingest_trades in Airflow.", report.waits_since, report=report)


def _retried(report: IntakeReport, rules: IntakeRules) -> Intake | None:
    if not report.retried:
        return None
    first = min(report.retried, key=lambda note: note.since)
    late = report.at - first.since >= rules.waiting
    said = (
        f"S3 does not give {_files(len(report.retried))}, first {first.key.rpartition('/')[2]}: {first.said}"
    )
    advice = "It is tried again every few minutes. Is a permission missing?"
    return Intake(Severity.BAD if late else Severity.NOTE, said, advice, first.since, report=report)


def _missing(report: IntakeReport, rules: IntakeRules) -> Intake | None:
    if not report.missing:
        return None
    said = f"the file of a session is missing: {', '.join(report.missing[-3:])}."
    return Intake(Severity.BAD, said, "Ask the vendor.", report=report)


def _rejected(report: IntakeReport, rules: IntakeRules) -> Intake | None:
    if not report.rejected:
        return None
    first = report.rejected[0]
    said = f"{_files(len(report.rejected))} lost rows, first {first.key.rpartition('/')[2]}: {first.said}."
    return Intake(Severity.NOTE, said, "The dead letters hold them.", first.since, report=report)


def _paused(report: IntakeReport, rules: IntakeRules) -> Intake | None:
    if not report.paused or not report.waiting:
        return None
    said = f"{_files(report.waiting)} wait, and ingest_trades is paused."
    return Intake(Severity.NOTE, said, "Resume it in Airflow.", report.waits_since, report=report)


def _files(count: int) -> str:
    return "one file" if count == 1 else f"{count:,} files"


def notes_of(report: IntakeReport) -> Sequence[tuple[str, FileNote]]:
    """Every file that something is to be said of, with what it is, the gravest first."""
    kinds: Mapping[str, Sequence[FileNote]] = {
        "failed": report.failed,
        "empty": report.empty,
        "refused by S3": report.retried,
        "rows rejected": report.rejected,
    }
    return [(name, note) for name, notes in kinds.items() for note in notes]
