from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kintsugi.core.processes import (
    MARKER,
    PART,
    carries_marker,
    find_listener,
    is_running_in,
    kill_owned,
    owned_pids,
    signal_if,
    wait_until,
)

# A parent whose child goes on in a session of its own after the parent was killed, as Airflow's tasks do.
FAMILY = """
import os, sys, time
if os.fork() == 0:
    os.setsid()
    open(sys.argv[1], "w").write(str(os.getpid()))
time.sleep(60)
"""


@pytest.fixture
def family(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    born = tmp_path / "born"
    environment = {**os.environ, MARKER: str(tmp_path), PART: "airflow"}
    parent = subprocess.Popen([sys.executable, "-c", FAMILY, str(born)], env=environment)
    assert wait_until(lambda: born.exists() and born.read_text() != "", 10)
    child = int(born.read_text())
    yield parent, child
    for pid in (parent.pid, child):
        signal_if(pid, signal.SIGKILL, lambda number: carries_marker(number, tmp_path))
    parent.wait()


def test_an_orphan_in_its_own_session_is_still_known_and_ended(
    family: tuple[subprocess.Popen[bytes], int], tmp_path: Path
) -> None:
    parent, child = family
    parent.kill()
    parent.wait()
    assert owned_pids(tmp_path) == {child}
    assert kill_owned(tmp_path) == 1
    assert wait_until(lambda: not Path(f"/proc/{child}").exists() or not carries_marker(child, tmp_path), 5)


def test_a_part_is_told_from_the_whole(family: tuple[subprocess.Popen[bytes], int], tmp_path: Path) -> None:
    assert len(owned_pids(tmp_path, "airflow")) == 2
    assert owned_pids(tmp_path, "storage") == set()
    assert kill_owned(tmp_path, "storage") == 0


def test_another_installation_is_left_alone(
    family: tuple[subprocess.Popen[bytes], int], tmp_path: Path
) -> None:
    assert kill_owned(tmp_path / "other") == 0
    assert kill_owned(tmp_path.parent) == 0, "a path that ours merely begins with isn't ours"
    assert family[0].poll() is None


def test_no_signal_without_proof(family: tuple[subprocess.Popen[bytes], int]) -> None:
    parent, _ = family
    assert not signal_if(parent.pid, signal.SIGKILL, lambda _: False)
    assert parent.poll() is None


def test_signal_to_a_pid_that_is_gone_is_no_error() -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    assert not signal_if(gone.pid, signal.SIGKILL, lambda _: True)


def test_listener_is_found_by_address_and_port() -> None:
    with socket.create_server(("127.34.7.1", 0)) as server:
        port = server.getsockname()[1]
        found = find_listener("127.34.7.1", port)
        assert found is not None
        assert found.pid == os.getpid()
        assert find_listener("127.34.7.2", port) is None


def test_ipv6_wildcard_counts_for_every_address() -> None:
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as server:
        assert find_listener("127.34.7.3", server.getsockname()[1]) is not None


def test_an_ipv4_address_of_an_ipv6_socket_counts() -> None:
    """So a JVM listens, and the S3 server was not found."""
    with socket.create_server(
        ("::ffff:127.34.7.4", 0), family=socket.AF_INET6, dualstack_ipv6=True
    ) as server:
        port = server.getsockname()[1]
        found = find_listener("127.34.7.4", port)
        assert found is not None
        assert found.pid == os.getpid()
        assert find_listener("127.34.7.5", port) is None


def test_process_is_known_by_its_working_directory(tmp_path: Path) -> None:
    assert is_running_in(os.getpid(), Path.cwd())
    assert not is_running_in(os.getpid(), tmp_path)


def test_wait_until_gives_up_at_its_deadline() -> None:
    assert not wait_until(lambda: False, 0.05, pause=0.01)
    assert wait_until(lambda: True, 0)
