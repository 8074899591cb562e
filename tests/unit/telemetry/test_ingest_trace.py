from __future__ import annotations

from dataclasses import replace

import pytest

from kintsugi.db.ledger_entry import FileState, LedgerEntry, Tally
from kintsugi.telemetry.ingest_trace import ingest_key, ingest_trace
from tests.fixtures_incidents import at

FILE = LedgerEntry(
    key="trades/2024-10-08/UnderlyingOptionsTradesCalcs_2024-10-08.csv",
    etag='"abc"',
    state=FileState.DONE,
    tally=Tally(lines_done=11, read=10, accepted=8, rejected={"no price": 2}, duplicates=1, produced=7),
    reason=None,
    started_at=at(0),
    finished_at=at(4.5),
    stored=None,
    reconciled_at=None,
    size=1000,
)


def test_a_file_is_one_span_with_its_account() -> None:
    span = ingest_trace(FILE)
    assert (span.start, span.end, span.error) == (at(0), at(4.5), None)
    assert span.attributes["messaging.batch.message_count"] == 7
    assert span.attributes["kintsugi.ingest.rejected"] == 2
    assert span.attributes["aws.s3.key"] == FILE.key


def test_new_content_under_the_same_key_is_another_trace() -> None:
    assert ingest_key(FILE) != ingest_key(replace(FILE, etag='"def"'))


def test_an_unusable_file_is_an_error_with_its_reason() -> None:
    span = ingest_trace(replace(FILE, state=FileState.FAILED, reason="no header"))
    assert (span.error, span.attributes["error.type"]) == ("no header", "unusable_file")


def test_a_file_under_way_has_no_trace() -> None:
    with pytest.raises(ValueError, match="still being ingested"):
        ingest_trace(replace(FILE, state=FileState.RUNNING, finished_at=None))
