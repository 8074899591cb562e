"""The parts of a role by their tags, on this machine: a real supervisord, and a program that only listens for Kafka."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import xmlrpc.client
from collections.abc import Iterator
from pathlib import Path

import pytest
from supervisor.xmlrpc import SupervisorTransport

from kintsugi.core.fleet import REPOSITORY
from kintsugi.core.settings import Settings
from tests.installations import installation, open_directory

ANSIBLE = REPOSITORY / "ansible"
NODE = "kafka-1"
LISTENS = "import socket, time; s = socket.create_server(('127.39.1.1', 9092)); time.sleep(600)"
SUPERVISORD = """\
[supervisord]
nodaemon=true
logfile=/dev/null
logfile_maxbytes=0
pidfile={root}/run/pid
[unix_http_server]
file={root}/run/supervisor.sock
[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface
[include]
files = {root}/etc/supervisor.d/*.conf
"""


@pytest.fixture(scope="module")
def settings() -> Iterator[Settings]:
    """A node whose disk is formatted, and its init."""
    with open_directory() as directory:
        made = installation(directory, "127.39")
        disk, root = made.node_volume(NODE) / "data/kafka", made.node_root(NODE)
        disk.mkdir(parents=True)
        (disk / "meta.properties").touch()
        for part in ("tmp", "etc/supervisor.d", "log", "run"):
            (root / part).mkdir(parents=True)
        for role in ("kafka", "cassandra", "spark"):
            made.jars(role).mkdir(parents=True, exist_ok=True)
        configuration = root / "etc/supervisord.conf"
        configuration.write_text(SUPERVISORD.format(root=root))
        init = subprocess.Popen(
            [sys.executable, "-m", "supervisor.supervisord", "-c", str(configuration)],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            deadline = time.monotonic() + 30
            while not (root / "run/supervisor.sock").exists():
                assert time.monotonic() < deadline, "supervisord did not start"
                time.sleep(0.05)
            yield made
        finally:
            init.terminate()
            init.wait(30)


def play(settings: Settings, *arguments: str, playbook: str = "site.yml", **variables: object) -> str:
    """Run the playbook on the node; what it printed."""
    # The role puts the prefix before Java's command: so this program runs, and takes the rest for its arguments.
    extra = {"ansible_connection": "local", "service_prefix": [sys.executable, "-c", LISTENS], **variables}
    done = subprocess.run(
        [str(Path(sys.executable).with_name("ansible-playbook")), f"playbooks/{playbook}", "--limit", NODE,
         "-e", json.dumps(extra), *arguments],
        cwd=ANSIBLE,
        env={**os.environ, "ANSIBLE_CONFIG": str(ANSIBLE / "ansible.cfg"), "KINTSUGI_STATE": str(settings.state),
             "KINTSUGI_FLEET": str(settings.fleet_file), "PYTHONPATH": str(REPOSITORY / "plugins"),
             "LC_ALL": "C.UTF-8"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def written(settings: Settings) -> set[str]:
    """The node's configuration files."""
    etc = settings.node_root(NODE) / "etc"
    return {path.relative_to(etc).as_posix() for path in etc.rglob("*") if path.is_file()} - {
        "supervisord.conf"
    }


def process(settings: Settings) -> int:
    """The pid of the program; 0 when it doesn't run."""
    socket = settings.node_root(NODE) / "run/supervisor.sock"
    transport = SupervisorTransport(None, None, f"unix://{socket}")
    api = xmlrpc.client.ServerProxy("http://127.0.0.1", transport=transport).supervisor
    try:
        answer = api.getProcessInfo("kafka")
    except xmlrpc.client.Fault:
        return 0
    assert isinstance(answer, dict)
    return int(answer["pid"])


def test_each_part_does_its_own_and_together_they_do_what_the_role_does(settings: Settings) -> None:
    told = play(settings, "--tags", "preflight")
    assert "kafka : Check whether the node can run Kafka" in told
    assert (written(settings), process(settings)) == (set(), 0)

    told = play(settings, "--tags", "configure")
    assert "kafka : Write the configuration of Kafka" in told
    assert (written(settings), process(settings)) == ({"kafka/server.properties", "ssh/authorized_keys"}, 0)

    told = play(settings, "--tags", "start")
    assert "kafka : Start Kafka, and wait until it serves" in told
    assert written(settings) == {"kafka/server.properties", "ssh/authorized_keys", "supervisor.d/kafka.conf"}
    first = process(settings)
    assert first > 0

    told = play(settings)
    assert "kafka : Check, configure and start Kafka, and wait until it serves" in told
    assert told.count("TASK [kafka : ") == 2, "the role's one call, after the check of its arguments"
    assert "changed=0" in told
    assert process(settings) == first


def test_only_restart_and_the_handler_that_may_restart_a_service_that_runs(settings: Settings) -> None:
    play(settings)
    first = process(settings)
    play(settings, "--tags", "configure,start", kafka_session_timeout_ms=7000)
    assert process(settings) == first > 0

    told = play(settings, "--tags", "configure", kafka_session_timeout_ms=6000, node_restart=True)
    assert "RUNNING HANDLER [kafka : Restart Kafka]" in told
    second = process(settings)
    assert second not in {0, first}

    told = play(settings, playbook="restart.yml", kafka_session_timeout_ms=6000)
    assert "RUNNING HANDLER" not in told
    assert process(settings) not in {0, second}
