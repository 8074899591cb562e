"""When processor time was missing, to a node or to us."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from kintsugi.core.errors import StepFailed
from kintsugi.core.observation import ProcessorUse
from kintsugi.recovery.diagnosis import FailureMode
from kintsugi.recovery.fact_gathering import Suspicion, find_starvation, is_running

NOW = datetime(2026, 8, 1, 2, 15, tzinfo=UTC)


def suspicion(
    watch_late_s: float = 0.0, detected_s_ago: float = 1.0, failure_mode: FailureMode = FailureMode.HUNG
) -> Suspicion:
    detected = NOW - timedelta(seconds=detected_s_ago)
    return Suspicion(failure_mode, detected - timedelta(seconds=8), detected, None, None, watch_late_s)


STOPPED = ProcessorUse(seconds=1.5, used_s=0.0, waited_s=0.0)
DEADLOCKED = ProcessorUse(seconds=1.5, used_s=0.02, waited_s=0.1)
BUSY = ProcessorUse(seconds=1.5, used_s=1.0, waited_s=1.2)  # it runs half of the time that it wants to
STARVED = ProcessorUse(seconds=1.5, used_s=0.05, waited_s=4.0)


@pytest.mark.parametrize("use", [None, STOPPED, DEADLOCKED, BUSY])
def test_a_node_that_does_not_wait_for_the_processor_is_not_starved(use: ProcessorUse | None) -> None:
    assert find_starvation("kafka-1", use, 0.0, suspicion(), NOW) is None


@pytest.mark.parametrize(
    ("use", "own_lag_s", "given"),
    [
        (STARVED, 0.0, suspicion()),
        (None, 1.1, suspicion()),
        (STOPPED, 0.0, suspicion(watch_late_s=2.1, detected_s_ago=19)),
    ],
)
def test_missing_processor_time_is_seen(use: ProcessorUse | None, own_lag_s: float, given: Suspicion) -> None:
    found = find_starvation("kafka-1", use, own_lag_s, given, NOW)
    assert found is not None
    assert found.until > NOW


@pytest.mark.parametrize(
    "failure_mode",
    [FailureMode.DATA_DAMAGED, FailureMode.DISK_FULL, FailureMode.DISK_LOST, FailureMode.MISCONFIGURED],
)
def test_a_lack_of_processor_time_does_not_explain_what_the_node_tells_of_itself(
    failure_mode: FailureMode,
) -> None:
    shown = suspicion(watch_late_s=5.0, failure_mode=failure_mode)
    assert find_starvation("cassandra-3", STARVED, 2.0, shown, NOW) is None


@pytest.mark.parametrize(
    "failure_mode", [FailureMode.PROCESS_DOWN, FailureMode.HOST_LOST, FailureMode.PARTITIONED]
)
def test_a_lack_of_processor_time_may_explain_that_nothing_answers(failure_mode: FailureMode) -> None:
    assert find_starvation("cassandra-3", STARVED, 0.0, suspicion(failure_mode=failure_mode), NOW) is not None


def test_a_watch_that_was_late_long_ago_says_nothing() -> None:
    assert find_starvation("kafka-1", STOPPED, 0.0, suspicion(5.0, detected_s_ago=20), NOW) is None


def test_a_platform_that_cannot_say_is_no_proof_of_death() -> None:
    def away(name: str) -> str | None:
        raise StepFailed("the Docker engine doesn't answer")

    def platform(answer: Any) -> Any:
        return SimpleNamespace(incarnation=answer)

    assert is_running(platform(away), "kafka-1") is None
    assert is_running(platform(lambda name: None), "kafka-1") is False
    assert is_running(platform(lambda name: "7@1"), "kafka-1") is True
