"""Too little processor time, a slow disk, a mount that is gone and a full one: on processes and mounts of our own."""

from __future__ import annotations

import ctypes
import errno
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kintsugi.chaos import mounts, resources, service_processes
from kintsugi.core.fleet import Node, Role
from kintsugi.core.processes import start_time
from kintsugi.core.settings import Settings
from kintsugi.environments.local.node_process import (
    InitRecord,
    namespace_of,
    record_path,
    write_record,
)
from tests.installations import installation
from tests.integration.servers import wait_until

pytestmark = pytest.mark.timed

CLONE_NEWNS = 0x00020000
MIB = 1024 * 1024


@pytest.fixture
def settings() -> Iterator[Settings]:
    with tempfile.TemporaryDirectory(prefix="kintsugi-test-", dir="/var/tmp") as directory:
        yield installation(Path(directory), "127.97")


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


# --- processor --------------------------------------------------------------------------------------------


def test_each_loop_has_a_session_of_its_own_and_ends_by_itself() -> None:
    loops = resources.start_busy_loops(0.3, "test-a", loops=2)
    sessions = {os.getsid(loop.pid) for loop in loops}
    assert sessions == {loop.pid for loop in loops}
    assert [loop.wait(timeout=20) for loop in loops] == [-9, -9]


def test_loops_are_found_and_ended_by_their_mark_and_others_stay() -> None:
    ours, others = (
        resources.start_busy_loops(60, "test-b", loops=2),
        resources.start_busy_loops(60, "test-c", loops=1),
    )
    try:
        assert resources.end_processes("test-b") >= 2
        assert [loop.wait(timeout=20) is not None for loop in ours] == [True, True]
        assert others[0].poll() is None
    finally:
        resources.end_processes("test-c")
        others[0].wait(timeout=20)


# --- disk -------------------------------------------------------------------------------------------------


def write_and_sync(path: Path, size: int) -> str:
    return (
        f"import os; f = os.open({str(path)!r}, os.O_CREAT | os.O_WRONLY); "
        f"os.write(f, bytes({size})); os.fsync(f); os.close(f)"
    )


def test_a_slow_disk_slows_what_is_synced_until_it_is_taken_back(settings: Settings) -> None:
    if (why := resources.slow_disk_unavailable(settings)) is not None:
        pytest.skip(why)
    group, device = resources.group_of(settings, "test"), resources._disk_device(settings)
    gate = "import sys; sys.stdin.readline(); "
    file = settings.fleet_file.parent / "x"

    def seconds(*, slow: bool) -> float:
        writer = subprocess.Popen(
            [sys.executable, "-c", gate + write_and_sync(file, MIB)], stdin=subprocess.PIPE
        )
        if slow:
            resources.limit_processes(group, device, [writer.pid], MIB // 2)
        began = time.monotonic()
        writer.communicate(b"go\n", timeout=60)
        return time.monotonic() - began

    try:
        assert seconds(slow=True) >= 1.5
    finally:
        assert resources.remove_limit(group)
    assert not resources.remove_limit(group)
    assert seconds(slow=False) < 1.5


def test_who_lives_in_the_slow_group_goes_on_when_it_is_removed(settings: Settings) -> None:
    if (why := resources.slow_disk_unavailable(settings)) is not None:
        pytest.skip(why)
    group = resources.group_of(settings, "test")
    sleeper = subprocess.Popen(["sleep", "60"])
    try:
        resources.limit_processes(group, resources._disk_device(settings), [sleeper.pid], MIB)
        assert str(sleeper.pid) in (group / "cgroup.procs").read_text().split()
        assert resources.remove_limit(group)
        assert not group.exists()
        assert sleeper.poll() is None
    finally:
        sleeper.kill()
        sleeper.wait()


# --- mounts -----------------------------------------------------------------------------------------------


def in_its_own_mounts(body: Callable[[], None]) -> None:
    """Run ``body`` in a thread with a mount namespace of its own; skips where that can't be made."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            libc = ctypes.CDLL(None, use_errno=True)
            # Threads share their file system attributes, and a mount namespace needs its own (CLONE_FS).
            if libc.unshare(0x200) != 0 or libc.unshare(CLONE_NEWNS) != 0:
                pytest.skip("no mount namespace can be made here")
            subprocess.run(["mount", "--make-rprivate", "/"], check=True)
            body()
        except BaseException as failure:  # noqa: BLE001 - raised again by the caller's thread
            failures.append(failure)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts need root")
def test_a_full_control_plane_can_be_read_and_not_written_until_it_is_taken_back(settings: Settings) -> None:
    def body() -> None:
        kept = [directory / "kept" for directory in mounts.scratch_directories(settings)]
        for path in kept:
            path.parent.mkdir(parents=True)
            path.write_text("as before")
        mounts.fill_control_plane(settings)
        mounts.fill_control_plane(settings)
        for path in kept:
            assert path.read_text() == "as before"
            with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
                (path.parent / "new").write_bytes(bytes(100_000))
        assert mounts.free_control_plane(settings)
        assert not mounts.free_control_plane(settings)
        for path in kept:
            (path.parent / "new").write_bytes(bytes(100_000))
            assert sorted(entry.name for entry in path.parent.iterdir()) == ["kept", "new"]
        assert "kintsugi-chaos" not in Path("/proc/self/mounts").read_text()

    in_its_own_mounts(body)


@pytest.fixture
def node(settings: Settings) -> Iterator[str]:
    """A node of one sleeping process, with a mount and a PID namespace as a real one has."""
    name = "cassandra-1"
    (settings.node_volume(name) / "data" / "system").mkdir(parents=True)
    record_path(settings, name).parent.mkdir(parents=True)
    command = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sleep", "120"]
    parent = subprocess.Popen(command)
    children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
    try:
        wait_until(lambda: bool(children.read_text().split()), 20, "unshare forks")
        init = int(children.read_text().split()[0])
        wait_until(lambda: b"sleep" in Path(f"/proc/{init}/cmdline").read_bytes(), 20, "the init runs")
        started = start_time(init)
        assert started is not None
        write_record(settings, name, InitRecord(init, started, namespace_of(init), "root-namespaces"))
        yield name
    finally:
        parent.kill()
        parent.wait()


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts need root")
def test_a_node_whose_volume_is_unmounted_finds_no_data_and_can_write_none(
    settings: Settings, node: str
) -> None:
    volume = settings.node_volume(node)

    def on_node(*argv: str) -> int:
        init = service_processes.init_process(settings, node)
        assert init is not None
        return subprocess.run(
            ["nsenter", "--target", str(init.pid), "--mount", "--", *argv], capture_output=True, check=False
        ).returncode

    mounts.unmount_volume(settings, node)
    mounts.unmount_volume(settings, node)
    assert on_node("find", str(volume / "data")) != 0
    assert on_node("touch", str(volume / "x")) != 0
    assert (volume / "data" / "system").is_dir(), "the platform still has the disk"
    assert mounts.mount_volume(settings, node)
    assert not mounts.mount_volume(settings, node)
    assert on_node("find", str(volume / "data" / "system")) == 0


# --- the process of a service -----------------------------------------------------------------------------


@pytest.fixture
def service(settings: Settings) -> Iterator[tuple[Node, subprocess.Popen[bytes]]]:
    """A node whose init is a shell with one child that is called as Kafka's main class is."""
    node = settings.fleet.of(Role.KAFKA)[0]
    record_path(settings, node.name).parent.mkdir(parents=True)
    init = subprocess.Popen(["sh", "-c", "sh -c 'while :; do sleep 1; done' java kafka.Kafka; sleep 60"])
    started = start_time(init.pid)
    assert started is not None
    write_record(settings, node.name, InitRecord(init.pid, started, None, "death-signal"))
    try:
        wait_until(
            lambda: service_processes.service_process(settings, node) is not None, 20, "the service runs"
        )
        yield node, init
    finally:
        if (left := service_processes.service_process(settings, node)) is not None:
            os.kill(left.pid, 9)
        init.kill()
        init.wait()


def test_a_service_is_stopped_and_continued_by_its_host_process(
    settings: Settings, service: tuple[Node, subprocess.Popen[bytes]]
) -> None:
    node, init = service
    stopped = service_processes.stop_services(settings, [node])[node.name]
    wait_until(lambda: state_of(stopped.pid) == "T", 10, "the service is stopped")
    assert state_of(init.pid) != "T"
    assert stopped.alive
    service_processes.continue_services(settings, [node])
    wait_until(lambda: state_of(stopped.pid) != "T", 10, "the service goes on")
    assert service_processes.kill_service(settings, node) == stopped
    wait_until(lambda: not stopped.alive, 10, "the service is killed")
    assert service_processes.kill_service(settings, node) is None
