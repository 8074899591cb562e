"""The watch over the flow."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from kintsugi.probes.stream_progress import FlowFinding, FlowReading, StreamProgressDetector

START = datetime(2026, 1, 5, 15, 0, tzinfo=UTC)


def run(
    readings: list[tuple[bool | None, int | None, int | None]], every_s: float = 5.0
) -> FlowFinding | None:
    """Feed (running, committed, produced), one every few seconds; the first finding."""
    watch = StreamProgressDetector()
    for n, (running, committed, produced) in enumerate(readings):
        at = START + timedelta(seconds=n * every_s)
        finding = watch.observe(FlowReading(at, running, committed, produced))
        if finding is not None:
            return finding
    return None


def test_a_flow_that_moves_is_well() -> None:
    assert run([(True, n * 100, n * 100 + 50) for n in range(100)]) is None


def test_an_idle_flow_is_well() -> None:
    assert run([(True, 100, 100)] * 100) is None


def test_an_application_that_is_gone_for_twenty_seconds_is_absent() -> None:
    finding = run([(True, 0, 0), *[(False, 0, 0)] * 10])
    assert finding is not None
    assert finding.symptom == "absent"
    assert (finding.detected_at - finding.first_failed_at).total_seconds() == 20
    assert run([(True, 0, 0), *([(False, 0, 0)] * 3 + [(True, 0, 0)]) * 10]) is None


def test_a_master_that_does_not_answer_is_not_an_absent_application() -> None:
    assert run([(None, 0, 0)] * 100) is None


def test_lag_without_a_commit_for_90_s_is_stalled() -> None:
    finding = run([(True, 100, 100), *[(True, 100, 150)] * 30])
    assert finding is not None
    assert finding.symptom == "stalled"
    assert (finding.detected_at - finding.first_failed_at).total_seconds() == 90
    assert "50 messages" in finding.evidence[0]


def test_a_stream_that_only_starts_is_not_stalled() -> None:
    """Its first batch commits late; restarting it then would start the wait over."""
    starting = [(False, 100, 150)] * 3
    assert run([(True, 100, 100), *[*starting, *[(True, 100, 150)] * 15] * 3]) is None


def test_a_commit_now_and_then_is_not_stalled() -> None:
    assert run([(True, 100 + n // 8, 1000) for n in range(100)]) is None


def test_kafka_away_says_nothing_about_the_flow() -> None:
    assert run([(True, None, None)] * 100) is None


def test_a_large_lag_that_only_grows_is_reported_and_a_shrinking_one_is_not() -> None:
    finding = run([(True, n * 10, 60_000 + n * 1_000) for n in range(100)])
    assert finding is not None
    assert finding.symptom == "growing"
    assert run([(True, n * 1_000, 160_000 + n * 10) for n in range(100)]) is None
