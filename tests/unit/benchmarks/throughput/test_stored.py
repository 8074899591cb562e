from __future__ import annotations

from typing import Any

import pytest
from cassandra import ReadTimeout

from benchmarks.throughput import stored
from kintsugi.core.errors import StepFailed

PLACES = [("A", "2025-01-07", number) for number in range(12)]


class Future:
    def __init__(self, answer: Any) -> None:
        self._answer = answer

    def result(self) -> Any:
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer


class Session:
    """Answers each partition with its own key; the first ``failures`` reads of each fail."""

    def __init__(self, failures: int) -> None:
        self.asked: dict[tuple[str, str, int], int] = {}
        self._failures = failures
        self.prepared: list[str] = []

    def prepare(self, text: str) -> Any:
        self.prepared.append(text)
        return type("Statement", (), {"is_idempotent": True})()

    def execute_async(self, statement: Any, place: tuple[str, str, int]) -> Future:
        assert not statement.is_idempotent, "the driver would speculate"
        self.asked[place] = self.asked.get(place, 0) + 1
        return Future(ReadTimeout("slow") if self.asked[place] <= self._failures else [place])


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.throughput.stored.time.sleep", lambda seconds: None)


def test_every_partition_is_read_although_reads_fail_at_first() -> None:
    session: Any = Session(failures=2)
    assert dict(stored.read_trades(session, PLACES, ("trade_id",))) == {place: [place] for place in PLACES}
    assert set(session.asked.values()) == {3}


def test_a_partition_that_cannot_be_read_is_an_error_and_not_a_loss() -> None:
    session: Any = Session(failures=99)
    with pytest.raises(StepFailed, match="can't be read at LOCAL_QUORUM"):
        list(stored.read_trades(session, PLACES, ("trade_id",)))


def test_another_table_is_read_if_it_is_named() -> None:
    session: Any = Session(failures=0)
    list(stored.read_trades(session, PLACES, ("trade_id",), table="bench_rival.trade_9"))
    list(stored.read_trades(session, PLACES, ("trade_id",)))
    named, usual = session.prepared
    assert " FROM bench_rival.trade_9 WHERE " in named
    assert " FROM trades.trade WHERE " in usual
