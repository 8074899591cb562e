"""A step of a recovery goes before the rest of the machine, and leaves no trace of it."""

from __future__ import annotations

import os
import subprocess
import sys

from kintsugi.recovery.case import URGENT, first_in_line

NICENESS = "import os; print(os.getpriority(os.PRIO_PROCESS, 0))"


def test_a_step_and_what_it_starts_go_first_and_only_while_it_runs() -> None:
    before = os.getpriority(os.PRIO_PROCESS, 0)
    expected = min(before, URGENT) if os.geteuid() == 0 else before  # only root may
    with first_in_line():
        child = subprocess.run([sys.executable, "-c", NICENESS], capture_output=True, text=True, check=True)
    assert int(child.stdout) == expected
    assert os.getpriority(os.PRIO_PROCESS, 0) == before
