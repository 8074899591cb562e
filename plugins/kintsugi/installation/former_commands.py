"""Commands of the last release that have another name now, or are commands of `benchmarks/`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from kintsugi.core.fleet import REPOSITORY
from kintsugi.installation.command_line import print_new_name

RENAMED = {"form-anew": "recreate-cluster", "form_anew": "recreate-cluster"}
"""Commands that had another name in the last release."""
MOVED = {
    "bench": "bench",
    "calm": "false-positive-test",
    "chaos-campaign": "chaos-campaign",
    "chaos_campaign": "chaos-campaign",
    "demo": "demo",
    "faults": "fault-matrix",
    "mttr": "mttr",
    "release-trials": "release-trials",
    "rounds": "sequential-recovery",
    "signals": "signals",
    "soak": "soak-kill",
    "stall-test": "stall-test",
    "stall_test": "stall-test",
    "walk": "crash-test",
}
"""Commands of the last release that are commands of `benchmarks/` now."""


def run_moved_command(words: Sequence[str]) -> None:
    """Become the benchmark that ``words`` call by the name of a command of the last release; else do nothing."""
    if list(words[:2]) == ["release", "trials"]:
        words = ["release-trials", *words[2:]]
    if words and words[0] in MOVED:
        _become_benchmark(MOVED[words[0]], words)


def _become_benchmark(command: str, words: Sequence[str]) -> NoReturn:
    """Become `python -m benchmarks`, which stands beside the product, for a command that was one of this program."""
    print_new_name(f"kintsugi {words[0]}", f"python -m benchmarks {command}")
    path = os.pathsep.join(filter(None, (str(REPOSITORY), os.environ.get("PYTHONPATH"))))
    arguments = [sys.executable, "-m", "benchmarks", command, *words[1:]]
    os.execve(sys.executable, arguments, {**os.environ, "PYTHONPATH": path})  # noqa: S606 - no shell is wanted
