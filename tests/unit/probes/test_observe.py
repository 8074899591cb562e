"""What the init and the log of a node say."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from kintsugi.core.fleet import Role
from kintsugi.core.observation import NodeView, PeerOpinion, ProbeResult, ServiceProcess
from kintsugi.core.settings import load_settings
from kintsugi.probes import observe
from kintsugi.probes.observe import (
    crash_loop,
    damage_of,
    last_seen_at,
    parse_init_state,
    parse_volume,
    peer_views,
    progress_of,
)
from kintsugi.probes.peers import PeerView
from kintsugi.probes.protocols import Probe

NOW = datetime(2026, 1, 5, 15, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("status", "state", "uptime_s"),
    [
        ("kafka                            RUNNING   pid 4711, uptime 0:01:05\n", "RUNNING", 65),
        ("kafka     RUNNING   pid 4711, uptime 1 day, 2:00:00", "RUNNING", 26 * 3600),
        ("kafka     RUNNING   pid 4711, uptime 12 days, 0:00:01", "RUNNING", 12 * 86400 + 1),
        ("kafka     STARTING  ", "STARTING", None),
        ("kafka     BACKOFF   Exited too quickly (process log may have details)", "BACKOFF", None),
        ("kafka     FATAL     can't find command '/x'", "FATAL", None),
        ("unix:///run/supervisor.sock no such file", None, None),
        ("", None, None),
    ],
)
def test_init_state(status: str, state: str | None, uptime_s: float | None) -> None:
    assert parse_init_state(status) == (state, uptime_s)


def test_a_process_that_just_began_is_on_its_way() -> None:
    assert "4 s" in str(progress_of(Role.KAFKA, "RUNNING", 4, "", NOW))
    assert progress_of(Role.KAFKA, "RUNNING", 400, "", NOW) is None
    assert progress_of(Role.KAFKA, "BACKOFF", 4, "", NOW) is None
    assert progress_of(Role.KAFKA, None, None, "", NOW) is None


@pytest.mark.parametrize(
    ("looked", "intact"),
    [
        ("looked /v/data/meta.properties", True),
        ("looked", False),
        ("absent", False),
        ("failed", None),
        ("", None),
    ],
)
def test_a_search_that_fails_is_no_lost_disk(looked: str, intact: bool | None) -> None:
    """A fork that failed, an I/O error: ``find`` prints nothing then as well."""
    assert parse_volume(f"{looked}\n") is intact


def test_the_look_at_a_disk_says_whether_it_failed(tmp_path: Path) -> None:
    data = tmp_path / "data"
    look = [
        "/bin/sh",
        "-c",
        observe._VOLUME,
        "sh",
        str(tmp_path),
        str(data),
        "-maxdepth",
        "3",
        "-name",
        "meta",
        "-quit",
    ]

    def looked(*, path: str | None = None) -> bool | None:
        environment = {"PATH": path} if path else None
        done = subprocess.run(look, capture_output=True, text=True, check=False, env=environment)
        return parse_volume(done.stdout.partition("\n\n")[2])

    assert looked() is False
    data.mkdir()
    assert looked() is False
    (data / "meta").touch()
    look[-1:] = ["-print", "-quit"]
    assert looked() is True
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "df").symlink_to("/bin/df")  # and no find
    assert looked(path=str(programs)) is None


def test_a_start_that_gets_no_processor_is_a_start_all_the_same() -> None:
    started = NodeView(ServiceProcess(7, 1), cpu_s=2.0, listening=False)
    assert {"2.0", "5"} <= set(str(observe._slow_start(Role.KAFKA, "RUNNING", started)).split())
    assert observe._slow_start(Role.KAFKA, "RUNNING", replace(started, cpu_s=5.0)) is None
    assert observe._slow_start(Role.KAFKA, "RUNNING", replace(started, listening=True)) is None
    assert observe._slow_start(Role.KAFKA, "FATAL", started) is None
    assert observe._slow_start(Role.KAFKA, "RUNNING", NodeView()) is None


def test_a_long_start_goes_on_as_long_as_its_log_advances() -> None:
    line = "2026-01-05T14:59:30.100Z INFO  [main] CommitLog - Replaying CommitLog-7-1.log"
    log = f"{line}\n2026-01-05T14:59:31.000Z INFO  [main] Other - something else\n\tat of a stack trace: Replaying \n"
    assert str(progress_of(Role.CASSANDRA, "RUNNING", 300, log, NOW)).endswith(line)
    assert progress_of(Role.SPARK_WORKER, "RUNNING", 300, log, NOW) is None


def test_a_line_of_the_start_long_ago_is_no_progress() -> None:
    """A Cassandra node frozen half an hour after its start had told of nothing since."""
    log = "2026-01-05T14:29:22.018Z INFO  [main] StorageService - JOINING: Finish joining ring\n"
    assert progress_of(Role.CASSANDRA, "RUNNING", 1838, log, NOW) is None


GAVE_UP = (
    "2026-01-05T14:59:30.100Z ERROR [main] JVMStabilityInspector - "
    "Exiting due to error while processing commit log during initialization."
)


def test_a_service_says_that_it_cannot_read_its_data() -> None:
    stack = (
        "org.apache.cassandra.db.commitlog.CommitLogReadHandler$CommitLogReadException: bad\n\tat a.line\n"
    )
    log = f"{GAVE_UP}\n{stack}2026-01-05T14:59:41.000Z INFO  [main] CassandraDaemon - the next start\n"
    assert damage_of(Role.CASSANDRA, log, NOW) == f"its log says: {GAVE_UP}"[: len("its log says: ") + 160]
    assert damage_of(Role.KAFKA, log, NOW) is None
    assert damage_of(Role.CASSANDRA, stack, NOW) is None  # it may go on after such a one


def test_what_a_service_said_of_its_data_long_ago_says_nothing_of_this_start() -> None:
    assert damage_of(Role.CASSANDRA, GAVE_UP, NOW + timedelta(minutes=2)) is None


def test_heard_at_is_the_newest_sign_of_life_of_anybody() -> None:
    silent = Probe("kafka-1", ProbeResult.TIMEOUT, NOW, 2.0, "")
    heard = PeerView("kafka-2", PeerOpinion.DOWN, "", NOW - timedelta(seconds=7))
    newer = PeerView("kafka-3", PeerOpinion.UP, "", NOW - timedelta(seconds=3))
    deaf = PeerView("kafka-4", PeerOpinion.UNKNOWN, "")
    assert last_seen_at(silent, [heard, newer, deaf]) == NOW - timedelta(seconds=3)
    assert last_seen_at(silent, [deaf]) is None
    assert last_seen_at(Probe("kafka-1", ProbeResult.OK, NOW, 0.1, ""), [heard]) == NOW


def _ends(*seconds: int, service: str = "kafka") -> str:
    lines = []
    for second in seconds:
        lines.append(
            f"2026-11-22 22:{second // 60:02}:{second % 60:02},123 INFO spawned: '{service}' with pid 7"
        )
        lines.append(
            f"2026-11-22 22:{second // 60:02}:{second % 60:02},923 WARN exited: {service} "
            "(exit status 1; not expected)"
        )
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("log", "uptime_s", "loops"),
    [
        (_ends(1, 5, 9), 3.0, True),
        (_ends(1, 5, 9), None, True),  # between two starts there is no process
        (_ends(1, 5), 3.0, False),
        (_ends(1, 300, 600), 3.0, False),  # three ends, but minutes apart
        (_ends(1, 5, 9), 200.0, False),  # it has got over it
        (_ends(1, 5, 9, service="sshd"), 3.0, False),
        ("", None, False),
    ],
)
def test_a_service_that_ends_again_and_again_is_no_service_that_starts(
    log: str, uptime_s: float | None, loops: bool
) -> None:
    assert crash_loop(log, "kafka", uptime_s) is loops


@pytest.mark.parametrize(
    ("service", "rounds", "asked", "said"),
    [
        # the broker that fell silent led the quorum: while the next leader is elected nobody can say anything
        (ProbeResult.TIMEOUT, (["unknown", "unknown"], ["down", "down"]), 2, ["down", "down"]),
        (ProbeResult.TIMEOUT, (["unknown", "unknown"], ["unknown", "unknown"]), 2, ["unknown", "unknown"]),
        (ProbeResult.TIMEOUT, (["unknown", "down"],), 1, ["unknown", "down"]),
        (ProbeResult.TIMEOUT, ([],), 1, []),
        (ProbeResult.OK, (["unknown", "unknown"],), 1, ["unknown", "unknown"]),
    ],
)
def test_peers_of_a_silent_node_that_cannot_say_anything_are_asked_once_more(
    monkeypatch: pytest.MonkeyPatch,
    service: ProbeResult,
    rounds: Sequence[list[str]],
    asked: int,
    said: list[str],
) -> None:
    settings, at = load_settings(), datetime(2026, 8, 1, tzinfo=UTC)
    node, answers = settings.fleet.node("kafka-2"), iter(rounds)
    times = 0

    async def witnesses(*_: Any) -> list[PeerView]:
        nonlocal times
        times += 1
        return [PeerView("kafka-1", PeerOpinion(opinion), "") for opinion in next(answers)]

    async def looked() -> tuple[Probe, Probe]:
        return (
            Probe("kafka-2", service, at, 1.5, ""),
            Probe("kafka-2", ProbeResult.TIMEOUT, at, 1.5, ""),
        )

    async def ask() -> list[PeerView]:
        return await peer_views(settings, node, asyncio.create_task(looked()))

    monkeypatch.setattr(observe, "ask_peers", witnesses)
    assert [witness.opinion.value for witness in asyncio.run(ask())] == said
    assert times == asked
