"""When the intake pages a person. Pure: from a report of the step before Kafka to pages.

1. A file failed, has no rows, or lost more rows than ``IntakeRules.rejected_share``. One page covers all such files
   without a page, at most one page in PAUSE. Each version of a file pages once.
2. A file waits, and no file was ingested for ``IntakeRules.waiting`` (for a day while the ingest is paused).
3. S3 fails for a file for the time of rule 2.
4. A session of the exchange has no file: one page for each day and kind.
5. The buckets can't be listed for the time of rule 2.

Objects that are not ingested (checksums beside files, other products of the vendor) are shown and do not page.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import datetime, timedelta

from kintsugi.db.ledger_entry import LedgerEntry, file_id
from kintsugi.notify.paging_rules import REMIND, Page
from kintsugi.pipeline.ingest.intake_report import FileNote, IntakeReport, IntakeRules

PAUSE = timedelta(minutes=5)
NAMED = 10
FILES_PAGE = "page/intake/files/"
WHERE = "See *Intake* on Pipeline Health, or `make status`."


def intake_pages(
    report: IntakeReport,
    unpaged: Sequence[LedgerEntry],
    rules: IntakeRules,
    last_paged: datetime | None = None,
) -> list[Page]:
    """The pages that a report requires; the key stays the same while the reason stays the same.

    ``unpaged``: the ledger's rows of bad files without a page; ``last_paged``: when the last page was written.
    """
    pages = [
        _stall_page(report, rules),
        _retry_page(report, rules),
        *_eod_pages(report),
        *_missing_file_pages(report),
    ]
    if unpaged and (last_paged is None or report.at - last_paged >= PAUSE):
        pages.append(_bad_files_page(report, unpaged))
    return [page for page in pages if page is not None]


def _bad_files_page(report: IntakeReport, unpaged: Sequence[LedgerEntry]) -> Page:
    notes = {(note.bucket, note.key): note for note in (*report.empty, *report.rejected, *report.failed)}
    named = [note for entry in unpaged if (note := notes.get((entry.bucket, entry.key))) is not None]
    marks = "".join(
        sorted(f"{file_id(entry.key, entry.etag)}{entry.started_at.isoformat()}" for entry in unpaged)
    )
    count = len(unpaged)
    return Page(
        f"{FILES_PAGE}{hashlib.sha256(marks.encode()).hexdigest()[:16]}",
        f"{count} trade file{'s' if count > 1 else ''} can't be used as delivered",
        f"{_format_notes(named)}\nThe other files were ingested. Deliver the file again. "
        f"Or fix the reason, then use *Ingest again…* on Pipeline Health. {WHERE}",
    )


def _eod_pages(report: IntakeReport) -> list[Page]:
    return [
        Page(
            f"page/intake/eod/{file_id(note.key, note.since.isoformat())}",
            "An end-of-day file can't be used as delivered",
            f"{_format_notes([note])}\nThis day is missing in the baseline: trades are compared with an older one. "
            f"{WHERE}",
        )
        for note in report.failed
        if note.kind == "eod"
    ]


def _stall_page(report: IntakeReport, rules: IntakeRules) -> Page | None:
    span = waiting_for(report)
    if span is None or span < (rules.waiting_paused if report.paused else rules.waiting):
        return None
    minutes = f"{span.total_seconds() / 60:.0f} minutes"
    why = (
        "ingest_trades is paused in Airflow."
        if report.paused
        else "Check that ingest_trades runs in Airflow."
    )
    first = f" S3 fails for {report.retried[0].key}: {report.retried[0].said}" if report.retried else ""
    return Page(
        f"page/intake/waiting/{report.waits_since:%Y%m%dT%H%M}/{int(span / REMIND)}",
        f"No trade file was ingested for {minutes}; {report.waiting} wait",
        f"The oldest is {report.oldest}, waiting since {report.oldest_at:%Y-%m-%d %H:%M} UTC. {why}{first} {WHERE}",
    )


def waiting_for(report: IntakeReport) -> timedelta | None:
    """How long files have waited while none was ingested; None when no file waits."""
    return None if report.waits_since is None else report.at - report.waits_since


def _retry_page(report: IntakeReport, rules: IntakeRules) -> Page | None:
    late = [note for note in report.retried if report.at - note.since >= rules.waiting]
    if not late:
        return None
    since = min(note.since for note in late)
    return Page(
        f"page/intake/retried/{since:%Y%m%dT%H%M}/{int((report.at - since) / REMIND)}",
        f"{len(late)} trade file{'s' if len(late) > 1 else ''} can't be read from S3",
        f"{_format_notes(late)}\nEach is tried again every few minutes. Check the permissions of the bucket. {WHERE}",
    )


def unseen_page(since: datetime, now: datetime, rules: IntakeRules, reason: str) -> Page | None:
    """The page for buckets that can't be listed since ``since``; ``reason``: the last error."""
    if now - since < rules.waiting:
        return None
    return Page(
        f"page/intake/unseen/{since:%Y%m%dT%H%M}/{int((now - since) / REMIND)}",
        f"S3 can't be listed since {since:%H:%M} UTC: new files may be waiting",
        f"{reason}\nIf it is your bucket, check the connection kintsugi_data (docs/your-bucket.md). {WHERE}",
    )


def _missing_file_pages(report: IntakeReport) -> list[Page]:
    days: dict[str, list[str]] = {}
    for name in report.missing:
        kind, _, day = name.partition(" ")
        days.setdefault(day, []).append(kind)
    return [
        Page(
            f"page/intake/missing/{day}/{'+'.join(kinds)}",
            f"The file of {day} is missing ({' and '.join(kinds)})",
            f"The exchange had a session on {day}. On earlier days the file had arrived by this time. Ask the vendor. "
            f"If you expect no files, set KINTSUGI_INTAKE_DELIVERY=none. {WHERE}",
        )
        for day, kinds in days.items()
    ]


def _format_notes(notes: Sequence[FileNote]) -> str:
    more = f"\nand {len(notes) - NAMED} more" if len(notes) > NAMED else ""
    return "\n".join(f"{note.key}: {note.said}" for note in notes[:NAMED]) + more
