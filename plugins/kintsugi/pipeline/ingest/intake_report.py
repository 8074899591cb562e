"""The step before Kafka: what waits, failed, was rejected or is missing. Pure.

`assess` makes a report of one look at the buckets and the ledger:

1. **Waiting**: files that the ingest has to take (`is_waiting`, its pause aside), and since when nothing came in.
2. **Retried**: files for which S3 failed, again and again.
3. **Failed**: files whose newest content can't be used, or breaks off (`LedgerEntry.damage`), until it is delivered
   again, re-driven or removed.
4. **Rejected** and **empty**: files of the last week of which many rows, or all, are missing.
5. **Missing**: sessions of the exchange without a file, where one is expected (`missing_periods`).
6. **Not taken**: companions of files and other products of the vendor, by name.

Synthetic trades are left out: who sends one waits for it.
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
SHARE_OF = timedelta(days=1)
NAMED = 20
# A file that comes within this time after its session is one of a running delivery, not of a history.
TIMELY = timedelta(days=4)
LOOKED_AT = 10
ESTABLISHED = 5
MARGIN = timedelta(hours=6)


@dataclass(frozen=True, slots=True)
class IntakeRules:
    """When something of the intake needs a person; docs/your-bucket.md has the settings.

    ``waiting``: so long may nothing come in while a file waits; ``waiting_paused``: the same while the ingest is
    paused. ``rejected_share``: of a file's rows. ``due``: so long after the close of its session a file is missing.
    ``delivery``: ``auto``, ``daily`` or ``none``.
    """

    waiting: timedelta = timedelta(minutes=15)
    waiting_paused: timedelta = timedelta(days=1)
    rejected_share: float = 0.05
    due: timedelta = timedelta(hours=24)
    delivery: str = "auto"


@dataclass(frozen=True, slots=True)
class FileNote:
    """One file and what is to be said of it.

    ``bucket``: empty for the installation's own. ``since`` in UTC. ``share``: rejected rows of all rows, 0 to 1.
    """

    key: str
    said: str
    since: datetime
    kind: str = ObjectKind.TRADES.value
    bucket: str = ""
    share: float = 0.0


@dataclass(frozen=True, slots=True)
class Survey:
    """What one look at all buckets found. ``eod_failed``: end-of-day files whose newest manifest says *failed*."""

    trades: Sequence[S3Object] = ()
    eod: Sequence[S3Object] = ()
    eod_waiting: int = 0
    eod_failed: Sequence[FileNote] = ()
    not_taken: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class IntakeReport:
    """What `assess` found at ``at`` (UTC). Counts are exact; of notes and names up to NAMED are kept.

    ``oldest``: the waiting file that was put into its bucket first, at ``oldest_at``; ``waits_since``: since when it
    waits and nothing came in. ``rejected_share``: of the rows that were read in the last day, None without any.
    ``missing``: a kind and a day each. ``paused``: the ingest is paused.
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
        """Plain values; times in ISO 8601."""
        return {name: _plain(value) for name, value in asdict(self).items()}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> IntakeReport:
        """The report that `to_json` made; what a later release added is left out."""
        known = {entry.name for entry in fields(cls)}
        values = {name: value for name, value in document.items() if name in known}
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


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, (tuple, list)):
        return [_plain(entry) for entry in value]
    if isinstance(value, dict):
        return {name: _plain(entry) for name, entry in value.items()}
    return value


@dataclass(slots=True)
class _Sorted:
    """The listed trade files by what the ledger says of them."""

    waiting: list[S3Object] = field(default_factory=list)
    retried: list[LedgerEntry] = field(default_factory=list)
    failed: list[LedgerEntry] = field(default_factory=list)
    rejected: list[LedgerEntry] = field(default_factory=list)
    empty: list[LedgerEntry] = field(default_factory=list)


def assess(
    survey: Survey, rows: Mapping[tuple[str, str], Sequence[LedgerEntry]], sessions: Mapping[date, datetime],
    rules: IntakeRules, now: datetime, *, paused: bool = False, watched_since: datetime | None = None,
) -> IntakeReport:  # fmt: skip
    """The report of one look.

    ``rows``: the ledger's (`IngestLedger.by_key`). ``sessions``: the exchange's around ``now``, by day, with their
    close; without any nothing is missing. ``watched_since``: what waited before that counts from there.
    """
    found = sort_files(survey.trades, rows, rules, now)
    oldest = min(found.waiting, key=lambda item: item.modified, default=None)
    entries = [entry for of_key in rows.values() for entry in of_key if not _is_synthetic(entry.key)]
    progress = max(
        (entry.updated_at for entry in entries if entry.updated_at and not entry.attempts), default=None
    )
    notes = [*(_note(entry, _failure(entry)) for entry in found.failed), *survey.eod_failed]
    return IntakeReport(
        at=now,
        waiting=len(found.waiting),
        oldest=oldest.key if oldest else None,
        oldest_at=oldest.modified if oldest else None,
        waits_since=max(at for at in (oldest.modified, progress, watched_since) if at) if oldest else None,
        eod_waiting=survey.eod_waiting,
        retried=[_note(entry, entry.reason or "", entry.failing_since) for entry in found.retried][:NAMED],
        failed_count=len(notes),
        failed=sorted(notes, key=lambda note: note.since, reverse=True)[:NAMED],
        rejected_share=rejected_share(entries, now),
        rejected=[_note(entry, _rejections(entry)) for entry in found.rejected][:NAMED],
        empty=[_note(entry, "no row was found in it") for entry in found.empty][:NAMED],
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
) -> _Sorted:
    """Each listed trade file under what the ledger says of its newest content."""
    found = _Sorted()
    for item in files:
        if _is_synthetic(item.key):
            continue
        of_key = rows.get((item.bucket, item.key), ())
        entry = next((row for row in of_key if row.etag == item.etag), None)
        # A pause ends by itself, so a file in its pause waits as well.
        if (
            entry is None
            or entry.state is FileState.RUNNING
            or is_waiting(item.etag, item.modified, of_key, now)
        ):
            found.waiting.append(item)
            if entry is not None and entry.attempts:
                found.retried.append(entry)
        elif entry.state is FileState.FAILED or entry.damage:
            found.failed.append(entry)
        elif entry.finished_at is not None and now - entry.finished_at < SHOWN_FOR:
            if entry.tally.read == 0:
                found.empty.append(entry)
            elif entry.rejected > rules.rejected_share * entry.tally.read:
                found.rejected.append(entry)
    return found


def rejected_share(entries: Iterable[LedgerEntry], now: datetime) -> float | None:
    """Rejected rows of all rows of the files that were finished in the last day; None when there were no rows."""
    lately = [entry for entry in entries if entry.finished_at and now - entry.finished_at < SHARE_OF]
    read = sum(entry.tally.read for entry in lately)
    return sum(entry.rejected for entry in lately) / read if read else None


def missing_periods(
    files: Iterable[S3Object], sessions: Mapping[date, datetime], rules: IntakeRules, now: datetime
) -> list[str]:
    """The sessions whose file is due and isn't there, as ISO days, oldest first.

    1. A file covers the day, or all days of the month, in its name.
    2. A session's file is due ``rules.due`` after its close; with ``auto`` not before the latest of the timely files
       of the last sessions came after theirs, and six hours more.
    3. With ``auto`` nothing is missing unless ESTABLISHED of the last LOOKED_AT sessions were delivered within TIMELY.
    4. Nothing is missing from before the first file among those sessions.
    """
    came = first_deliveries(files)
    past = sorted(day for day, close in sessions.items() if close + rules.due <= now)[-LOOKED_AT:]
    covered = {day: came.get(day.isoformat(), came.get(day.isoformat()[:7])) for day in past}
    late = {day: at - sessions[day] for day, at in covered.items() if at is not None}
    if rules.delivery == "none" or not past:
        return []
    due = rules.due
    if rules.delivery == "auto":
        timely = [span for span in late.values() if span <= TIMELY]
        if len(timely) < ESTABLISHED:
            return []
        due = max(due, max(timely) + MARGIN)
    first = min(late, default=past[-1])
    return [
        day.isoformat() for day in past if day >= first and covered[day] is None and sessions[day] + due <= now
    ]  # fmt: skip


def first_deliveries(files: Iterable[S3Object]) -> dict[str, datetime]:
    """When the first file of each day or month in the names of ``files`` was put into its bucket (UTC)."""
    came: dict[str, datetime] = {}
    for item in files:
        period = period_of(item.key)
        if period and not _is_synthetic(item.key):
            came[period] = min(item.modified, came.get(period, item.modified))
    return came


def needs_calendar(files: Iterable[S3Object], rules: IntakeRules, now: datetime) -> bool:
    """Whether anything could be missing: files are expected, or a young file came soon after its day."""
    if rules.delivery != "auto":
        return rules.delivery == "daily"
    for period, at in first_deliveries(files).items():
        if len(period) == len("2024-10-08") and now - at < timedelta(days=2 * LOOKED_AT):
            try:
                late = at.date() - date.fromisoformat(period)
            except ValueError:
                continue
            if late <= TIMELY + timedelta(days=1):
                return True
    return False


def _is_synthetic(key: str) -> bool:
    return key.startswith(SYNTHETIC_PREFIX)


def _note(entry: LedgerEntry, said: str, since: datetime | None = None) -> FileNote:
    at = since or entry.finished_at or entry.started_at
    share = entry.rejected / entry.tally.read if entry.tally.read else 0.0
    return FileNote(entry.key, said, at, bucket=entry.bucket, share=share)


def _failure(entry: LedgerEntry) -> str:
    if entry.state is FileState.FAILED:
        return without_name(entry.reason or "", entry.key)
    return f"the file is damaged ({', '.join(entry.damage)}); only its first {entry.tally.accepted:,} good rows came in"


def without_name(reason: str, key: str) -> str:
    """A reason to be read beside the file's ``key``: it doesn't name the file once more."""
    return reason.replace(f"{key}: ", "").removeprefix(f"{key} ").replace(key, "it")


def _rejections(entry: LedgerEntry) -> str:
    reasons = sorted(entry.tally.rejected.items(), key=lambda item: -item[1])
    most = ", ".join(f"{reason} {count:,}" for reason, count in reasons[:3])
    return f"{entry.rejected:,} of {entry.tally.read:,} rows were rejected ({most})"
