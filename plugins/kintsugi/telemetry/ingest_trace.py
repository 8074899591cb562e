"""The trace of an ingested file, from its row in the ledger. Pure."""

from __future__ import annotations

from kintsugi.core.settings import BUCKET, TOPIC
from kintsugi.db.ledger_entry import FileState, LedgerEntry, file_id
from kintsugi.telemetry.trace import Span


def ingest_key(entry: LedgerEntry) -> str:
    """The name of the trace: the file and its content, as in ``manifests/``."""
    return f"ingest/{file_id(entry.key, entry.etag)}"


def ingest_trace(entry: LedgerEntry) -> Span:
    """One span from the first claim of the file to its end, interruptions included.

    Raises ValueError for a file that is not finished.
    """
    if entry.finished_at is None:
        raise ValueError(f"{entry.key} is still being ingested: it has no trace yet")
    tally = entry.tally
    return Span(
        key=ingest_key(entry),
        name=f"send {TOPIC}",
        start=entry.started_at,
        end=max(entry.started_at, entry.finished_at),
        producer=True,
        attributes={
            "messaging.system": "kafka",
            "messaging.operation.type": "send",
            "messaging.operation.name": "send",
            "messaging.destination.name": TOPIC,
            "messaging.batch.message_count": tally.produced,
            "aws.s3.bucket": entry.bucket or BUCKET,
            "aws.s3.key": entry.key,
            "kintsugi.ingest.state": entry.state.value,
            "kintsugi.ingest.read": tally.read,
            "kintsugi.ingest.accepted": tally.accepted,
            "kintsugi.ingest.rejected": sum(tally.rejected.values()),
            "kintsugi.ingest.duplicates": tally.duplicates,
            "kintsugi.ingest.produced": tally.produced,
            **({"error.type": "unusable_file"} if entry.state is FileState.FAILED else {}),
        },
        error=entry.reason if entry.state is FileState.FAILED else None,
    )
