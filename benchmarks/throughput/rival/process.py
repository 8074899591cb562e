"""The rival as a process: started, given one drain after another, and ended."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from benchmarks.throughput.rival.environment import RivalEnvironment
from benchmarks.throughput.rival.tuning import RivalBatch, read_batches
from kintsugi.core.errors import StepFailed
from kintsugi.core.fleet import REPOSITORY
from kintsugi.core.settings import allowed_variables

APPLICATION = Path(__file__).with_name("application.py")
ANSWER = "answer "  # as the application's, which can't be imported without a Spark
ADDRESS = "127.0.0.1"
START_S = 120.0
STOP_S = 20.0
LATE_S = 30.0


class RivalProcess:
    """A running rival that waits for its next drain; see `run_rival`."""

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self._process, self._log = process, log
        self._answers: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        threading.Thread(target=self._read_answers, name="rival", daemon=True).start()

    def wait_for_start(self) -> str:
        """Return the version of its Spark; raises StepFailed when it doesn't start."""
        return str(self._next_answer(START_S)["spark"])

    def drain_topic(self, drain: Mapping[str, Any]) -> list[RivalBatch]:
        """Let it do one drain, which has ``seconds`` for it; raises StepFailed with the reason when it fails."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it ended: then there is no answer either
            self._process.stdin.write(json.dumps(drain) + "\n")
            self._process.stdin.flush()
        return read_batches(self._next_answer(drain["seconds"] + LATE_S)["batches"])

    def _next_answer(self, seconds: float) -> dict[str, Any]:
        try:
            answer = self._answers.get(timeout=seconds)
        except queue.Empty:
            answer = {"error": f"no answer within {seconds:.0f} s"}
        if answer is None:
            answer = {"error": "it ended"}
        if "error" in answer:
            raise StepFailed(f"the rival failed: {answer['error']}; see {self._log}")
        return answer

    def _read_answers(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(ANSWER):
                self._answers.put(json.loads(line.removeprefix(ANSWER)))
        self._answers.put(None)


@contextmanager
def run_rival(environment: RivalEnvironment, configuration: Path, log: Path) -> Iterator[RivalProcess]:
    """Run a rival with Spark's configuration in this directory during the block. It writes its log to ``log``."""
    variables = allowed_variables(os.environ, ("PATH", "JAVA_HOME", "LANG", "HOME", "TMPDIR")) | {
        "PYTHONPATH": str(REPOSITORY / "plugins"),
        "PYSPARK_PYTHON": str(environment.python),
        "SPARK_CONF_DIR": str(configuration),
        "SPARK_LOCAL_IP": ADDRESS,
    }
    with log.open("w") as errors:
        process = subprocess.Popen(
            [str(environment.python), str(APPLICATION)],
            env=variables, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True,
            start_new_session=True,
        )  # fmt: skip
    try:
        rival = RivalProcess(process, log)
        rival.wait_for_start()
        yield rival
    finally:
        _end_process(process)


def _end_process(process: subprocess.Popen[str]) -> None:
    """Let it end with its input, and kill it and its JVM if it doesn't."""
    assert process.stdin is not None
    with suppress(BrokenPipeError):
        process.stdin.close()
    with suppress(subprocess.TimeoutExpired):
        process.wait(timeout=STOP_S)
    with suppress(ProcessLookupError):  # the usual case: nobody is left of its session
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
