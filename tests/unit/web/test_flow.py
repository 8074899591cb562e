"""The flow's figures, from samples written by hand."""

from __future__ import annotations

import pytest

from kintsugi.db.flow_samples import FlowSample
from kintsugi.db.stream_record import Loss, LossState, StreamSummary, Wait
from kintsugi.web import flow
from kintsugi.web.polling_cache import CachedValue
from kintsugi.web.severity import Severity
from kintsugi.web.sources import Files, StreamSnapshot
from tests.factories import NOW, sample_at


def seen(*samples: FlowSample) -> CachedValue[StreamSnapshot]:
    return CachedValue(StreamSnapshot(tuple(samples), live=True), NOW)


def test_nothing_waits_when_all_is_stored() -> None:
    now = flow.assess_stream(seen(sample_at(10, 1000, 1000), sample_at(0, 3000, 3000)))
    assert (now.level, now.lag, now.fresh_s) == (Severity.WELL, 0, 0.0)
    assert (now.in_rate, now.out_rate) == (200.0, 200.0)


def test_the_oldest_unstored_message_came_in_when_the_end_was_where_the_stream_is_now() -> None:
    samples = [sample_at(40, 1000, 1000), sample_at(20, 3000, 2000), sample_at(0, 5000, 2500)]
    # 2500 was the topic's end three quarters of the way from 40 s to 20 s ago.
    assert flow.time_lag_s(samples) == pytest.approx(25.0)


def test_a_lag_older_than_the_samples_counts_from_the_first() -> None:
    assert flow.time_lag_s([sample_at(300, 9000, 10), sample_at(0, 9000, 20)]) == 300


def test_a_stream_that_stores_nothing_is_sick_and_says_for_how_long() -> None:
    now = flow.assess_stream(
        seen(sample_at(200, 1000, 1000), sample_at(199, 1010, 1000), sample_at(0, 9000, 1000))
    )
    assert now.level is Severity.BAD
    assert (now.fresh_s, now.lag) == (200, 8000)
    assert all(figure in now.sentence for figure in ("200", "8,000"))


WAIT = Wait("ingest", "trades/f", "50,000 messages wait", NOW, NOW)
LOST = Loss(2, 10, 30, NOW)
REPLAYED = Loss(2, 10, 30, NOW, LossState.REPLAYED, ("f",), "1 files were sent again", NOW)


@pytest.mark.parametrize(
    ("record", "level", "facts"),
    [
        (StreamSummary(losses=(REPLAYED,)), Severity.WELL, ()),
        (StreamSummary(losses=(REPLAYED, LOST)), Severity.BAD, ("20", str(LOST))),
        (StreamSummary(waits=(WAIT,)), Severity.NOTE, (str(WAIT),)),
        (StreamSummary(refused={"json": 3}), Severity.NOTE, ("json 3",)),
        (StreamSummary(losses=(LOST,), waits=(WAIT,)), Severity.BAD, (str(LOST),)),
    ],
)
def test_what_is_on_record_of_the_stream_shows_though_its_offsets_look_well(
    record: StreamSummary, level: Severity, facts: tuple[str, ...]
) -> None:
    now = flow.assess_stream(
        CachedValue(StreamSnapshot((sample_at(0, 10, 10),), live=True, record=record), NOW)
    )
    assert now.level is level
    assert all(fact in now.sentence for fact in facts)


def test_a_stream_without_cores_is_told() -> None:
    now = flow.assess_stream(seen(sample_at(0, 10, 10, running=False)))
    assert (now.level, now.running) == (Severity.NOTE, False)
    assert now.sentence != flow.assess_stream(seen(sample_at(0, 10, 10))).sentence


def test_a_silent_kafka_is_unknown_not_zero() -> None:
    silent = sample_at(0, 0, 0)
    unknown = type(silent)(silent.at, True, None, None)
    now = flow.assess_stream(seen(sample_at(5, 10, 10), unknown))
    kafka = flow.build_stages(now, CachedValue(Files(2, "a"), NOW), seen(unknown))[1]
    assert (now.lag, kafka.level, kafka.figure) == (None, Severity.UNKNOWN, "?")


def test_s3_away_keeps_its_last_answer_and_says_so() -> None:
    stage = flow.build_stages(
        flow.assess_stream(seen(sample_at(0, 1, 1))),
        CachedValue(Files(3, "a"), NOW, "no answer within 5 s"),
        seen(),
    )[0]
    assert (stage.level, stage.figure) == (Severity.UNKNOWN, "3")
    assert all(fact in stage.words for fact in ("no answer within 5 s", f"{NOW:%H:%M:%S}"))


def test_a_gap_stays_a_gap_in_the_chart() -> None:
    drawn = flow.chart_series([sample_at(300, 0, 0), sample_at(295, 500, 400), sample_at(0, 9000, 9000)])
    assert drawn["in"] == [None, 100.0, None]
    assert drawn["lag"] == [0, 100, 0]
