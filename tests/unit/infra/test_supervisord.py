from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kintsugi.core.errors import PreflightError, StepFailed
from kintsugi.core.processes import MARKER, kill_owned, wait_until
from kintsugi.infra.supervisord import Program, Supervisor, write_private

SHOW = "import sys, time; open(sys.argv[1], 'w').write(sys.argv[2]); time.sleep(60)"
AWKWARD = "50% of 'this'; \"that\" and $HOME"


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Supervisor]:
    supervisor = Supervisor(tmp_path)
    shown = [sys.executable, "-c", SHOW, str(tmp_path / "shown"), AWKWARD]
    supervisor.write([Program("show", shown), Program("idle", ["/bin/sleep", "60"])])
    supervisor.launch({"PATH": os.environ["PATH"], MARKER: str(tmp_path)})
    yield supervisor
    kill_owned(tmp_path)


def test_awkward_arguments_arrive_as_they_are(supervisor: Supervisor, tmp_path: Path) -> None:
    supervisor.start("show")
    shown = tmp_path / "shown"
    assert wait_until(lambda: shown.exists() and shown.read_text() == AWKWARD, 10)


def test_killed_program_comes_back_and_a_stopped_one_stays_down(supervisor: Supervisor) -> None:
    supervisor.start("idle")
    assert wait_until(lambda: supervisor.states()["idle"]["state"] == "RUNNING", 10)
    first = supervisor.states()["idle"]["pid"]
    os.kill(first, signal.SIGKILL)
    assert wait_until(lambda: supervisor.states()["idle"]["pid"] not in (0, first), 10)
    supervisor.stop("idle")
    assert supervisor.states()["idle"]["state"] == "STOPPED"


def test_a_daemon_that_is_shutting_down_is_waited_for(supervisor: Supervisor, tmp_path: Path) -> None:
    deaf = "import signal, time;"
    deaf += "signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"
    program = Program("deaf", [sys.executable, "-c", deaf], stop_seconds=2)
    supervisor.add("deaf", [program])
    supervisor.start("deaf")
    assert wait_until(lambda: "deaf" in (tmp_path / "log" / "deaf.log").read_text(), 20)
    first = supervisor.pid()
    supervisor._proxy().supervisor.shutdown()
    supervisor.launch({"PATH": os.environ["PATH"], MARKER: str(tmp_path)})
    assert supervisor.answers()
    assert supervisor.pid() not in (None, first)


def test_starting_and_stopping_twice_is_no_error(supervisor: Supervisor) -> None:
    supervisor.start("idle", "idle")
    supervisor.stop("idle")
    supervisor.stop("idle")


def test_unknown_program_is_an_error_in_one_line(supervisor: Supervisor) -> None:
    with pytest.raises(StepFailed, match="BAD_NAME"):
        supervisor.start("nobody")


def test_daemon_that_is_gone_has_no_pid_no_states_and_a_clear_error(tmp_path: Path) -> None:
    supervisor = Supervisor(tmp_path)
    (tmp_path / "supervisord.pid").write_text(f"{os.getpid()}\n")  # reused by somebody else: us
    assert supervisor.pid() is None
    assert supervisor.states() == {}
    assert not supervisor.answers()
    with pytest.raises(StepFailed, match="make down"):
        supervisor.start("idle")


def test_path_too_long_for_a_socket_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(PreflightError, match="KINTSUGI_STATE"):
        Supervisor(tmp_path / ("x" * 100)).write([])


def test_private_file_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    write_private(path, "one")
    write_private(path, "two")
    assert path.read_text() == "two"
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_an_argument_with_a_line_break_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PreflightError):
        Supervisor(tmp_path).write([Program("show", ["/bin/true", "x\n[program:y]\ncommand=/bin/id"])])
