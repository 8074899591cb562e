from __future__ import annotations

from kintsugi.pipeline.stream_lag import Lag


def test_lag_counts_what_is_not_yet_stored() -> None:
    lag = Lag(end={0: 100, 1: 50, 2: 10}, beginning={0: 20, 1: 0, 2: 5}, committed={0: 90, 1: None, 2: 10})
    assert lag.messages == 10 + 50 + 0
    assert lag.stored == 70 + 0 + 5


def test_what_kafka_deleted_is_no_lag_but_is_counted_as_deleted() -> None:
    lag = Lag(end={0: 100, 1: 9}, beginning={0: 60, 1: 0}, committed={0: 20, 1: 9})
    assert (lag.messages, lag.deleted) == (40, 40)


def test_offsets_of_a_topic_that_was_made_anew_count_as_no_lag() -> None:
    assert Lag(end={0: 3}, beginning={0: 0}, committed={0: 90}).messages == 0
