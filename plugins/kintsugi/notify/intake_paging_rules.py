"""When is a person needed for the intake? Pure: from a report of the step before Kafka to pages.

1. A file failed, has no rows, or lost more rows than ``IntakeRules.rejected_share``: one page for all of which none was
   written yet, and not more than one in PAUSE. Once a file and content.
2. A file waits, and nothing came in for ``IntakeRules.waiting``; while the ingest is paused, for a day.
3. S3 fails for a file again and again, for the same time.
4. A session of the exchange has no file: once a day and kind.
5. The buckets can't be looked at, for the same time as in 2.

What is not taken (companions of files, other products of the vendor) is shown and pages nobody.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import datetime, timedelta

from kintsugi.db.ingest_ledger import LedgerEntry, file_id
from kintsugi.notify.paging_rules import REMIND, Page
from kintsugi.pipeline.ingest.intake_report import FileNote, IntakeReport, IntakeRules

PAUSE = timedelta(minutes=5)
NAMED = 10
FILES_PAGE = "page/intake/files/"
WHERE = "See the intake on Pipeline Health, and `make status`."


def intake_pages(
    report: IntakeReport,
    unpaged: Sequence[LedgerEntry],
    rules: IntakeRules,
    last_paged: datetime | None = None,
) -> list[Page]:
    """The pages that a report justifies; a key is the same for as long as it is the same call.

    ``unpaged``: the ledger's rows of bad files that no page was written about; ``last_paged``: when the last one was.
    """
    found = [_stalled(report, rules), _retried(report, rules), *_eod_failed(report), *_missing(report)]
    if unpaged and (last_paged is None or report.at - last_paged >= PAUSE):
        found.append(_bad_files(report, unpaged))
    return [page for page in found if page is not None]


def _bad_files(report: IntakeReport, unpaged: Sequence[LedgerEntry]) -> Page:
    notes = {(note.bucket, note.key): note for note in (*report.empty, *report.rejected, *report.failed)}
    named = [note for entry in unpaged if (note := notes.get((entry.bucket, entry.key))) is not None]
    marks = "".join(
        sorted(f"{file_id(entry.key, entry.etag)}{entry.started_at.isoformat()}" for entry in unpaged)
    )
    count = len(unpaged)
    return Page(
        f"{FILES_PAGE}{hashlib.sha256(marks.encode()).hexdigest()[:16]}",
        f"{count} trade file{'s' if count > 1 else ''} can't be used as delivered",
        f"{_lines(named)}\nThe other files came in. Deliver the file again, or take it again from Pipeline Health once "
        f"the reason is gone. {WHERE}",
    )


def _eod_failed(report: IntakeReport) -> list[Page]:
    return [
        Page(
            f"page/intake/eod/{file_id(note.key, note.since.isoformat())}",
            "An end-of-day file can't be used as delivered",
            f"{_lines([note])}\nThe baseline lacks this day: trades are measured by an older one. {WHERE}",
        )
        for note in report.failed
        if note.kind == "eod"
    ]


def _stalled(report: IntakeReport, rules: IntakeRules) -> Page | None:
    span = waiting_for(report)
    if span is None or span < (rules.waiting_paused if report.paused else rules.waiting):
        return None
    minutes = f"{span.total_seconds() / 60:.0f} minutes"
    why = "ingest_trades is paused in Airflow." if report.paused else "Does ingest_trades run in Airflow?"
    first = f" S3 says of {report.retried[0].key}: {report.retried[0].said}" if report.retried else ""
    return Page(
        f"page/intake/waiting/{report.waits_since:%Y%m%dT%H%M}/{int(span / REMIND)}",
        f"No trade file came in for {minutes}, and {report.waiting} wait",
        f"The oldest is {report.oldest}, there since {report.oldest_at:%Y-%m-%d %H:%M} UTC. {why}{first} {WHERE}",
    )


def waiting_for(report: IntakeReport) -> timedelta | None:
    """How long a file has waited while nothing came in; None when none waits."""
    return None if report.waits_since is None else report.at - report.waits_since


def _retried(report: IntakeReport, rules: IntakeRules) -> Page | None:
    late = [note for note in report.retried if report.at - note.since >= rules.waiting]
    if not late:
        return None
    since = min(note.since for note in late)
    return Page(
        f"page/intake/retried/{since:%Y%m%dT%H%M}/{int((report.at - since) / REMIND)}",
        f"{len(late)} trade file{'s' if len(late) > 1 else ''} can't be read from S3",
        f"{_lines(late)}\nEach is tried again every few minutes. Is a permission missing? {WHERE}",
    )


def unseen_page(since: datetime, now: datetime, rules: IntakeRules, said: str) -> Page | None:
    """The page for buckets that couldn't be looked at from ``since`` on; ``said``: the last error."""
    if now - since < rules.waiting:
        return None
    return Page(
        f"page/intake/unseen/{since:%Y%m%dT%H%M}/{int((now - since) / REMIND)}",
        f"Nobody knows whether files come in: S3 can't be looked at since {since:%H:%M} UTC",
        f"{said}\nIf it is your bucket, look at the connection kintsugi_data (docs/your-bucket.md). {WHERE}",
    )


def _missing(report: IntakeReport) -> list[Page]:
    days: dict[str, list[str]] = {}
    for name in report.missing:
        kind, _, day = name.partition(" ")
        days.setdefault(day, []).append(kind)
    return [
        Page(
            f"page/intake/missing/{day}/{'+'.join(kinds)}",
            f"The file of {day} has not come ({' and '.join(kinds)})",
            f"The exchange had a session on {day}, and earlier days were delivered by now. Ask the vendor, or set "
            f"KINTSUGI_INTAKE_DELIVERY=none where no file is expected. {WHERE}",
        )
        for day, kinds in days.items()
    ]


def _lines(notes: Sequence[FileNote]) -> str:
    more = f"\nand {len(notes) - NAMED} more" if len(notes) > NAMED else ""
    return "\n".join(f"{note.key}: {note.said}" for note in notes[:NAMED]) + more
