from __future__ import annotations

from datetime import UTC, datetime

import pytest

from kintsugi.db.ledger_entry import FileState, LedgerEntry, Tally
from kintsugi.db.sent_offsets import SentFile, count_uncovered_offsets
from kintsugi.db.stream_record import Loss, LossState, subtract_ranges
from kintsugi.pipeline.ingest.loss_replay import (
    REPEATS,
    ReplayChoice,
    affected_files,
    choose_files,
    loss_outcome,
)
from kintsugi.pipeline.object_listing import S3Object
from kintsugi.pipeline.synthetic_trade import PREFIX

AT = datetime(2026, 11, 28, tzinfo=UTC)
LOSS = Loss(0, 100, 200, AT)


def sent(key: str, first: int, end: int, *, replay: str = "", stored: bool = False) -> SentFile:
    return SentFile(key, "e", replay, first, end, stored)


def entry(key: str) -> LedgerEntry:
    return LedgerEntry(key, "e", FileState.DONE, Tally(), None, AT, AT, None, None, 1)


@pytest.mark.parametrize(
    ("known", "parts"),
    [
        ([], [(100, 200)]),
        ([(100, 200)], []),
        ([(0, 150)], [(150, 200)]),
        ([(120, 130), (150, 160)], [(100, 120), (130, 150), (160, 200)]),
        ([(110, 190), (120, 130)], [(100, 110), (190, 200)]),
        ([(0, 100), (200, 300)], [(100, 200)]),
    ],
)
def test_of_a_range_the_parts_remain_that_are_in_no_other(
    known: list[tuple[int, int]], parts: list[tuple[int, int]]
) -> None:
    assert subtract_ranges((100, 200), known) == parts


def test_files_in_the_range_are_sent_again_unless_their_trades_are_all_stored() -> None:
    files = [sent("lost", 90, 150), sent("stored", 150, 200, stored=True)]
    found = affected_files(LOSS, files, [entry("other")])
    assert found.files == {("lost", "e")}
    assert found.unknown == 0


def test_a_replay_that_was_lost_is_repeated_though_its_file_was_stored_once() -> None:
    assert affected_files(LOSS, [sent("f", 100, 200, replay="r", stored=True)], []).files == {("f", "e")}


def test_what_belongs_to_no_known_file_asks_for_those_that_nobody_found_stored() -> None:
    found = affected_files(LOSS, [sent("f", 100, 190)], [entry("before-offsets-were-noted")])
    assert found.files == {("f", "e"), ("before-offsets-were-noted", "e")}
    assert found.unknown == 10
    assert count_uncovered_offsets((100, 200), []) == 100


def test_synthetic_trades_are_not_sent_again() -> None:
    assert affected_files(LOSS, [sent(f"{PREFIX}f", 100, 200)], []).files == frozenset()


def test_a_file_that_is_gone_and_one_that_was_sent_too_often_are_named_instead() -> None:
    files = {("a", "e"), ("b", "e"), ("c", "e"), ("d", "old")}
    present = [S3Object(key, "e", 1) for key in "abd"]
    found = choose_files(files, present, {"b": REPEATS, "a": REPEATS - 1})
    assert [item.key for item in found.files] == ["a"]
    assert found.gone == ("c", "d")
    assert found.too_often == ("b",)


@pytest.mark.parametrize(
    ("choice", "unknown", "state"),
    [
        (ReplayChoice((S3Object("a", "e", 1),), (), ()), 0, LossState.REPLAYED),
        (ReplayChoice((S3Object("a", "e", 1),), ("g",), ("b",)), 0, LossState.GIVEN_UP),
        (ReplayChoice((), (), ()), 5, LossState.NOTHING),
        (ReplayChoice((), (), ()), 0, LossState.NOTHING),
    ],
)
def test_how_a_loss_ended_is_said(choice: ReplayChoice, unknown: int, state: LossState) -> None:
    found, said = loss_outcome(choice, unknown)
    assert found is state
    assert said
