"""What Kafka deleted unread is sent again from S3, by itself: which files that is, and how it ends.

1. The files with messages in the lost range are known by their offsets (`sent_offsets`). An ingested file whose trades
   an account has found in Cassandra since needs nothing.
2. Offsets that belong to no known file: then the ingested files that no account has found stored yet, and whose offsets
   aren't known, are sent again too. Synthetic trades, and messages that were no trades, aren't sent again.
3. A file that was sent again for REPEATS losses within a day isn't sent a fourth time: then a person decides.

Trades keep their identity, so a trade that is stored already is written over with the same row. The replay is resumed
by its name, and waits for the stream like any other (`flow_control`).
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
from kintsugi.pipeline.ingest.replay import Schedule, replay
from kintsugi.pipeline.object_listing import S3Object, trade_files
from kintsugi.pipeline.synthetic_trade import PREFIX as CANARY_PREFIX

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

    from kintsugi.db.ingest_ledger import IngestLedger
    from kintsugi.db.ledger_entry import LedgerEntry
    from kintsugi.pipeline.ingest.file_ingest import FileIngestReport
    from kintsugi.pipeline.ingest.flow_control import FlowControl

REPEATS = 3
WITHIN = timedelta(days=1)

FileKey = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Affected:
    """What a loss asks for: the files to send again, as (key, ETag), and how many messages are of no known file."""

    files: frozenset[FileKey]
    unknown: int


def affected(loss: Loss, sent: Collection[SentFile], unplaced: Iterable[LedgerEntry]) -> Affected:
    """The files that a loss takes trades of.

    ``sent``: the files with messages in its range. ``unplaced``: ingested files whose trades nobody has found stored,
    and whose offsets aren't known.
    """
    files = {(file.key, file.etag) for file in sent if file.needs_replay}
    unknown = count_uncovered_offsets((loss.first, loss.end), sent)
    if unknown:
        files |= {(entry.key, entry.etag) for entry in unplaced}
    return Affected(frozenset(file for file in files if not file[0].startswith(CANARY_PREFIX)), unknown)


@dataclass(frozen=True, slots=True)
class Choice:
    """Of the affected files: what S3 still has, what it has no longer with this content, what was sent too often."""

    files: tuple[S3Object, ...]
    gone: tuple[str, ...]
    too_often: tuple[str, ...]


def choose(files: Collection[FileKey], present: Iterable[S3Object], times: Mapping[str, int]) -> Choice:
    """Divide the affected files; ``times``: for how many losses of the last day each key was sent again."""
    known = {(item.key, item.etag): item for item in present}
    often = sorted({key for key, _ in files if times.get(key, 0) >= REPEATS})
    found = [known[file] for file in sorted(files) if file in known and file[0] not in often]
    gone = sorted({key for key, etag in files if (key, etag) not in known and key not in often})
    return Choice(tuple(found), tuple(gone), tuple(often))


def replay_loss(
    s3: S3Client, ledger: IngestLedger, sent: SentOffsets, record: StreamRecord, bootstrap: list[str], loss_id: str, *,
    name: str, bucket: str = BUCKET, control: FlowControl | None = None,
    sources: Sequence[DataSource] | None = None,
) -> list[FileIngestReport]:  # fmt: skip
    """Send again what a loss took, and record how it ended; returns the accounts of the files.

    ``name``: of the replay. ``sources``: where the files are; default: ``bucket``.

    A loss that is settled is left alone. Raises InputError when there is no such loss, and
    what `replay` raises; call again, and it goes on.
    """
    loss = record.loss(loss_id)
    if loss is None:
        raise InputError(f"no loss {loss_id!r} is on record; `make status` names those that are")
    if loss.settled:
        return []
    places = sent.known()
    unplaced = [entry for entry in ledger.unreconciled() if (entry.key, entry.etag) not in places]
    asked = affected(loss, sent.files_in(loss.partition, loss.first, loss.end), unplaced)
    choice = choose(asked.files, trade_files(sources or (own_source(s3, bucket),)), record.replays_of(WITHIN))
    accounts = []
    if choice.files:
        accounts = replay(
            s3,
            ledger,
            bootstrap,
            choice.files,
            name=name,
            schedule=Schedule(),
            bucket=bucket,
            control=control,
        )
    state, said = outcome(choice, asked.unknown)
    record.settle(loss, state, (item.key for item in choice.files), said)
    return accounts


def outcome(choice: Choice, unknown: int) -> tuple[LossState, str]:
    """How a loss ended, after the chosen files were sent again, and a sentence about it."""
    parts = []
    if choice.files:
        parts.append(
            f"{len(choice.files)} files were sent again: {_names(item.key for item in choice.files)}"
        )
    if unknown:
        parts.append(f"{unknown:,} of the messages belong to no file that is known")
    if choice.gone:
        parts.append(f"S3 has no longer what was ingested of {_names(choice.gone)}")
    if choice.too_often:
        parts.append(f"sent again {REPEATS} times within a day already: {_names(choice.too_often)}")
    if choice.too_often:
        return LossState.GIVEN_UP, "; ".join(parts)
    if choice.files:
        return LossState.REPLAYED, "; ".join(parts)
    return LossState.NOTHING, "; ".join(parts) or "all of its trades are stored"


def _names(keys: Iterable[str]) -> str:
    first = sorted(keys)
    return ", ".join(first[:3]) + (f" and {len(first) - 3} others" if len(first) > 3 else "")
