from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kintsugi.pipeline.ingest.backlog import LAG_MESSAGES, MESSAGE_BYTES, RETENTION_SHARE, Backlog, backlog_of

COUNTS = st.dictionaries(st.integers(0, 5), st.integers(0, 10**6), min_size=1)


def test_what_waits_is_counted_from_the_group_or_the_log_whichever_is_later() -> None:
    found = backlog_of({0: 10, 1: 0, 2: 5}, {0: 100, 1: 50, 2: 5}, {0: 90, 1: -1, 2: 3}, {}, None)
    assert found.messages == {0: 10, 1: 50, 2: 0}
    assert found.total == 60


def test_bytes_are_the_share_of_the_log_that_waits() -> None:
    found = backlog_of({0: 0, 1: 0}, {0: 100, 1: 0}, {0: 75}, {0: 4000, 1: 70}, 512)
    assert found.size == {0: 1000, 1: 0}


def test_without_sizes_a_message_counts_as_a_large_one() -> None:
    assert backlog_of({0: 0}, {0: 3}, {}, {}, 512).size == {0: 3 * MESSAGE_BYTES}


def test_there_is_room_up_to_the_lag_that_the_watch_of_the_flow_tolerates() -> None:
    assert Backlog({0: 0}, {0: 0}, None).room() == LAG_MESSAGES
    assert Backlog({0: 30_000, 1: 20_000}, {0: 1, 1: 1}, None).room() == 0


def test_a_partition_near_its_retention_leaves_no_room_however_few_messages_wait() -> None:
    assert Backlog({0: 100, 1: 0}, {0: 1_000, 1: 0}, 4_000).room() == 0
    assert Backlog({0: 100, 1: 0}, {0: 500, 1: 0}, 4_000).room() == 100  # 5 bytes a message, 500 bytes left


@given(COUNTS, st.integers(1, 4000), st.integers(1, 10**9), st.integers(1, 10**6))
def test_what_is_admitted_never_comes_near_retention(
    waiting: dict[int, int], message: int, retention: int, part: int
) -> None:
    """Even if every message of the part went to the fullest partition."""
    found = Backlog(waiting, {n: count * message for n, count in waiting.items()}, retention)
    if found.total and found.room() >= part:
        assert max(found.size.values()) + part * message <= RETENTION_SHARE * retention + message
        assert found.total + part <= LAG_MESSAGES
