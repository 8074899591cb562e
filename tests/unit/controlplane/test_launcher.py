"""How Airflow is started: its scheduler waits for the api-server, and its workers don't outlive it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

from kintsugi.controlplane.launcher import await_api
from kintsugi.core.processes import start_time, wait_until

# A parent, its child, grandchild and great-grandchild; each tells its pid, then waits.
FAMILY = """
import os, signal, sys
from kintsugi.controlplane.launcher import become_task, become_worker, begin_forks_with
begin_forks_with(become_worker, become_task)
for _ in range(3):
    if os.fork():
        break
os.write(1, b"%d\\n" % os.getpid())  # in one piece, whatever PYTHONUNBUFFERED says
signal.pause()
"""


def test_the_api_is_awaited_until_it_listens_and_not_for_ever() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{server.getsockname()[1]}/execution/"
        assert not await_api(url, seconds=0.3)
        late = threading.Timer(0.5, server.listen)
        late.start()
        assert await_api(url, seconds=10)
        late.join()


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_workers_and_their_tasks_die_with_the_scheduler_and_what_tasks_start_does_not() -> None:
    with subprocess.Popen([sys.executable, "-c", FAMILY], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        try:
            family = [int(parent.stdout.readline()) for _ in range(4)]
            parents = {_parent(pid) for pid in family}
            (great,) = (pid for pid in family if pid not in parents)
        finally:
            parent.kill()
        try:
            bound = [pid for pid in family if pid != great]
            assert wait_until(lambda: all(start_time(pid) is None for pid in bound), 10)
            assert start_time(great) is not None
        finally:
            os.kill(great, signal.SIGKILL)
