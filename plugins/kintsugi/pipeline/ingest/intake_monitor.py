"""Monitor the intake, the step before Kafka: one report on buckets, manifests and ledger, which is kept in Postgres.

The watchdog makes the report. Pipeline Health, ``kintsugi status`` and the metrics read it.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

from kintsugi.core.connections import data_sources, s3_client, store_dsn
from kintsugi.core.data_source import DataSource, S3Object
from kintsugi.core.errors import KintsugiError
from kintsugi.core.file_names import ObjectKind, kind_of
from kintsugi.core.rejections import damage_in
from kintsugi.core.s3_keys import S3Purpose
from kintsugi.core.settings import BUCKET
from kintsugi.db.intake import IntakeStore
from kintsugi.db.ledger_entry import LedgerEntry
from kintsugi.pipeline.ingest.exchange_sessions import sessions_around
from kintsugi.pipeline.ingest.intake_report import (
    FileNote,
    IntakeReport,
    IntakeRules,
    IntakeSurvey,
    assess_intake,
    needs_calendar,
    remove_key,
)
from kintsugi.pipeline.object_listing import list_objects
from kintsugi.pipeline.stream.baselines import EOD_MANIFESTS, NEVER, manifest_key

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

log = logging.getLogger(__name__)

PAUSE_FACTOR = 50  # reports take at most a fiftieth of the time
MIN_PAUSE_S = 14.0
CALENDAR_EVERY = timedelta(days=1)


def read_rules(environment: Mapping[str, str] = os.environ) -> IntakeRules:
    """Read the rules from ``KINTSUGI_INTAKE_*``; raises KintsugiError, which names the invalid value."""
    defaults = IntakeRules()

    def read_number(name: str, default: float, at_most: float) -> float:
        text = environment.get(f"KINTSUGI_INTAKE_{name}") or str(default)
        try:
            value = float(text)
        except ValueError:
            value = -1.0
        if not 0 <= value <= at_most:
            raise KintsugiError(f"KINTSUGI_INTAKE_{name}={text}: give a number from 0 to {at_most:g}")
        return value

    delivery = environment.get("KINTSUGI_INTAKE_DELIVERY") or defaults.delivery
    if delivery not in ("auto", "daily", "none"):
        raise KintsugiError(f"KINTSUGI_INTAKE_DELIVERY={delivery}: give auto, daily or none")
    return IntakeRules(
        waiting=timedelta(minutes=read_number("WAITING_MINUTES", defaults.waiting.total_seconds() / 60, 1e6)),
        rejected_share=read_number("REJECTED_SHARE", defaults.rejected_share, 1),
        due=timedelta(hours=read_number("DUE_HOURS", defaults.due.total_seconds() / 3600, 1e4)),
        delivery=delivery,
    )


@dataclass(slots=True)
class IntakeMonitor:
    """Makes the intake reports of one process. ``s3``: the installation's own bucket, with the manifests."""

    s3: S3Client
    sources: Sequence[DataSource]
    store: IntakeStore
    rules: IntakeRules = field(default_factory=read_rules)
    clock: Callable[[], float] = time.monotonic
    since: datetime = field(default_factory=lambda: datetime.now(UTC))
    _due: float = 0.0
    _manifests: dict[str, tuple[datetime, FileNote | None]] = field(default_factory=dict)
    _calendar_at: datetime | None = None

    def make_report(self, *, paused: bool = False) -> tuple[IntakeReport, list[LedgerEntry]] | None:
        """Make and store a report; returns it with the files that nobody was paged about. None if none is due yet.

        ``paused``: the ingest is paused. Raises what S3 and Postgres raise.
        """
        started = self.clock()
        if started < self._due:
            return None
        now = datetime.now(UTC)
        survey = self.survey()
        rows = self.store.by_key()
        report = assess_intake(
            survey,
            rows,
            self._sessions(survey, now),
            self.rules,
            now,
            paused=paused,
            watched_since=self.since,
        )
        self.store.write_report(now, report.to_json())
        self._due = self.clock() + max(MIN_PAUSE_S, PAUSE_FACTOR * (self.clock() - started))
        noted = {(note.bucket, note.key) for note in (*report.failed, *report.rejected, *report.empty)}
        newest = (of_key[-1] for file, of_key in rows.items() if of_key and file in noted)
        return report, [entry for entry in newest if entry.paged_at is None]

    def survey(self) -> IntakeSurvey:
        """List each prefix of each source once."""
        files: dict[ObjectKind, list[S3Object]] = {kind: [] for kind in ObjectKind}
        for source in self.sources:
            for prefix in sorted(set(source.prefixes.values())):
                for item in list_objects(source.client, source.bucket, prefix):
                    file = S3Object(item["Key"], item["ETag"], item["Size"], item["LastModified"], source)
                    files[kind_of(file.key)].append(file)
        waiting, failed = self._check_manifests(files[ObjectKind.EOD])
        not_taken = (*files[ObjectKind.COMPANION], *files[ObjectKind.OTHER_PRODUCT])
        return IntakeSurvey(
            files[ObjectKind.TRADES],
            files[ObjectKind.EOD],
            waiting,
            failed,
            sorted(file.key for file in not_taken),
        )

    def _check_manifests(self, files: Iterable[S3Object]) -> tuple[int, list[FileNote]]:
        """Return how many end-of-day files have no manifest yet, and a note on each whose manifest says it failed."""
        modified = {
            item["Key"]: item["LastModified"] for item in list_objects(self.s3, BUCKET, EOD_MANIFESTS)
        }
        waiting, failed = 0, []
        for file in files:
            name = manifest_key(file.key, file.etag)
            if modified.get(name, NEVER) < file.modified:
                waiting += 1
            elif (note := self._failure_note(name, modified[name], file)) is not None:
                failed.append(note)
        self._manifests = {name: value for name, value in self._manifests.items() if name in modified}
        return waiting, failed

    def _failure_note(self, name: str, modified: datetime, file: S3Object) -> FileNote | None:
        """Return what the manifest of an end-of-day file says of its failure; each manifest is read once."""
        cached = self._manifests.get(name)
        if cached is not None and cached[0] == modified:
            return cached[1]
        manifest: dict[str, Any] = json.loads(self.s3.get_object(Bucket=BUCKET, Key=name)["Body"].read())
        damage = damage_in(manifest.get("rejected", {}))
        text = remove_key(str(manifest.get("reason") or "no reason was recorded"), file.key)
        if damage:
            text = f"the file is damaged ({', '.join(damage)}): {text}"
        note = None
        if manifest.get("state") == "failed" or damage:
            note = FileNote(file.key, text, modified, ObjectKind.EOD.value, file.bucket)
        self._manifests[name] = (modified, note)
        return note

    def _sessions(self, survey: IntakeSurvey, now: datetime) -> dict[date, datetime]:
        """Return the sessions of the exchange if any file may be missing; they are fetched once a day."""
        if not needs_calendar([*survey.trades, *survey.eod], self.rules, now):
            return {}
        if self._calendar_at is None or now - self._calendar_at >= CALENDAR_EVERY:
            self._calendar_at = now  # also after a failure: the calendar costs seconds of processor time
            try:
                self.store.write_sessions(sessions_around(now.date()))
            except KintsugiError as error:
                log.warning("%s", error)
        return self.store.sessions()


def intake_monitor(settings: Any) -> IntakeMonitor:
    """Return the monitor of an installation; raises KintsugiError when the user's bucket can't be used."""
    purpose = S3Purpose.MONITOR
    return IntakeMonitor(
        s3_client(settings, purpose), data_sources(settings, purpose), IntakeStore(store_dsn(settings))
    )
