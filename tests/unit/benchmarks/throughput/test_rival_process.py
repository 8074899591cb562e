"""The rival's process: its answers, its errors, and its end. A script stands in for the rival's Python."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmarks.throughput.rival import process
from benchmarks.throughput.rival.environment import RivalEnvironment
from benchmarks.throughput.rival.process import RivalProcess, run_rival
from benchmarks.throughput.rival.tuning import RivalBatch
from kintsugi.core.errors import StepFailed
from kintsugi.core.processes import start_time, wait_until

DRAIN = {"seconds": 5.0}
STARTED = 'print(\'answer {"spark": "3.5.1"}\', flush=True)'


@contextmanager
def rival(tmp_path: Path, *lines: str) -> Iterator[RivalProcess]:
    """Run a rival whose Python is a script of these lines."""
    python = tmp_path / "python"
    python.write_text("\n".join((f"#!{sys.executable}", "import os, sys, time", *lines, "")))
    python.chmod(0o755)
    with run_rival(RivalEnvironment(python, ()), tmp_path / "conf", tmp_path / "rival.log") as started:
        yield started


def test_each_drain_gets_its_answer_and_other_lines_are_none(tmp_path: Path) -> None:
    answer = 'print(\'answer {"batches": [["1970-01-01T00:00:01Z", 500, 7]]}\', flush=True)'
    with rival(tmp_path, STARTED, "for line in sys.stdin:", " print('WARN noise')", f" {answer}") as running:
        for _ in range(2):
            assert running.drain_topic(DRAIN) == [RivalBatch(1.5, 7)]


def test_a_drain_that_fails_is_a_failed_step_with_the_reason(tmp_path: Path) -> None:
    answer = 'print(\'answer {"error": "WriteTimeout"}\', flush=True)'
    script = (STARTED, "for line in sys.stdin:", f" {answer}")
    with rival(tmp_path, *script) as running, pytest.raises(StepFailed, match="WriteTimeout"):
        running.drain_topic(DRAIN)


def test_a_rival_that_ends_is_noticed_at_once(tmp_path: Path) -> None:
    with rival(tmp_path, STARTED, "sys.stdin.readline()") as running, pytest.raises(StepFailed):
        running.drain_topic({"seconds": 500.0})


def test_a_rival_that_does_not_start_is_a_failed_step(tmp_path: Path) -> None:
    with pytest.raises(StepFailed), rival(tmp_path, "sys.exit(1)"):
        pass


def test_nothing_of_the_rival_is_left_although_it_does_not_end_with_its_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "STOP_S", 0.2)
    noted = tmp_path / "pids"
    child = f"child = os.fork(); open({str(noted)!r}, 'a').write(f'{{os.getpid()}}\\n')"
    with rival(tmp_path, child, STARTED, "time.sleep(600)"):
        pids = [int(line) for line in noted.read_text().splitlines()]
    assert pids
    # A process that was killed is gone a moment after the signal.
    assert wait_until(lambda: all(start_time(pid) is None for pid in pids), 10)


def test_no_secret_of_the_benchmark_reaches_the_rival(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_KINTSUGI_STORE", "postgres://secret")
    monkeypatch.setenv("SPARK_HOME", "/another/spark")
    told = tmp_path / "environment"
    with rival(tmp_path, f"open({str(told)!r}, 'w').write(repr(dict(os.environ)))", STARTED):
        pass
    assert "postgres://" not in told.read_text()
    assert "SPARK_HOME" not in told.read_text()
    assert f"'SPARK_CONF_DIR': '{tmp_path / 'conf'}'" in told.read_text()
