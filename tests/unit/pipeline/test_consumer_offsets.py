from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kafka.errors import UnknownTopicOrPartitionError

from kintsugi.pipeline.consumer_offsets import (
    LostRange,
    StartPosition,
    batch_ends,
    checkpoint_position,
    furthest_offsets,
    nearest_start,
    topic_partitions,
)

OFFSETS = st.integers(0, 1000)


def test_a_position_within_the_log_stays_and_nothing_is_lost() -> None:
    start = nearest_start({0: 10, 1: 20}, beginning={0: 10, 1: 0}, end={0: 10, 1: 30})
    assert (start.offsets, start.lost) == ({0: 10, 1: 20}, ())


def test_a_position_below_the_log_moves_to_its_beginning_and_what_is_between_is_named() -> None:
    start = nearest_start({0: 5, 1: 20}, beginning={0: 12, 1: 0}, end={0: 40, 1: 30})
    assert start.offsets == {0: 12, 1: 20}
    assert start.lost == (LostRange(0, 5, 12),)
    assert start.lost[0].messages == 7


def test_without_a_position_what_was_deleted_before_the_log_counts_as_lost() -> None:
    start = nearest_start({0: None}, beginning={0: 7, 1: 0}, end={0: 9, 1: 3})
    assert start.offsets == {0: 7, 1: 0}
    assert start.lost == (LostRange(0, 0, 7),)


def test_of_a_topic_that_was_made_anew_everything_is_read() -> None:
    start = nearest_start({0: 9000}, beginning={0: 0}, end={0: 12})
    assert (start.offsets, start.lost) == ({0: 0}, ())


@given(st.dictionaries(st.integers(0, 5), st.none() | OFFSETS), OFFSETS, OFFSETS)
def test_a_start_always_lies_within_the_log_and_skips_only_what_it_names(
    position: dict[int, int | None], begins: int, length: int
) -> None:
    beginning, end = dict.fromkeys(range(6), begins), dict.fromkeys(range(6), begins + length)
    start = nearest_start(position, beginning, end)
    assert start.can_serve(start.offsets)
    lost = {item.partition: item for item in start.lost}
    for partition, at in start.offsets.items():
        before = position.get(partition) or 0
        assert begins <= at <= begins + length
        if at > before:
            assert lost[partition] == LostRange(partition, before, at)
        else:
            assert partition not in lost


def test_a_start_is_told_to_spark_by_partition() -> None:
    assert StartPosition({1: 5, 0: 2}).to_spark() == '{"trades": {"0": 2, "1": 5}}'
    assert StartPosition({}).to_spark() == "earliest"


@pytest.mark.parametrize(
    ("position", "served"),
    [({}, False), ({0: 4}, False), ({0: 5}, True), ({0: 10, 1: 11}, False), ({7: 5}, False)],
)
def test_a_checkpoint_is_used_while_the_log_holds_everything_from_it_on(
    position: dict[int, int], served: bool
) -> None:
    assert StartPosition({}, log={0: (5, 10), 1: (5, 10)}).can_serve(position) is served


def test_of_group_and_checkpoint_the_further_one_counts() -> None:
    assert furthest_offsets({0: 5, 1: None, 2: 7}, {0: 9, 2: 3, 3: 1}) == {0: 9, 1: None, 2: 7, 3: 1}


def checkpoint(folder: Path, *, done: tuple[int, ...], planned: dict[int, str]) -> Path:
    for name in ("offsets", "commits"):
        (folder / name).mkdir()
    for number in done:
        (folder / "commits" / str(number)).write_text('v1\n{"nextBatchWatermarkMs":0}')
    for number, line in planned.items():
        (folder / "offsets" / str(number)).write_text(f'v1\n{{"batchWatermarkMs":0,"conf":{{}}}}\n{line}')
    return folder


def test_the_position_of_a_checkpoint_is_the_end_of_the_last_batch_that_is_done(tmp_path: Path) -> None:
    planned = {n: f'{{"trades":{{"0":{n},"1":{n * 2}}}}}' for n in (9, 10, 11)}
    assert checkpoint_position(checkpoint(tmp_path, done=(8, 9, 10), planned=planned)) == {0: 10, 1: 20}


@pytest.mark.parametrize(
    ("done", "line"), [((), '{"trades":{"0":3}}'), ((2,), "-"), ((2,), '{"trades":[1]}'), ((2,), "")]
)
def test_a_checkpoint_that_says_nothing_has_no_position(
    tmp_path: Path, done: tuple[int, ...], line: str
) -> None:
    assert checkpoint_position(tmp_path) == {}
    assert checkpoint_position(checkpoint(tmp_path, done=done, planned={2: line})) == {}


def test_the_ends_of_a_batch_are_of_all_its_messages() -> None:
    rows = pa.table({"partition": [0, 1, 0], "offset": [4, 9, 3], "problem": ["json", None, None]})
    assert batch_ends(rows) == {0: 5, 1: 10}
    assert batch_ends(rows.slice(0, 0)) == {}


class CrossedAnswers:
    """A consumer whose first requests for partitions get the answers to older ones."""

    def __init__(self, *answers: set[int]) -> None:
        self.answers = list(answers)

    def partitions_for_topic(self, topic: str) -> set[int]:
        return self.answers.pop(0) if self.answers else set()


def test_no_partitions_are_believed_only_after_several_requests() -> None:
    consumer: Any = CrossedAnswers(set(), {2, 0, 1})
    assert [part.partition for part in topic_partitions(consumer, "trades")] == [0, 1, 2]
    unknown: Any = CrossedAnswers()
    with pytest.raises(UnknownTopicOrPartitionError):
        topic_partitions(unknown, "trades")
