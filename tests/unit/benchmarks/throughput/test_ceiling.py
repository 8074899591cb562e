from __future__ import annotations

import threading
from pathlib import Path

import pytest

from benchmarks.throughput import ceiling, writers
from benchmarks.throughput.writers import Load, pump_statements, share_rows
from kintsugi.core.errors import StepFailed


def test_a_sweep_measures_each_load_once_and_names_the_fastest() -> None:
    asked: list[Load] = []

    def rate_of(load: Load) -> float:
        asked.append(load)
        return {10: 5.0, 30: 9.0, 60: 7.0}[load.batch]

    tried: dict[Load, float] = {}
    loads = [Load(size, 8, 1) for size in (10, 30, 60)]
    assert ceiling.sweep_loads(loads, rate_of, tried) == loads[1]
    assert ceiling.sweep_loads(loads, rate_of, tried) == loads[1]
    assert asked == loads


def test_a_client_gets_its_partitions_in_statements_of_one_partition() -> None:
    partitions = [[("a", n) for n in range(5)], [("b", n) for n in range(2)], [("c", 0)]]
    mine = share_rows(partitions, Load(batch=2, in_flight=1, processes=2), 0)
    assert mine == [[("a", 0), ("a", 1)], [("a", 2), ("a", 3)], [("a", 4)], [("c", 0)]]
    assert share_rows(partitions, Load(2, 1, 2), 1) == [[("b", 0), ("b", 1)]]


def test_a_client_that_fails_before_it_is_ready_is_heard(tmp_path: Path) -> None:
    with pytest.raises(StepFailed, match="FileNotFoundError"):
        writers.measure_rate(["127.0.0.1"], tmp_path / "missing.pickle", Load(1, 1, 1), 1.0)


class Future:
    """Answers from a thread, as the driver does."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def add_callbacks(self, done, failed, callback_args=()) -> None:
        self._server.take(done, failed, callback_args)


class Server:
    """Acknowledges after 1 ms, and remembers how many statements were under way at most."""

    def __init__(self, failing_at: int | None = None) -> None:
        self.under_way = self.most = self.taken = 0
        self._failing_at = failing_at
        self._lock = threading.Lock()

    def take(self, done, failed, arguments) -> None:
        with self._lock:
            self.taken += 1
            self.under_way += 1
            self.most = max(self.most, self.under_way)
            number = self.taken

        def answer() -> None:
            with self._lock:
                self.under_way -= 1
            if number == self._failing_at:
                failed(OSError("refused"))
            else:
                done(None, *arguments)

        threading.Timer(0.001, answer).start()


def test_no_more_statements_are_under_way_than_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writers, "WARM_UP_S", 0.05)
    server = Server()
    rate = pump_statements(lambda rows: Future(server), [[("r",)] * 3], in_flight=4, seconds=0.3)
    assert server.most == 4
    assert 0 < rate <= 3 * server.taken / 0.3


def test_a_failed_write_fails_the_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writers, "WARM_UP_S", 0.0)
    server = Server(failing_at=5)
    with pytest.raises(OSError, match="refused"):
        pump_statements(lambda rows: Future(server), [[("r",)]], in_flight=2, seconds=5)
    assert server.taken < 20


def test_a_load_that_cassandra_does_not_take_is_no_ceiling() -> None:
    def rate_of(load: Load) -> float:
        if load.in_flight > 16:
            raise StepFailed("WriteTimeout")
        return 5.0

    tried: dict[Load, float] = {}
    loads = [Load(30, number, 1) for number in (16, 64)]
    assert ceiling.sweep_loads(loads, rate_of, tried) == loads[0]
    assert tried[loads[1]] == 0.0


def test_a_load_that_fails_when_it_is_repeated_gives_way_to_the_next_best() -> None:
    fast, slow = Load(1, 512, 2), Load(1, 256, 1)

    def rate_of(load: Load) -> float:
        if load == fast:
            raise StepFailed("WriteTimeout")
        return 4.0

    tried = {slow: 5.0, fast: 9.0}
    assert ceiling.repeat_best(tried, rate_of) == (slow, [5.0, *[4.0] * ceiling.REPEATS])
    assert tried[fast] == 0.0
    with pytest.raises(StepFailed, match="under every load"):
        ceiling.repeat_best({fast: 9.0}, rate_of)
