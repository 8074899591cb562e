"""Which tasks go before the rest of the machine."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from airflow.sdk.listener import get_listener_manager

from kintsugi.core.process_priority import IN_A_WORKER, SERVER, URGENT

BEGIN = """
import os, sys
from types import SimpleNamespace
from kintsugi.core import process_priority
from task_priority_plugin import StepBack
os.setsid()
process_priority.raise_priority()
task = SimpleNamespace(pool=sys.argv[1])
StepBack().on_task_instance_running(None, SimpleNamespace(task=task))
print(process_priority.read_niceness())
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="without root no process goes first")
@pytest.mark.parametrize(
    ("pool", "niceness"),
    [("recovery", URGENT), ("rejoin", URGENT), ("default_pool", SERVER), ("ingest", SERVER)],
)
def test_a_recovery_goes_first_and_other_tasks_step_back(pool: str, niceness: int) -> None:
    began = begin(BEGIN, pool, {IN_A_WORKER: "1"})
    assert int(began.stdout.splitlines()[-1]) == niceness


def test_without_root_a_task_steps_back_too() -> None:
    began = begin(BEGIN.replace("process_priority.raise_priority()", ""), "ingest", {IN_A_WORKER: "1"})
    assert int(began.stdout.splitlines()[-1]) == max(SERVER, os.getpriority(os.PRIO_PROCESS, 0))


def test_a_task_outside_of_a_worker_stays_where_it_is() -> None:
    """So does the process of a test that runs a DAG."""
    began = begin(BEGIN.replace("process_priority.raise_priority()", "os.nice(5)"), "ingest", {})
    assert int(began.stdout.splitlines()[-1]) == min(os.getpriority(os.PRIO_PROCESS, 0) + 5, 19)


def begin(program: str, pool: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run ``program`` for a task of ``pool``, in a session of its own."""
    return subprocess.run(
        [sys.executable, "-c", program, pool],
        env=os.environ | environment, check=True, capture_output=True, text=True, timeout=120,
    )  # fmt: skip


def test_airflow_calls_the_listener() -> None:
    listeners = {type(listener).__name__ for listener in get_listener_manager().pm.get_plugins()}
    assert "StepBack" in listeners
