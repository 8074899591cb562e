"""A step of a recovery goes before the rest of the machine, and leaves no trace of it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kintsugi.core.process_priority import URGENT, first_in_line, read_niceness

NICENESS = "import os; print(os.getpriority(os.PRIO_PROCESS, 0))"
OF_SESSION = Path("/proc/self/autogroup")
# Prints the niceness of a session of its own: within first_in_line, and after it.
IN_A_SESSION = """
import os
from pathlib import Path
from kintsugi.core.process_priority import first_in_line
os.setsid()
with first_in_line():
    print(Path("/proc/self/autogroup").read_text().split()[-1])
print(Path("/proc/self/autogroup").read_text().split()[-1])
"""


def test_a_step_and_what_it_starts_go_first_and_only_while_it_runs() -> None:
    before = read_niceness()
    expected = min(before, URGENT) if os.geteuid() == 0 else before  # only root may
    with first_in_line():
        child = subprocess.run([sys.executable, "-c", NICENESS], capture_output=True, text=True, check=True)
    assert int(child.stdout) == expected
    assert read_niceness() == before


@pytest.mark.skipif(not OF_SESSION.exists(), reason="this kernel shares nothing out among sessions")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may go before others")
def test_its_session_goes_first_too_because_niceness_counts_only_within_one() -> None:
    program = subprocess.run(
        ["nice", "-n", "0", sys.executable, "-c", IN_A_SESSION],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert program.stdout.split() == [str(URGENT), str(read_niceness())]
