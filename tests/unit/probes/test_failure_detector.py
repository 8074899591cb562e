"""The watch: when a run of probes makes a finding, and when it must not."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kintsugi.core.observation import Finding, ProbeResult, Symptom
from kintsugi.probes.failure_detector import FailureDetector
from kintsugi.probes.protocols import Probe

START = datetime(2026, 1, 5, 15, 0, tzinfo=UTC)
O, R, T, W = ProbeResult.OK, ProbeResult.REFUSED, ProbeResult.TIMEOUT, ProbeResult.WRONG  # noqa: E741


def probe(answer: ProbeResult, start_s: float, latency_s: float = 0.0) -> Probe:
    return Probe("kafka-1", answer, START + timedelta(seconds=start_s), latency_s, "as scripted")


def run(script: list[tuple[float, ProbeResult, float, float]]) -> tuple[float, Finding] | None:
    """Feed (start, answer, latency, late); the first finding and the second at which it came."""
    watch = FailureDetector()
    for start_s, answer, latency_s, late_s in script:
        finding = watch.observe(probe(answer, start_s, latency_s), start_s + latency_s, late_s)
        if finding is not None:
            return start_s + latency_s, finding
    return None


def each_second(answers: list[ProbeResult]) -> list[tuple[float, ProbeResult, float, float]]:
    return [(float(second), answer, 0.0, 0.0) for second, answer in enumerate(answers)]


@pytest.mark.parametrize(
    ("answers", "symptom", "second"),
    [
        ([O, R, R, R], Symptom.DOWN, 3),
        ([O, R, R, O, R, R, O, R, R], None, None),
        ([R, R, R], Symptom.DOWN, 2),
        ([O, T, R, R, R], Symptom.DOWN, 4),  # hung, then killed
        ([O, R, R, T, R, R, R], Symptom.DOWN, 6),  # a refusal run starts anew after another answer
        ([O, R, T, R, T, R, T, R, T, R], Symptom.HUNG, 9),  # a mixture is silence
        ([O, *[T] * 8], None, None),
        ([O, *[T] * 9], Symptom.HUNG, 9),
        ([O, *[W] * 9], Symptom.HUNG, 9),
        ([O, *[T] * 8, O, *[T] * 8], None, None),
    ],
)
def test_a_probe_each_second(answers: list[ProbeResult], symptom: Symptom | None, second: int | None) -> None:
    found = run(each_second(answers))
    if symptom is None:
        assert found is None
    else:
        assert found is not None
        assert (found[1].symptom, found[0]) == (symptom, second)


def test_three_refusals_within_two_seconds_are_not_enough() -> None:
    assert run([(0.0, R, 0, 0), (0.1, R, 0, 0), (0.2, R, 0, 0), (1.9, R, 0, 0)]) is None
    assert run([(0.0, R, 0, 0), (0.1, R, 0, 0), (0.2, R, 0, 0), (2.0, R, 0, 0)]) is not None


def test_finding_tells_when_it_began_and_what_was_seen() -> None:
    found = run(each_second([O, R, R, R]))
    assert found is not None
    finding = found[1]
    assert finding.node == "kafka-1"
    assert finding.first_failed_at == START + timedelta(seconds=1)
    assert finding.detected_at == START + timedelta(seconds=3)
    assert len(finding.evidence) == 3
    assert "refused: as scripted" in finding.evidence[0]


def test_one_sickness_is_reported_once_and_the_next_one_anew() -> None:
    watch = FailureDetector()
    answers = [R, R, R, R, R, O, R, R, R]
    found = [watch.observe(probe(answer, s), float(s)) is not None for s, answer in enumerate(answers)]
    assert found == [False, False, True, False, False, False, False, False, True]


def test_a_watcher_that_was_late_does_not_count_its_own_standstill() -> None:
    # 20 s pass between two time-outs, 19 of them because the watcher itself was not scheduled.
    assert run([(0.0, T, 2.0, 0.0), (21.0, T, 2.0, 19.0)]) is None
    # Without the excuse the same probes are a hang.
    assert run([(0.0, T, 2.0, 0.0), (21.0, T, 2.0, 0.0)]) is not None


def test_a_watcher_that_is_always_late_still_finds_a_hang() -> None:
    found = run([(3.0 * n, T, 2.0, 1.2) for n in range(30)])
    assert found is not None
    assert found[1].symptom is Symptom.HUNG


gaps = st.floats(0.2, 2.2)
silent = st.sampled_from([T, W])


@given(st.lists(st.lists(st.tuples(silent, gaps), max_size=8), max_size=12))
def test_silence_with_an_answer_at_least_every_five_seconds_is_never_an_incident(
    runs: list[list[tuple[ProbeResult, float]]],
) -> None:
    watch, now_s = FailureDetector(), 0.0
    for run_ in runs:
        watch.observe(probe(O, now_s), now_s)
        last_ok_s = now_s
        for answer, latency_s in run_:
            if now_s + latency_s - last_ok_s > 5.0:
                break
            now_s += latency_s
            assert watch.observe(probe(answer, now_s - latency_s, latency_s), now_s) is None


@given(
    st.lists(st.tuples(st.sampled_from([O, R, T, W]), st.floats(0.0, 2.2), st.floats(0.0, 2.0)), max_size=60)
)
def test_a_finding_needs_three_refusals_or_eight_listened_seconds_since_the_last_answer(
    script: list[tuple[ProbeResult, float, float]],
) -> None:
    watch, now_s, since, late_s_sum = FailureDetector(), 0.0, 0.0, 0.0
    tail: list[ProbeResult] = []
    for answer, latency_s, late_s in script:
        start_s, now_s = now_s, now_s + latency_s + late_s
        late_s_sum += late_s
        finding = watch.observe(probe(answer, start_s, now_s - start_s), now_s, late_s)
        if answer is O:
            tail, since, late_s_sum = [], now_s, 0.0
            assert finding is None
            continue
        tail.append(answer)
        if finding is not None and finding.symptom is Symptom.HUNG:
            assert now_s - since - late_s_sum >= 8.0 - 1e-6
        if finding is not None and finding.symptom is Symptom.DOWN:
            assert tail[-3:] == [R, R, R]


@given(st.lists(silent, min_size=12, max_size=12), st.lists(st.floats(1.0, 2.2), min_size=12, max_size=12))
def test_unbroken_silence_is_declared_between_eight_and_twenty_seconds(
    answers: list[ProbeResult], latencies: list[float]
) -> None:
    script, start_s = [], 0.0
    for answer, latency_s in zip(answers, latencies, strict=True):
        script.append((start_s, answer, latency_s, 0.0))
        start_s += latency_s
    found = run(script)
    assert found is not None
    assert 8.0 <= found[0] <= 20.0
