"""Looking at the step before Kafka: buckets, manifests and ledger into one report, which is kept in Postgres.

The watchdog looks; Pipeline Health, ``kintsugi status`` and the metrics read the report.
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
from kintsugi.core.settings import BUCKET
from kintsugi.db.intake import IntakeStore
from kintsugi.db.ledger_entry import LedgerEntry
from kintsugi.pipeline.ingest.exchange_sessions import sessions_around
from kintsugi.pipeline.ingest.intake_report import (
    FileNote,
    IntakeReport,
    IntakeRules,
    Survey,
    assess,
    needs_calendar,
    without_name,
)
from kintsugi.pipeline.object_listing import objects
from kintsugi.pipeline.stream.baselines import EOD_MANIFESTS, NEVER, manifest_key

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

log = logging.getLogger(__name__)

REST = 50  # a look takes a fiftieth of the time at most
REST_AT_LEAST_S = 14.0
CALENDAR_EVERY = timedelta(days=1)


def rules_from(environment: Mapping[str, str] = os.environ) -> IntakeRules:
    """The rules from ``KINTSUGI_INTAKE_*``; raises KintsugiError that names a value which can't be used."""
    usual = IntakeRules()

    def number(name: str, default: float, at_most: float) -> float:
        text = environment.get(f"KINTSUGI_INTAKE_{name}") or str(default)
        try:
            value = float(text)
        except ValueError:
            value = -1.0
        if not 0 <= value <= at_most:
            raise KintsugiError(f"KINTSUGI_INTAKE_{name}={text}: give a number from 0 to {at_most:g}")
        return value

    delivery = environment.get("KINTSUGI_INTAKE_DELIVERY") or usual.delivery
    if delivery not in ("auto", "daily", "none"):
        raise KintsugiError(f"KINTSUGI_INTAKE_DELIVERY={delivery}: it can be auto, daily or none")
    return IntakeRules(
        waiting=timedelta(minutes=number("WAITING_MINUTES", usual.waiting.total_seconds() / 60, 1e6)),
        rejected_share=number("REJECTED_SHARE", usual.rejected_share, 1),
        due=timedelta(hours=number("DUE_HOURS", usual.due.total_seconds() / 3600, 1e4)),
        delivery=delivery,
    )


@dataclass(slots=True)
class IntakeWatch:
    """The looks of one process. ``s3``: the installation's own bucket, with the manifests."""

    s3: S3Client
    sources: Sequence[DataSource]
    store: IntakeStore
    rules: IntakeRules = field(default_factory=rules_from)
    clock: Callable[[], float] = time.monotonic
    since: datetime = field(default_factory=lambda: datetime.now(UTC))
    _due: float = 0.0
    _manifests: dict[str, tuple[datetime, FileNote | None]] = field(default_factory=dict)
    _calendar_at: datetime | None = None

    def look(self, *, paused: bool = False) -> tuple[IntakeReport, list[LedgerEntry]] | None:
        """The report, which is also kept, and the files that no page was written about; None while it rests.

        ``paused``: the ingest is paused. Raises what S3 and Postgres raise.
        """
        began = self.clock()
        if began < self._due:
            return None
        now = datetime.now(UTC)
        survey = self.survey()
        rows = self.store.by_key()
        report = assess(
            survey,
            rows,
            self._sessions(survey, now),
            self.rules,
            now,
            paused=paused,
            watched_since=self.since,
        )
        self.store.write_report(now, report.to_json())
        self._due = self.clock() + max(REST_AT_LEAST_S, REST * (self.clock() - began))
        named = {(note.bucket, note.key) for note in (*report.failed, *report.rejected, *report.empty)}
        newest = (of_key for where, of_key in rows.items() if where in named)
        return report, [entry for of_key in newest for entry in of_key[-1:] if entry.paged_at is None]

    def survey(self) -> Survey:
        """One listing of each prefix of each source."""
        files: dict[ObjectKind, list[S3Object]] = {kind: [] for kind in ObjectKind}
        for source in self.sources:
            for prefix in sorted(set(source.prefixes.values())):
                for item in objects(source.client, source.bucket, prefix):
                    found = S3Object(item["Key"], item["ETag"], item["Size"], item["LastModified"], source)
                    files[kind_of(found.key)].append(found)
        waiting, failed = self._judge_eod(files[ObjectKind.EOD])
        not_taken = (*files[ObjectKind.COMPANION], *files[ObjectKind.OTHER_PRODUCT])
        return Survey(
            files[ObjectKind.TRADES],
            files[ObjectKind.EOD],
            waiting,
            failed,
            sorted(item.key for item in not_taken),
        )

    def _judge_eod(self, files: Iterable[S3Object]) -> tuple[int, list[FileNote]]:
        """How many end-of-day files have no manifest yet, and those whose manifest says that they failed."""
        written = {item["Key"]: item["LastModified"] for item in objects(self.s3, BUCKET, EOD_MANIFESTS)}
        waiting, failed = 0, []
        for item in files:
            name = manifest_key(item.key, item.etag)
            if written.get(name, NEVER) < item.modified:
                waiting += 1
            elif (note := self._failure(name, written[name], item)) is not None:
                failed.append(note)
        self._manifests = {name: known for name, known in self._manifests.items() if name in written}
        return waiting, failed

    def _failure(self, name: str, at: datetime, item: S3Object) -> FileNote | None:
        """What the manifest of an end-of-day file says of its failure; each manifest is read once."""
        known = self._manifests.get(name)
        if known is None or known[0] != at:
            manifest: dict[str, Any] = json.loads(self.s3.get_object(Bucket=BUCKET, Key=name)["Body"].read())
            damage = damage_in(manifest.get("rejected", {}))
            failed = manifest.get("state") == "failed" or damage
            said = without_name(str(manifest.get("reason") or "no reason was recorded"), item.key)
            if damage:
                said = f"the file is damaged ({', '.join(damage)}): {said}"
            note = FileNote(item.key, said, at, ObjectKind.EOD.value, item.bucket) if failed else None
            self._manifests[name] = known = (at, note)
        return known[1]

    def _sessions(self, survey: Survey, now: datetime) -> dict[date, datetime]:
        """The sessions of the exchange, where any file could be missing; fetched once a day."""
        if not needs_calendar([*survey.trades, *survey.eod], self.rules, now):
            return {}
        if self._calendar_at is None or now - self._calendar_at >= CALENDAR_EVERY:
            self._calendar_at = now  # also after a failure: the calendar costs seconds of a processor
            try:
                self.store.write_sessions(sessions_around(now.date()))
            except KintsugiError as error:
                log.warning("%s", error)
        return self.store.sessions()


def intake_watch(settings: Any) -> IntakeWatch:
    """The watch of an installation; raises KintsugiError when the user's bucket can't be used."""
    return IntakeWatch(s3_client(settings), data_sources(settings), IntakeStore(store_dsn(settings)))
