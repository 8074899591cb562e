"""Local nodes, on real processes: what a node may see, and that nothing of it outlives its init."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from kintsugi.core.errors import FleetError, NewIncarnation, PreflightError
from kintsugi.core.processes import start_time
from kintsugi.core.settings import Settings
from kintsugi.environments.local import node as nodes
from kintsugi.environments.local.node_isolation import Isolation, choose_isolation
from kintsugi.environments.local.node_process import (
    names_on_disk,
    read_record,
    record_path,
    write_record,
)
from kintsugi.environments.local.node_restrictions import Capability
from kintsugi.environments.local.platform import LocalPlatform
from kintsugi.infra import ssh
from tests.installations import installation

NAME, OTHER = "kafka-1", "cassandra-1"
DAEMON = "nohup setsid sh -c 'sleep 300 & echo $! > {root}/run/daemon; wait' >/dev/null 2>&1 &"


def wait_until(condition: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def settings() -> Iterator[Settings]:
    # Not below /tmp, which each node has to itself: only what hides the state itself may hide it.
    with tempfile.TemporaryDirectory(prefix="kintsugi-test-", dir="/var/tmp") as directory:
        made = installation(Path(directory), "127.36")
        yield made
        for name in (NAME, OTHER):
            nodes.destroy_node(made, name)


@pytest.fixture
def node(settings: Settings) -> str:
    nodes.create_node(settings, NAME)
    return NAME


def on_node(settings: Settings, script: str, name: str = NAME) -> subprocess.CompletedProcess[str]:
    return ssh.run_over_ssh(settings, settings.fleet.node(name), ["sh", "-c", script], timeout=20)


def test_a_living_node_is_left_alone(settings: Settings, node: str) -> None:
    before = read_record(settings, node)
    nodes.create_node(settings, node)
    assert read_record(settings, node) == before
    assert nodes.is_alive(settings, node)


def test_the_host_key_is_known_by_its_authority_alone(settings: Settings, node: str) -> None:
    assert on_node(settings, "echo $KINTSUGI_NODE").stdout.strip() == node
    known = (ssh.key_directory(settings) / "known_hosts").read_text()
    (ssh.key_directory(settings) / "known_hosts").write_text("")
    try:
        refused = on_node(settings, "true")
    finally:
        (ssh.key_directory(settings) / "known_hosts").write_text(known)
    assert refused.returncode == 255
    assert "verification failed" in refused.stderr


def test_nothing_of_a_node_outlives_its_init(settings: Settings, node: str) -> None:
    root = settings.node_root(node)
    started = on_node(settings, DAEMON.format(root=root))
    assert started.returncode == 0, started.stderr
    wait_until(lambda: (root / "run" / "daemon").exists() and (root / "run" / "daemon").read_text() != "")
    living = {pid: start_time(pid) for pid in nodes.node_pids(settings, node)}
    assert len(living) >= 5  # init, sshd, rsyslogd, the daemon and its child

    began = time.monotonic()
    nodes.power_off(settings, node)

    assert time.monotonic() - began < 2
    assert nodes.node_pids(settings, node) == []
    assert [pid for pid, when in living.items() if start_time(pid) == when] == []
    assert not nodes.is_alive(settings, node)
    with socket.socket() as client:
        address = settings.fleet.node(node)
        assert client.connect_ex((address.address, address.ssh_port)) != 0


@pytest.mark.skipif(
    not choose_isolation().hides_files, reason="without mount namespaces nodes share the machine's files"
)
def test_a_node_sees_only_its_own_part_of_the_state(settings: Settings, node: str) -> None:
    nodes.create_node(settings, OTHER)
    (settings.node_volume(OTHER) / "data" / "trades").write_text("theirs")
    (settings.node_volume(node) / "data" / "trades").write_text("ours")
    state = settings.state
    try:
        seen = on_node(settings, f"ls {state} {state}/nodes; cat {state}/volumes/*/data/trades")
        secret = on_node(settings, f"cat {state}/secrets/ssh/host_ca")
        write = on_node(
            settings,
            f"touch {settings.cache}/x; umount -l {state} && echo open; ls /proc/1/root{state}/secrets",
        )
        processes = on_node(settings, "cat /proc/[0-9]*/comm")
    finally:
        nodes.destroy_node(settings, OTHER)
    assert seen.stdout.split().count("ours") == 1
    assert "theirs" not in seen.stdout
    assert OTHER not in seen.stdout
    assert secret.returncode != 0
    assert write.returncode != 0
    assert "open" not in write.stdout
    assert not (settings.cache / "x").exists()
    assert "python" not in processes.stdout.replace("supervisord", "").splitlines()[1:]


HARM = """
touch {checkout}/x && echo wrote the checkout
touch /etc/cron.d/x && echo wrote cron.d
touch /root/x /usr/local/bin/x /var/tmp/x /home/x && echo wrote a file system
mknod /tmp/disk b 254 0 && echo made a device
mknod {root}/disk b 254 0 && echo made a device on its root
mknod {volume}/disk b 254 0 && echo made a device on its volume
for device in $(ls /sys/block); do [ -e /dev/$device ] && echo has /dev/$device; done
touch /dev/x && echo wrote dev
mount -t tmpfs none /mnt && echo mounted
mount -o remount,rw / && echo remounted
date -s "$(date)" >/dev/null && echo set the clock
iptables -L >/dev/null && echo reads the firewall
unshare --mount true && echo has a namespace of its own
grep -E '^Cap(Bnd|Eff)|NoNewPrivs' /proc/self/status
"""
ALLOWED = """
echo x > {root}/tmp/x && echo x > {volume}/x && echo x > /tmp/x && echo x > /dev/shm/x && echo x > /dev/null || exit 1
head -c 4 /dev/urandom | wc -c; python3 -c 'import multiprocessing; multiprocessing.Lock(); print("lock")'
"""


@pytest.mark.skipif(
    not choose_isolation().hides_files, reason="without mount namespaces nodes share the machine's files"
)
def test_root_on_a_node_can_do_no_harm_to_the_machine(settings: Settings, node: str) -> None:
    where = {
        "root": settings.node_root(node),
        "volume": settings.node_volume(node),
        "checkout": settings.repository,
    }
    done = on_node(settings, HARM.format(**where))
    *harm, bounding, effective, privileges = sorted(done.stdout.splitlines(), key=_shown_last)
    assert harm == []
    mask = sum(1 << capability for capability in Capability)
    assert int(bounding.split()[1], 16) & mask == int(effective.split()[1], 16) & mask == 0
    assert privileges.split() == ["NoNewPrivs:", "1"]
    allowed = on_node(settings, ALLOWED.format(**where))
    assert allowed.stdout.split() == ["4", "lock"], allowed.stderr


def _shown_last(line: str) -> int:
    return (
        ["CapBnd", "CapEff", "NoNewP"].index(line[:6]) + 1
        if line[:6] in ("CapBnd", "CapEff", "NoNewP")
        else 0
    )


def test_a_node_and_its_sessions_inherit_what_the_user_names(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes.destroy_node(settings, NAME)
    monkeypatch.setenv("PG_CONN_STR", "postgres://secret")
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("KINTSUGI_INHERIT", "https_proxy")
    nodes.create_node(settings, NAME)
    record = read_record(settings, NAME)
    assert record is not None
    assert b"https_proxy=http://127.0.0.1:9" in Path(f"/proc/{record.pid}/environ").read_bytes().split(b"\0")
    session = on_node(settings, "env").stdout.splitlines()
    assert "https_proxy=http://127.0.0.1:9" in session
    assert not any("secret" in line for line in session)
    nodes.destroy_node(settings, NAME)


def test_a_node_inherits_no_secret(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    nodes.power_off(settings, NAME)
    monkeypatch.setenv("PG_CONN_STR", "postgres://secret")
    nodes.create_node(settings, NAME)
    record = read_record(settings, NAME)
    assert record is not None
    environments = []
    for pid in nodes.node_pids(settings, NAME):
        with suppress(FileNotFoundError):  # a process of its start that has ended meanwhile
            environments.append(Path(f"/proc/{pid}/environ").read_bytes())
    assert any(environments)
    assert not any(b"postgres://secret" in environment for environment in environments)


def test_suspended_is_silent_and_resumed_goes_on(settings: Settings, node: str) -> None:
    entry = settings.fleet.node(node)
    suspended = nodes.suspend_node(settings, node)
    try:
        with socket.create_connection((entry.address, entry.ssh_port), timeout=1) as client:
            client.settimeout(0.5)
            with pytest.raises(TimeoutError):  # the kernel accepts, nobody speaks
                client.recv(4)
        assert nodes.is_alive(settings, node)
    finally:
        nodes.resume_node(settings, node)
    assert suspended >= 3
    assert on_node(settings, "true").returncode == 0


def test_a_stranger_with_the_recorded_pid_is_spared(settings: Settings, node: str) -> None:
    nodes.power_off(settings, node)
    record = read_record(settings, node)
    assert record is not None
    stranger = subprocess.Popen(["sleep", "60"])
    try:
        write_record(settings, node, replace(record, pid=stranger.pid, pid_namespace=None))
        assert not nodes.is_alive(settings, node)
        nodes.power_off(settings, node)
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_a_node_that_got_the_namespace_number_of_a_dead_one_is_spared(settings: Settings, node: str) -> None:
    """The kernel hands numbers of namespaces out again, most readily the one just freed."""
    if not choose_isolation().hides_files:
        pytest.skip("without namespaces there is no number to mistake")
    nodes.create_node(settings, OTHER)
    record, other = read_record(settings, node), read_record(settings, OTHER)
    assert record is not None
    assert other is not None
    nodes.power_off(settings, node)  # the record stays, as in life
    write_record(settings, node, replace(record, pid_namespace=other.pid_namespace))
    assert nodes.node_pids(settings, node) == []
    nodes.create_node(settings, node)
    assert nodes.is_alive(settings, OTHER)
    assert nodes.is_alive(settings, node)
    nodes.destroy_node(settings, OTHER)  # a later test takes the first that ships a log for the only one


def test_only_the_judged_incarnation_is_ended(settings: Settings, node: str) -> None:
    platform = LocalPlatform(settings)
    judged = platform.incarnation(node)
    assert judged is not None
    nodes.power_off(settings, node)
    assert platform.incarnation(node) is None
    platform.power_off(node, judged)  # it has ended already
    nodes.create_node(settings, node)
    with pytest.raises(NewIncarnation):
        platform.power_off(node, judged)
    with pytest.raises(NewIncarnation):
        platform.power_off(node, "")  # none ran when it was judged
    assert nodes.is_alive(settings, node)
    platform.power_off(node, platform.incarnation(node))
    assert not nodes.is_alive(settings, node)


def test_the_platform_looks_at_the_disk_itself(settings: Settings, node: str) -> None:
    platform, data = LocalPlatform(settings), settings.node_volume(node) / "data"
    assert platform.volume_formatted(node, "meta.properties") is False
    (data / "kafka" / "deep").mkdir(parents=True)
    (data / "kafka" / "deep" / "meta.properties").touch()
    assert platform.volume_formatted(node, "meta.properties") is True
    assert platform.volume_formatted(node, None) is True
    shutil.rmtree(data / "kafka")
    nodes.destroy_volume(settings, node)
    assert platform.volume_formatted(node, "meta.properties") is False
    nodes.create_volume(settings, node)


def test_the_use_of_the_processor_is_counted_while_the_node_lives(settings: Settings, node: str) -> None:
    platform = LocalPlatform(settings)
    use = platform.processor_use(node)
    assert use is not None
    assert use[0] > 0
    nodes.power_off(settings, node)
    assert platform.processor_use(node) == (0.0, 0.0)


def test_what_a_killed_creation_left_is_ended_first(settings: Settings, node: str) -> None:
    lost = read_record(settings, node)
    assert lost is not None
    record_path(settings, node).unlink()
    nodes.create_node(settings, node)
    assert start_time(lost.pid) != lost.start_time
    assert on_node(settings, "true").returncode == 0


def test_destroyed_data_waits_in_the_quarantine(settings: Settings, node: str) -> None:
    nodes.purge_quarantine(settings, node)
    (settings.node_volume(node) / "data" / "row").write_text("kept")
    nodes.destroy_node(settings, node)
    assert nodes.volume_exists(settings, node)
    nodes.destroy_volume(settings, node)
    assert not nodes.volume_exists(settings, node)
    nodes.destroy_node(settings, node)  # a second time is no error
    nodes.destroy_volume(settings, node)
    parts = [path for kept in nodes.quarantined_parts(settings, node) for path in kept.iterdir()]
    assert sorted(path.name for path in parts) == ["root", "volume"]
    assert [path.read_text() for path in settings.quarantine.rglob("row")] == ["kept"]
    nodes.purge_quarantine(settings, node)
    assert nodes.quarantined_parts(settings, node) == []


def test_the_quarantine_is_bounded(settings: Settings) -> None:
    for _ in range(2 * nodes.QUARANTINE_KEEP + 3):
        nodes.create_volume(settings, OTHER)
        nodes.destroy_volume(settings, OTHER)
    assert len(nodes.quarantined_parts(settings, OTHER)) == 2 * nodes.QUARANTINE_KEEP


def test_without_namespaces_the_sweep_takes_daemons_too(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes.destroy_node(settings, NAME)
    monkeypatch.setattr(nodes, "choose_isolation", lambda: Isolation.DEATH_SIGNAL)
    nodes.create_node(settings, NAME)
    root = settings.node_root(NAME)
    assert on_node(settings, DAEMON.format(root=root)).returncode == 0
    wait_until(lambda: (root / "run" / "daemon").exists() and (root / "run" / "daemon").read_text() != "")
    daemon = int((root / "run" / "daemon").read_text())
    assert start_time(daemon) is not None
    nodes.power_off(settings, NAME)
    assert start_time(daemon) is None
    assert nodes.node_pids(settings, NAME) == []
    nodes.destroy_node(settings, NAME)


def test_logs_are_shipped_under_node_and_service(settings: Settings) -> None:
    nodes.destroy_node(settings, NAME)
    plane = settings.fleet.control_plane
    with socket.create_server((plane.address, plane.log_port)) as collector:
        collector.settimeout(20)
        nodes.create_node(settings, NAME)
        connection, _ = collector.accept()
        with connection:
            connection.settimeout(20)
            (settings.node_root(NAME) / "log" / "kafka.log").write_text("a broker speaks\n")
            received = b""
            while b"a broker speaks" not in received:
                received += connection.recv(65536)
    line = next(line for line in received.decode().splitlines() if "a broker speaks" in line)
    version, _, node, service = line.split(" ")[:4]
    assert (version, node, service) == ("<133>1", NAME, "kafka")


def test_an_unknown_node_is_refused_by_name(settings: Settings) -> None:
    with pytest.raises(FleetError, match="kafka-9"):
        nodes.create_node(settings, "kafka-9")


def test_a_state_too_deep_for_a_socket_is_told_before_anything_starts(settings: Settings) -> None:
    deep = replace(settings, state=settings.state / ("x" * 80))
    with pytest.raises(PreflightError, match="KINTSUGI_STATE"):
        nodes.create_node(deep, NAME)
    assert not nodes.is_alive(deep, NAME)


@pytest.mark.parametrize("arguments", [[], ["explode"], ["create-node", "twice"]])
def test_the_command_says_how_to_use_it(
    arguments: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KINTSUGI_NODE", NAME)
    assert nodes.main(arguments) == 2
    assert "create-volume" in capsys.readouterr().err


def test_what_lies_on_the_disk_is_read_as_the_names_of_nodes(tmp_path: Path) -> None:
    made = installation(tmp_path, "127.36")
    assert names_on_disk(made) == set()
    for path in ("nodes/kafka-1", "nodes/spark-worker-1", "volumes/kafka-1", "volumes/cassandra-2"):
        (made.state / path).mkdir(parents=True)
    for record in ("kafka-1.pid.json", "kafka-3.pid.json", "kafka-2.pid.4711"):
        (made.state / "nodes" / record).write_text("{}")
    assert names_on_disk(made) == {"kafka-1", "kafka-2", "kafka-3", "spark-worker-1", "cassandra-2"}
