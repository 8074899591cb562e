"""When the ingest takes a file: the rule alone; the rows themselves are tested on a real Postgres."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from kintsugi.db.ledger_entry import RETRY_AT_MOST, FileState, LedgerEntry, Tally, backoff, is_waiting

NOW = datetime(2026, 11, 28, 12, tzinfo=UTC)
GOOD = Tally(11, 10, 10, {}, 0, 10)
REJECTED = Tally(11, 10, 9, {"time": 1}, 0, 9)


def row(
    etag: str,
    state: FileState = FileState.DONE,
    tally: Tally = GOOD,
    *,
    at: int = 0,
    retry_at: int | None = None,
) -> LedgerEntry:
    """A row that was started ``at`` minutes before NOW from content that was put there a minute before that."""
    started = NOW - timedelta(minutes=at)
    due = None if retry_at is None else NOW + timedelta(minutes=retry_at)
    return LedgerEntry(
        "k", etag, state, tally, None, started, None if state is FileState.RUNNING else started, None, None, 1,
        modified=started - timedelta(minutes=1), retry_at=due,
    )  # fmt: skip


def delivered(etag: str, minutes_ago: int, *rows: LedgerEntry) -> bool:
    return is_waiting(etag, NOW - timedelta(minutes=minutes_ago), rows, NOW)


def test_a_content_that_was_never_taken_waits() -> None:
    assert delivered("a", 1)
    assert delivered("b", 1, row("a", at=9))


@pytest.mark.parametrize("state", [FileState.RUNNING, FileState.VANISHED])
def test_an_interrupted_file_waits_from_the_end_of_its_pause_on(state: FileState) -> None:
    assert delivered("a", 9, row("a", state, at=8))
    assert delivered("a", 9, row("a", state, at=8, retry_at=-1))
    assert not delivered("a", 9, row("a", state, at=8, retry_at=1))


def test_of_three_versions_the_third_delivery_is_the_current_one() -> None:
    assert delivered("v1", 1, row("v1", at=9), row("v2", at=5))
    assert not delivered("v1", 1, row("v2", at=5), row("v1", at=0)), (
        "and once it was taken it waits no longer"
    )


def test_a_version_that_vanished_before_it_was_read_was_no_version() -> None:
    assert not delivered("v1", 10, row("v1", at=9), row("v2", FileState.VANISHED, at=5))


@pytest.mark.parametrize(
    "bad", [row("a", FileState.FAILED, at=8), row("a", tally=REJECTED, at=8), row("a", tally=Tally(), at=8)]
)
def test_the_same_bytes_are_taken_again_where_something_was_left_out(bad: LedgerEntry) -> None:
    assert delivered("a", 2, bad)
    assert not delivered("a", 9, bad), "it is still the delivery that was taken"


def test_the_same_bytes_bring_nothing_new_where_all_of_them_are_in() -> None:
    assert not delivered("a", 2, row("a", at=8))


def test_a_pause_grows_up_to_its_bound() -> None:
    pauses = [backoff(number) for number in range(1, 100)]
    assert pauses == sorted(pauses)
    assert (pauses[0].total_seconds(), pauses[1].total_seconds(), pauses[-1]) == (5, 10, RETRY_AT_MOST)
