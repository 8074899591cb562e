from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Hashable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest  # noqa: TC002
from sqlalchemy.exc import OperationalError

from kintsugi.controlplane import airflow_patches
from kintsugi.controlplane.airflow_patches import (
    AIRFLOW_VERSION,
    ALL_AFTER_S,
    BLIND_S,
    EXECUTOR,
    ChangeAwareTime,
    ChangedRunsFirst,
)
from kintsugi.core.settings import STOCK_AIRFLOW


def after(seconds: float, before: Hashable, then: Hashable) -> Callable[[], Hashable]:
    start = time.monotonic()
    return lambda: before if time.monotonic() < start + seconds else then


def seconds_of(patched: ChangeAwareTime, most: float) -> float:
    start = time.monotonic()
    patched.sleep(most)
    return time.monotonic() - start


def informed_time(read_state: Callable[[], Hashable]) -> ChangeAwareTime:
    """One that has read the state once."""
    patched = ChangeAwareTime(read_state)
    patched.sleep(0)
    return patched


def test_it_sleeps_as_long_as_nothing_changes() -> None:
    assert seconds_of(informed_time(lambda: 1), 0.7) >= 0.7


def test_a_change_ends_the_sleep() -> None:
    patched = informed_time(after(0.3, 1, 2))
    assert 0.1 < seconds_of(patched, 20) < 10
    assert seconds_of(patched, 0.5) >= 0.5  # and is known from then on


def test_a_change_while_the_scheduler_was_at_work_ends_the_next_sleep() -> None:
    state = [1]
    patched = informed_time(lambda: state[0])
    state[0] = 2
    assert seconds_of(patched, 20) < 10


def test_a_database_that_does_not_answer_makes_the_sleep_short_and_is_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail() -> Hashable:
        raise OperationalError("SELECT", {}, Exception("gone"))

    patched = ChangeAwareTime(fail)
    assert BLIND_S <= seconds_of(patched, 20) < 10
    assert seconds_of(patched, 0.1) >= 0.1
    assert len(caplog.records) == 1


def test_the_other_names_of_the_module_time_are_there() -> None:
    assert abs(ChangeAwareTime(lambda: 1).time() - time.time()) < 10


def test_runs_that_have_not_changed_are_examined_once_in_a_while() -> None:
    now, changed = [0.0], {2}
    every = cast("Any", lambda session: [SimpleNamespace(id=1), SimpleNamespace(id=2), SimpleNamespace(id=3)])
    examined = ChangedRunsFirst(every, lambda _: changed, lambda: now[0])

    def examined_ids() -> list[int]:
        return [run.id for run in examined(session=cast("Any", None))]

    assert examined_ids() == [1, 2, 3]
    assert examined_ids() == [2]
    now[0] = ALL_AFTER_S - 0.1
    changed.clear()
    assert examined_ids() == []
    now[0] = ALL_AFTER_S
    assert examined_ids() == [1, 2, 3]
    assert examined_ids() == []


# What a scheduler's process gets, and whether another process loads Airflow for the patches.
IN_A_SCHEDULER = """
import logging, os, sys
from kintsugi.controlplane import airflow_patches
assert "airflow" not in sys.modules, "a process that is no scheduler would load Airflow"
logging.basicConfig(format="%(levelname)s", stream=sys.stdout)
airflow_patches.AIRFLOW_VERSION = sys.argv[1]
print(airflow_patches.apply_patches())
from airflow.cli import cli_parser
from airflow.executors.executor_loader import ExecutorLoader
from airflow.jobs import scheduler_job_runner
from airflow.models.dagrun import DagRun
name = ExecutorLoader.get_default_executor_name()
print(name.module_path, ExecutorLoader.import_executor_cls(name)[0].__name__)
print(type(scheduler_job_runner.time).__name__, type(DagRun.get_running_dag_runs_to_examine).__name__)
"""


def scheduler_says(tmp_path: Path, version: str = AIRFLOW_VERSION, **environment: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", IN_A_SCHEDULER, version],
        env=os.environ | {"AIRFLOW_HOME": str(tmp_path), "AIRFLOW__CORE__EXECUTOR": "LocalExecutor"} | environment,
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout.splitlines()


STOCK = ["airflow.executors.local_executor.LocalExecutor LocalExecutor", "module method"]


def test_the_scheduler_of_the_installed_airflow_is_patched(tmp_path: Path) -> None:
    assert scheduler_says(tmp_path) == [
        "True",
        f"{EXECUTOR} LifeCountingExecutor",
        "ChangeAwareTime ChangedRunsFirst",
    ]


def test_an_airflow_of_another_version_is_not_patched_and_a_warning_is_logged(tmp_path: Path) -> None:
    assert scheduler_says(tmp_path, version="3.3.1") == ["WARNING", "False", *STOCK]


def test_one_setting_runs_stock_airflow(tmp_path: Path) -> None:
    assert scheduler_says(tmp_path, **{STOCK_AIRFLOW: "1"}) == ["WARNING", "False", *STOCK]


def test_the_warning_names_both_versions(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(airflow_patches, "version", lambda _: "3.4.0")
    assert not airflow_patches.apply_patches()
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert {"3.4.0", AIRFLOW_VERSION} <= set(record.getMessage().replace(";", "").replace(",", "").split())
