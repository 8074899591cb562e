"""Replay a loss: send the trades whose messages Kafka deleted before the stream read them again from S3.

1. The files with messages in the lost range are known by their offsets (`sent_offsets`). A file needs no replay if a
   reconciliation has found all its trades in Cassandra since.
2. If offsets of the range belong to no known file, more files are replayed: the ingested files whose offsets aren't
   known and that no reconciliation has found stored yet. Synthetic trades and messages that were no trades aren't
   replayed.
3. A file that was replayed for REPEATS losses within a day isn't replayed again: then a person decides.

A trade that is already stored is overwritten with the same row, because it has the same identity. The replay continues
by its name after an interruption, and it waits for the stream like any other (`flow_control`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from kintsugi.core.data_source import DataSource, own_source
from kintsugi.core.errors import InputError
from kintsugi.core.settings import BUCKET
from kintsugi.db.sent_offsets import SentFile, SentOffsets, count_uncovered_offsets
from kintsugi.db.stream_record import Loss, LossState, StreamRecord
from kintsugi.pipeline.ingest.replay import Schedule, replay_files
from kintsugi.pipeline.object_listing import S3Object, list_trade_files
from kintsugi.pipeline.synthetic_trade import PREFIX as SYNTHETIC_PREFIX

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

    from kintsugi.db.ingest_ledger import IngestLedger
    from kintsugi.db.ledger_entry import LedgerEntry
    from kintsugi.pipeline.ingest.file_manifest import FileIngestReport
    from kintsugi.pipeline.ingest.flow_control import FlowControl

REPEATS = 3
WITHIN = timedelta(days=1)

FileKey = tuple[str, str]


@dataclass(frozen=True, slots=True)
class AffectedFiles:
    """The files to replay for a loss, as (key, ETag), and the number of messages that belong to no known file."""

    files: frozenset[FileKey]
    unknown: int


def affected_files(
    loss: Loss, sent: Collection[SentFile], without_offsets: Iterable[LedgerEntry]
) -> AffectedFiles:
    """Return the files that a loss takes trades of.

    ``sent``: the files with messages in its range. ``without_offsets``: ingested files whose offsets aren't known and
    that no reconciliation has found stored.
    """
    files = {(file.key, file.etag) for file in sent if file.needs_replay}
    unknown = count_uncovered_offsets((loss.first, loss.end), sent)
    if unknown:
        files |= {(entry.key, entry.etag) for entry in without_offsets}
    return AffectedFiles(
        frozenset(file for file in files if not file[0].startswith(SYNTHETIC_PREFIX)), unknown
    )


@dataclass(frozen=True, slots=True)
class ReplayChoice:
    """The affected files, divided: files to replay; keys whose content S3 no longer has; keys replayed too often."""

    files: tuple[S3Object, ...]
    gone: tuple[str, ...]
    too_often: tuple[str, ...]


def choose_files(
    files: Collection[FileKey], present: Iterable[S3Object], times: Mapping[str, int]
) -> ReplayChoice:
    """Divide the affected files; ``times``: for how many losses of the last day each key was replayed."""
    in_s3 = {(file.key, file.etag): file for file in present}
    too_often = sorted({key for key, _ in files if times.get(key, 0) >= REPEATS})
    chosen = [in_s3[file] for file in sorted(files) if file in in_s3 and file[0] not in too_often]
    gone = sorted({key for key, etag in files if (key, etag) not in in_s3 and key not in too_often})
    return ReplayChoice(tuple(chosen), tuple(gone), tuple(too_often))


def replay_loss(
    s3: S3Client, ledger: IngestLedger, sent: SentOffsets, record: StreamRecord, bootstrap: list[str], loss_id: str, *,
    name: str, bucket: str = BUCKET, control: FlowControl | None = None,
    sources: Sequence[DataSource] | None = None,
) -> list[FileIngestReport]:  # fmt: skip
    """Replay the files of a loss, and record the outcome; returns the reports of the files.

    ``name``: the name of the replay. ``sources``: where the files are; default: ``bucket``.

    A loss that is settled isn't replayed. Raises InputError when there is no such loss, and what `replay_files` raises;
    another call continues then.
    """
    loss = record.loss(loss_id)
    if loss is None:
        raise InputError(f"no loss {loss_id!r} is recorded; `make status` lists the recorded ones")
    if loss.settled:
        return []
    with_offsets = sent.known()
    without_offsets = [
        entry for entry in ledger.unreconciled() if (entry.key, entry.etag) not in with_offsets
    ]
    affected = affected_files(loss, sent.files_in(loss.partition, loss.first, loss.end), without_offsets)
    choice = choose_files(
        affected.files, list_trade_files(sources or (own_source(s3, bucket),)), record.replays_of(WITHIN)
    )
    reports = []
    if choice.files:
        reports = replay_files(
            s3,
            ledger,
            bootstrap,
            choice.files,
            name=name,
            schedule=Schedule(),
            bucket=bucket,
            control=control,
        )
    state, text = loss_outcome(choice, affected.unknown)
    record.settle(loss, state, (file.key for file in choice.files), text)
    return reports


def loss_outcome(choice: ReplayChoice, unknown: int) -> tuple[LossState, str]:
    """Return the outcome of a loss after the chosen files were replayed, and a sentence about it."""
    parts = []
    if choice.files:
        parts.append(
            f"{len(choice.files)} files were replayed: {_join_keys(file.key for file in choice.files)}"
        )
    if unknown:
        parts.append(f"{unknown:,} of the messages belong to no known file")
    if choice.gone:
        parts.append(f"S3 no longer has the ingested content of {_join_keys(choice.gone)}")
    if choice.too_often:
        parts.append(f"already replayed {REPEATS} times within a day: {_join_keys(choice.too_often)}")
    if choice.too_often:
        return LossState.GIVEN_UP, "; ".join(parts)
    if choice.files:
        return LossState.REPLAYED, "; ".join(parts)
    return LossState.NOTHING, "; ".join(parts) or "all of its trades are stored"


def _join_keys(keys: Iterable[str]) -> str:
    first = sorted(keys)
    return ", ".join(first[:3]) + (f" and {len(first) - 3} others" if len(first) > 3 else "")
