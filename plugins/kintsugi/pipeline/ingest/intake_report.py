"""The report on the intake, the step before Kafka: what waits, failed, was rejected or is missing. Pure.

`assess_intake` makes the report from one survey of the buckets and the ledger:

1. **Waiting**: files that the ingest has to take (`is_waiting`, but pauses don't count), and since when no file was
   ingested.
2. **Retried**: files for which S3 failed repeatedly.
3. **Failed**: files whose newest content can't be used or is damaged (`LedgerEntry.damage`), until it is delivered
   again, redriven or removed.
4. **Rejected** and **empty**: files of the last week with many rejected rows, or without a row.
5. **Missing**: sessions of the exchange for which a file is expected, but isn't there (`missing_periods`).
6. **Not taken**: companions of files and other products of the vendor, by name.

Synthetic trades are left out: whoever sends one waits for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import date, datetime, timedelta
from typing import Any

from kintsugi.core.data_source import S3Object
from kintsugi.core.file_names import ObjectKind, period_of
from kintsugi.db.ledger_entry import FileState, LedgerEntry, is_waiting
from kintsugi.pipeline.synthetic_trade import PREFIX as SYNTHETIC_PREFIX

SHOWN_FOR = timedelta(days=7)
SHARE_PERIOD = timedelta(days=1)
NAMED = 20
# A file that arrives within this time after its session belongs to a daily delivery, not to historical data.
TIMELY = timedelta(days=4)
MAX_SESSIONS = 10
MIN_TIMELY = 5
MARGIN = timedelta(hours=6)


@dataclass(frozen=True, slots=True)
class IntakeRules:
    """The limits above which the intake needs a person; docs/your-bucket.md explains the settings.

    ``waiting``: how long no file may be ingested while one waits; ``waiting_paused``: the same while the ingest is
    paused. ``rejected_share``: share of a file's rows. ``due``: time after the close of a session at which its file is
    missing. ``delivery``: ``auto``, ``daily`` or ``none``.
    """

    waiting: timedelta = timedelta(minutes=15)
    waiting_paused: timedelta = timedelta(days=1)
    rejected_share: float = 0.05
    due: timedelta = timedelta(hours=24)
    delivery: str = "auto"


@dataclass(frozen=True, slots=True)
class FileNote:
    """One file, and a sentence (``said``) about it.

    ``bucket``: empty for the installation's own. ``since`` in UTC. ``share``: rejected rows of all rows, 0 to 1. The
    fields are stored: a report is kept as JSON.
    """

    key: str
    said: str
    since: datetime
    kind: str = ObjectKind.TRADES.value
    bucket: str = ""
    share: float = 0.0


@dataclass(frozen=True, slots=True)
class IntakeSurvey:
    """The files in all buckets at one moment. ``eod_failed``: end-of-day files whose newest manifest says *failed*."""

    trades: Sequence[S3Object] = ()
    eod: Sequence[S3Object] = ()
    eod_waiting: int = 0
    eod_failed: Sequence[FileNote] = ()
    not_taken: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class IntakeReport:
    """The result of `assess_intake` at ``at`` (UTC). Counts are exact; up to NAMED notes and names are kept.

    ``oldest``: the waiting file that was put into its bucket first, at ``oldest_at``. ``waits_since``: since when it
    waits and no other file is ingested. ``rejected_share``: of the rows that were read in the last day, None without
    any. ``missing``: kind and day. ``paused``: the ingest is paused.
    """

    at: datetime
    waiting: int = 0
    oldest: str | None = None
    oldest_at: datetime | None = None
    waits_since: datetime | None = None
    eod_waiting: int = 0
    retried: Sequence[FileNote] = ()
    failed_count: int = 0
    failed: Sequence[FileNote] = ()
    rejected_share: float | None = None
    rejected: Sequence[FileNote] = ()
    empty: Sequence[FileNote] = ()
    missing: Sequence[str] = ()
    not_taken_count: int = 0
    not_taken: Sequence[str] = ()
    paused: bool = False

    @property
    def oldest_waiting_s(self) -> float:
        """The age of the oldest waiting file in seconds; 0 when none waits."""
        return (self.at - self.oldest_at).total_seconds() if self.oldest_at else 0.0

    def to_json(self) -> dict[str, Any]:
        """Return plain values, with times in ISO 8601."""
        return {name: _plain_value(value) for name, value in asdict(self).items()}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> IntakeReport:
        """Return the report that `to_json` wrote; fields that a later release added are ignored."""
        names = {entry.name for entry in fields(cls)}
        values = {name: value for name, value in document.items() if name in names}
        for name in ("at", "oldest_at", "waits_since"):
            values[name] = datetime.fromisoformat(values[name]) if values.get(name) else None
        for name in ("retried", "failed", "rejected", "empty"):
            values[name] = tuple(
                FileNote(**{**note, "since": datetime.fromisoformat(note["since"])})
                for note in values.get(name, ())
            )
        for name in ("missing", "not_taken"):
            values[name] = tuple(values.get(name, ()))
        return cls(**values)


def _plain_value(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, (tuple, list)):
        return [_plain_value(entry) for entry in value]
    if isinstance(value, dict):
        return {name: _plain_value(entry) for name, entry in value.items()}
    return value


@dataclass(slots=True)
class _SortedFiles:
    """The listed trade files, by what the ledger says of them."""

    waiting: list[S3Object] = field(default_factory=list)
    retried: list[LedgerEntry] = field(default_factory=list)
    failed: list[LedgerEntry] = field(default_factory=list)
    rejected: list[LedgerEntry] = field(default_factory=list)
    empty: list[LedgerEntry] = field(default_factory=list)


def assess_intake(
    survey: IntakeSurvey, rows: Mapping[tuple[str, str], Sequence[LedgerEntry]], sessions: Mapping[date, datetime],
    rules: IntakeRules, now: datetime, *, paused: bool = False, watched_since: datetime | None = None,
) -> IntakeReport:  # fmt: skip
    """Return the report on one survey.

    ``rows``: the ledger's entries (`IngestLedger.by_key`). ``sessions``: the exchange's sessions around ``now``: by
    day, the time of their close. Without sessions nothing is missing. ``watched_since``: the earliest ``waits_since``.
    """
    files = sort_files(survey.trades, rows, rules, now)
    oldest = min(files.waiting, key=lambda file: file.modified, default=None)
    entries = [entry for of_key in rows.values() for entry in of_key if not _is_synthetic(entry.key)]
    progress = max(
        (entry.updated_at for entry in entries if entry.updated_at and not entry.attempts), default=None
    )
    notes = [*(_file_note(entry, _failure_text(entry)) for entry in files.failed), *survey.eod_failed]
    return IntakeReport(
        at=now,
        waiting=len(files.waiting),
        oldest=oldest.key if oldest else None,
        oldest_at=oldest.modified if oldest else None,
        waits_since=max(at for at in (oldest.modified, progress, watched_since) if at) if oldest else None,
        eod_waiting=survey.eod_waiting,
        retried=[_file_note(entry, entry.reason or "", entry.failing_since) for entry in files.retried][:NAMED],
        failed_count=len(notes),
        failed=sorted(notes, key=lambda note: note.since, reverse=True)[:NAMED],
        rejected_share=rejected_share(entries, now),
        rejected=[_file_note(entry, _rejection_text(entry)) for entry in files.rejected][:NAMED],
        empty=[_file_note(entry, "it has no row") for entry in files.empty][:NAMED],
        missing=[
            f"{kind.value} {day}"
            for kind, files in ((ObjectKind.TRADES, survey.trades), (ObjectKind.EOD, survey.eod))
            for day in missing_periods(files, sessions, rules, now)
        ],
        not_taken_count=len(survey.not_taken),
        not_taken=list(survey.not_taken)[:NAMED],
        paused=paused,
    )  # fmt: skip


def sort_files(
    files: Iterable[S3Object],
    rows: Mapping[tuple[str, str], Sequence[LedgerEntry]],
    rules: IntakeRules,
    now: datetime,
) -> _SortedFiles:
    """Sort the listed trade files by what the ledger says of their newest content."""
    result = _SortedFiles()
    for file in files:
        if _is_synthetic(file.key):
            continue
        of_key = rows.get((file.bucket, file.key), ())
        entry = next((row for row in of_key if row.etag == file.etag), None)
        # A pause ends without anybody's action, so a paused file counts as waiting.
        if (
            entry is None
            or entry.state is FileState.RUNNING
            or is_waiting(file.etag, file.modified, of_key, now)
        ):
            result.waiting.append(file)
            if entry is not None and entry.attempts:
                result.retried.append(entry)
        elif entry.state is FileState.FAILED or entry.damage:
            result.failed.append(entry)
        elif entry.finished_at is not None and now - entry.finished_at < SHOWN_FOR:
            if entry.tally.read == 0:
                result.empty.append(entry)
            elif entry.rejected > rules.rejected_share * entry.tally.read:
                result.rejected.append(entry)
    return result


def rejected_share(entries: Iterable[LedgerEntry], now: datetime) -> float | None:
    """Return the share of rejected rows in the files that were finished in the last day; None without rows."""
    recent = [entry for entry in entries if entry.finished_at and now - entry.finished_at < SHARE_PERIOD]
    read = sum(entry.tally.read for entry in recent)
    return sum(entry.rejected for entry in recent) / read if read else None


def missing_periods(
    files: Iterable[S3Object], sessions: Mapping[date, datetime], rules: IntakeRules, now: datetime
) -> list[str]:
    """Return the sessions whose file is due and isn't there, as ISO days, oldest first.

    1. A file covers the day, or all days of the month, in its name.
    2. A session's file is due ``rules.due`` after its close. With ``auto`` it isn't due before the longest delay of the
       timely files of the last sessions, plus six hours.
    3. With ``auto`` nothing is missing unless files of MIN_TIMELY of the last MAX_SESSIONS sessions were TIMELY.
    4. Sessions before the first file aren't missing.
    """
    deliveries = first_deliveries(files)
    past = sorted(day for day, close in sessions.items() if close + rules.due <= now)[-MAX_SESSIONS:]
    delivered = {day: deliveries.get(day.isoformat(), deliveries.get(day.isoformat()[:7])) for day in past}
    delays = {day: at - sessions[day] for day, at in delivered.items() if at is not None}
    if rules.delivery == "none" or not past:
        return []
    due = rules.due
    if rules.delivery == "auto":
        timely = [delay for delay in delays.values() if delay <= TIMELY]
        if len(timely) < MIN_TIMELY:
            return []
        due = max(due, max(timely) + MARGIN)
    first = min(delays, default=past[-1])
    return [
        day.isoformat() for day in past if day >= first and delivered[day] is None and sessions[day] + due <= now
    ]  # fmt: skip


def first_deliveries(files: Iterable[S3Object]) -> dict[str, datetime]:
    """Return when the first file of each day or month in the names of ``files`` was put into its bucket (UTC)."""
    deliveries: dict[str, datetime] = {}
    for file in files:
        period = period_of(file.key)
        if period and not _is_synthetic(file.key):
            deliveries[period] = min(file.modified, deliveries.get(period, file.modified))
    return deliveries


def needs_calendar(files: Iterable[S3Object], rules: IntakeRules, now: datetime) -> bool:
    """Whether files may be missing: the delivery is daily, or a recent file arrived soon after its day."""
    if rules.delivery != "auto":
        return rules.delivery == "daily"
    for period, at in first_deliveries(files).items():
        if len(period) == len("2024-10-08") and now - at < timedelta(days=2 * MAX_SESSIONS):
            try:
                delay = at.date() - date.fromisoformat(period)
            except ValueError:
                continue
            if delay <= TIMELY + timedelta(days=1):
                return True
    return False


def _is_synthetic(key: str) -> bool:
    return key.startswith(SYNTHETIC_PREFIX)


def _file_note(entry: LedgerEntry, text: str, since: datetime | None = None) -> FileNote:
    share = entry.rejected / entry.tally.read if entry.tally.read else 0.0
    since = since or entry.finished_at or entry.started_at
    return FileNote(entry.key, text, since, bucket=entry.bucket, share=share)


def _failure_text(entry: LedgerEntry) -> str:
    if entry.state is FileState.FAILED:
        return remove_key(entry.reason or "", entry.key)
    damage, rows = ", ".join(entry.damage), entry.tally.accepted
    return f"the file is damaged ({damage}); only its first {rows:,} good rows were ingested"


def remove_key(reason: str, key: str) -> str:
    """Remove the file's ``key`` from a reason that is shown beside it."""
    return reason.replace(f"{key}: ", "").removeprefix(f"{key} ").replace(key, "it")


def _rejection_text(entry: LedgerEntry) -> str:
    reasons = sorted(entry.tally.rejected.items(), key=lambda item: -item[1])
    most = ", ".join(f"{reason} {count:,}" for reason, count in reasons[:3])
    return f"{entry.rejected:,} of {entry.tally.read:,} rows were rejected ({most})"
