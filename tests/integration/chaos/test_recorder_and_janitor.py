"""The recorder of live kills and the janitor as processes of their own, on processes that really die."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from benchmarks.kill_recorder import RunningRecorder, run_recorder
from benchmarks.live_kills import EXITED, find_live_kills
from kintsugi.chaos import janitor, resources, service_processes
from kintsugi.core.fleet import Node, Role
from kintsugi.core.processes import start_time
from kintsugi.core.settings import SPARK_MASTER_UI_PORT, Settings
from kintsugi.environments.local.node_process import InitRecord, record_path, write_record
from tests.installations import installation
from tests.integration.servers import wait_until


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    with tempfile.TemporaryDirectory(prefix="kintsugi-test-", dir="/var/tmp") as directory:
        made = installation(Path(directory), "127.94")
        monkeypatch.setenv("KINTSUGI_STATE", str(made.state))
        monkeypatch.setenv("KINTSUGI_FLEET", str(made.fleet_file))
        monkeypatch.setenv("PYTHONPATH", str(made.repository / "plugins"))
        yield made


class Master(BaseHTTPRequestHandler):
    """Answers as a Spark master does."""

    def do_GET(self) -> None:
        body = json.dumps({"status": "ALIVE", "workers": []}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        return None


INIT = "while :; do sh -c 'while :; do sleep 0.1; done' java org.apache.spark.deploy.master.Master; done"


@pytest.fixture
def node(settings: Settings) -> Iterator[Node]:
    """A node that serves: an init that starts its service again whenever it dies, and somebody who answers for it."""
    node = settings.fleet.of(Role.SPARK_MASTER)[0]
    (settings.node_root(node.name) / "log").mkdir(parents=True)
    record_path(settings, node.name).parent.mkdir(parents=True, exist_ok=True)
    init = subprocess.Popen(["sh", "-c", INIT])
    started = start_time(init.pid)
    assert started is not None
    write_record(settings, node.name, InitRecord(init.pid, started, None, "death-signal"))
    server = ThreadingHTTPServer((node.address, SPARK_MASTER_UI_PORT), Master)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        wait_until(
            lambda: service_processes.service_process(settings, node) is not None, 20, "the service runs"
        )
        yield node
    finally:
        server.shutdown()
        server.server_close()
        left = service_processes.service_process(settings, node)
        init.kill()
        init.wait()
        if left is not None:
            os.kill(left.pid, signal.SIGKILL)


def heard(recorder: RunningRecorder) -> bool:
    return recorder.path.read_text().count('"look"') >= 3


def soon() -> datetime:
    """The recorder sees a death a fifth of a second after it at most, on a machine that lets it."""
    return datetime.now(UTC) + timedelta(seconds=1.5)


def kill_and_await_successor(settings: Settings, node: Node) -> int:
    killed = service_processes.kill_service(settings, node)
    assert killed is not None

    def replaced() -> bool:
        now = service_processes.service_process(settings, node)
        return now is not None and now != killed

    wait_until(replaced, 20, "the init starts it again")
    return killed.pid


@pytest.mark.timeout(180)
def test_the_death_of_a_service_that_answers_is_seen_with_its_last_answer(
    settings: Settings, node: Node, tmp_path: Path
) -> None:
    log = settings.node_root(node.name) / "log" / "init.log"
    log.write_text("INFO exited: spark-master (exit status 1; not expected)\n")  # of an earlier life
    with run_recorder(tmp_path / "deaths.jsonl", settings) as recorder:
        assert recorder is not None
        wait_until(lambda: heard(recorder), 60, "the recorder looks")
        began = datetime.now(UTC)
        pid = kill_and_await_successor(settings, node)
        seen = recorder.read_period(began, soon())
        (death,) = seen.deaths
        assert (death.node, death.what, death.pid, death.end) == (node.name, "service", pid, "unknown")
        assert find_live_kills(seen.deaths, []) == [death]
    assert recorder.process.poll() == 0


@pytest.mark.timeout(180)
def test_the_recorder_reads_its_inits_word_for_how_the_service_ended(
    settings: Settings, node: Node, tmp_path: Path
) -> None:
    log = settings.node_root(node.name) / "log" / "init.log"
    log.write_text("")
    with run_recorder(tmp_path / "deaths.jsonl", settings) as recorder:
        assert recorder is not None
        wait_until(lambda: heard(recorder), 60, "the recorder looks")
        began = datetime.now(UTC)
        kill_and_await_successor(settings, node)
        log.write_text("INFO exited: spark-master (exit status 3; not expected)\n")
        (death,) = recorder.read_period(began, soon()).deaths
        assert death.end == EXITED
        assert find_live_kills([death], []) == []


OWNER = """
import sys, time
from kintsugi.chaos import janitor, resources
from kintsugi.core.settings import load_settings
settings = load_settings()
janitor.register_fault(settings, "starved", ("kafka-1",), 600)
resources.start_busy_loops(120, str(settings.state), loops=1)
print("in force", flush=True)
time.sleep(120)
"""


@pytest.mark.timeout(180)
def test_a_fault_whose_owner_was_killed_is_taken_back_by_another_process(settings: Settings) -> None:
    owner = subprocess.Popen([sys.executable, "-c", OWNER], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    try:
        assert owner.stdout.readline() == "in force\n"
        assert janitor.fault_records(settings)
    finally:
        owner.kill()
        owner.wait()
    wait_until(lambda: not janitor.fault_records(settings), 60, "the janitor takes it back")
    assert resources.end_processes(str(settings.state)) == 0, "the janitor has ended the loops"
