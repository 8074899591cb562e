"""Which tasks go before the rest of the machine."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from airflow.sdk.listener import get_listener_manager

BEGIN = """
import os, sys
from types import SimpleNamespace
from kintsugi import niceness
from task_priority_plugin import StepBack
niceness.go_first()
task = SimpleNamespace(pool=sys.argv[1])
StepBack().on_task_instance_running(None, SimpleNamespace(task=task))
print(niceness.place())
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="without root no process goes first")
@pytest.mark.parametrize(("pool", "niceness"), [("recovery", -10), ("default_pool", 0), ("ingest", 0)])
def test_a_recovery_goes_first_and_other_tasks_step_back(pool: str, niceness: int) -> None:
    began = subprocess.run(
        [sys.executable, "-c", BEGIN, pool], check=True, capture_output=True, text=True, timeout=120
    )
    assert int(began.stdout.splitlines()[-1]) == niceness


def test_a_task_that_was_never_in_front_stays_where_it_is() -> None:
    before = os.getpriority(os.PRIO_PROCESS, 0)
    later = BEGIN.replace("niceness.go_first()", "os.nice(5)")
    began = subprocess.run(
        [sys.executable, "-c", later, "ingest"], check=True, capture_output=True, text=True, timeout=120
    )
    assert int(began.stdout.splitlines()[-1]) == before + 5


def test_airflow_calls_the_listener() -> None:
    listeners = {type(listener).__name__ for listener in get_listener_manager().pm.get_plugins()}
    assert "StepBack" in listeners
