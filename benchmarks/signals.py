"""Run `benchmarks/signals_application.py` in a process of its own, because its Spark must end with it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from kintsugi.core.fleet import REPOSITORY


def run_signals(*, levels: Sequence[str], seeds: Sequence[int], trades: int, report: Path) -> int:
    """Return the exit status; without levels or seeds all levels, and the seeds of the evaluation."""
    command = [sys.executable, "-m", "benchmarks.signals_application"]
    command += ["--trades", str(trades), "--report", str(report.resolve())]
    for name, values in (("--level", levels), ("--seed", seeds)):
        for value in values:
            command += [name, str(value)]
    path = os.pathsep.join((str(REPOSITORY / "plugins"), str(REPOSITORY)))
    environment = {"PYTHONPATH": path, "PYSPARK_PYTHON": sys.executable, "SPARK_LOCAL_IP": "127.0.0.1"}
    return subprocess.run(command, cwd=REPOSITORY, env={**os.environ, **environment}, check=False).returncode
