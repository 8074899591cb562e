"""Containers of nodes through the engine's API, as an engine of a few lines speaks it over its socket."""

from __future__ import annotations

import json
import re
import socketserver
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from kintsugi.core.errors import NewIncarnation, StepFailed
from kintsugi.core.settings import Settings
from kintsugi.environments.docker.platform import DockerPlatform
from kintsugi.environments.local import node as nodes
from kintsugi.infra import docker_engine
from tests.installations import installation, open_directory

API = "1.41"


class Engine(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """Containers by name, with what https://docs.docker.com/reference/api/engine/version/v1.41 says of their states."""

    daemon_threads = True

    def __init__(self, socket: Path) -> None:
        super().__init__(str(socket), Handler)
        self.containers: dict[str, dict[str, Any]] = {}
        self.volumes: dict[str, dict[str, str]] = {}
        self.asked: list[str] = []
        self.image = "sha256:1"
        self.stubborn = False
        self.at_start: list[Path] = []
        self.booted_from: list[bool] = []

    def has(
        self, name: str, *, running: bool = True, paused: bool = False, labels: dict[str, str] | None = None
    ) -> None:
        state = {"Running": running, "Paused": paused, "Labels": labels or {}}
        self.containers[name] = state | {"StartedAt": "2026-08-01T02:15:00.1Z"}

    def act(self, name: str, verb: str) -> int:
        state = self.containers[name]
        if verb == "start":
            state["Running"], changed = True, not state["Running"]
            self.booted_from = [path.exists() for path in self.at_start]
            return 204 if changed else 304
        if (
            not state["Running"]
            or (verb == "pause" and state["Paused"])
            or (verb == "unpause" and not state["Paused"])
        ):
            return 409
        if verb == "kill":
            state["Running"], state["Paused"] = self.stubborn, False
        else:
            state["Paused"] = verb == "pause"
        return 204


class Handler(BaseHTTPRequestHandler):
    server: Engine

    def reply(self, code: int, body: object = None) -> None:
        data = b"" if code in (204, 304) else json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        if data:
            self.wfile.write(data)

    def listed(self, labels: dict[str, str]) -> bool:
        [filters] = parse_qs(urlsplit(self.path).query)["filters"]
        wanted = dict(label.split("=", 1) for label in json.loads(filters)["label"])
        return wanted.items() <= labels.items()

    def do_GET(self) -> None:
        path, engine = urlsplit(self.path).path, self.server
        if path == "/version":
            return self.reply(200, {"ApiVersion": API})
        if path.endswith("/containers/json"):
            found = [name for name, state in engine.containers.items() if self.listed(state["Labels"])]
            return self.reply(200, [{"Id": name} for name in found])
        if path.endswith("/volumes"):
            named = [name for name, labels in engine.volumes.items() if self.listed(labels)]
            return self.reply(200, {"Volumes": [{"Name": name} for name in named]})
        match = re.fullmatch(rf"/v{API}/containers/([\w-]+)/json", path)
        if match and match[1] in engine.containers:
            state = engine.containers[match[1]]
            return self.reply(200, {"Id": match[1], "State": state, "Config": {"Labels": state["Labels"]}})
        if path in (f"/v{API}/images/kintsugi:here/json", f"/v{API}/images/{engine.image}/json"):
            return self.reply(200, {"Id": self.server.image})
        return self.reply(404, {"message": f"No such thing: {path}"})

    def do_POST(self) -> None:
        match = re.fullmatch(rf"/v{API}/containers/([\w-]+)/(\w+)", urlsplit(self.path).path)
        assert match
        self.server.asked.append(f"{match[2]} {match[1]}")
        code = self.server.act(match[1], match[2])
        self.reply(code, {"message": f"it can't {match[2]} now"})

    def do_DELETE(self) -> None:
        path = urlsplit(self.path).path
        name = path.rsplit("/", 1)[1]
        (self.server.volumes if "/volumes/" in path else self.server.containers).pop(name)
        self.reply(204)

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    path = tmp_path / "docker.sock"
    monkeypatch.setenv("DOCKER_HOST", f"unix://{path}")
    with Engine(path) as engine:
        thread = threading.Thread(target=engine.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield engine
        engine.shutdown()
        thread.join()


@pytest.fixture
def settings() -> Iterator[Settings]:
    with (
        open_directory() as directory
    ):  # the path to a node's socket has a bound, which pytest's own would pass
        yield installation(directory, "127.38")


@pytest.fixture
def platform(settings: Settings) -> DockerPlatform:
    return DockerPlatform(settings)


@pytest.fixture
def kafka(settings: Settings) -> str:
    return docker_engine.container_name(settings, "kafka-1")


@pytest.mark.parametrize("paused", [False, True])
def test_power_off_ends_a_container_frozen_or_not(
    engine: Engine, platform: DockerPlatform, kafka: str, *, paused: bool
) -> None:
    engine.has(kafka, paused=paused)
    platform.power_off("kafka-1")
    assert not engine.containers[kafka]["Running"]
    platform.power_off("kafka-1")
    assert engine.asked == [f"kill {kafka}"]


def test_a_container_that_was_started_again_is_not_the_one_that_was_judged(
    engine: Engine, platform: DockerPlatform, kafka: str
) -> None:
    engine.has(kafka)
    judged = platform.incarnation("kafka-1")
    assert judged is not None
    engine.containers[kafka]["StartedAt"] = "2026-08-01T02:16:00.1Z"
    with pytest.raises(NewIncarnation):
        platform.power_off("kafka-1", judged)
    assert engine.containers[kafka]["Running"]
    platform.power_off("kafka-1", platform.incarnation("kafka-1"))
    assert platform.incarnation("kafka-1") is None


def test_nothing_is_left_to_end_of_a_container_that_is_gone(engine: Engine, platform: DockerPlatform) -> None:
    platform.power_off("kafka-1")
    platform.resume("kafka-1")
    assert not engine.asked


def test_a_container_that_outlives_its_end_is_told(
    engine: Engine, platform: DockerPlatform, kafka: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(docker_engine, "_ENDS_WITHIN_S", 0.1)
    engine.has(kafka)
    engine.stubborn = True
    with pytest.raises(StepFailed, match="kafka-1"):
        platform.power_off("kafka-1")
    assert platform.running("kafka-1")


def test_what_is_frozen_is_frozen_once_and_thawed_once(
    engine: Engine, platform: DockerPlatform, kafka: str
) -> None:
    engine.has(kafka)
    for _ in range(2):
        platform.suspend("kafka-1")
        assert engine.containers[kafka]["Paused"]
    for _ in range(2):
        platform.resume("kafka-1")
        assert not engine.containers[kafka]["Paused"]
    assert engine.asked == [f"pause {kafka}", f"unpause {kafka}"]


def test_what_lives_no_more_is_neither_frozen_nor_thawed(
    engine: Engine, platform: DockerPlatform, kafka: str
) -> None:
    engine.has(kafka, running=False)
    platform.suspend("kafka-1")
    platform.resume("kafka-1")
    platform.suspend("kafka-2")
    assert not engine.containers[kafka]["Paused"]


def test_the_engine_s_own_words_are_in_the_error(settings: Settings, engine: Engine) -> None:
    with pytest.raises(StepFailed, match=r"kafka-2.*No such thing"):
        docker_engine.start_container(settings, "kafka-2")


def test_a_container_that_terraform_knows_stays(engine: Engine, platform: DockerPlatform, kafka: str) -> None:
    engine.has(kafka)
    platform.make_room(["kafka-1"], lambda: {kafka}, living=True)
    platform.make_room(["kafka-2"], lambda: set(), living=True)
    assert kafka in engine.containers


def test_a_container_that_a_killed_terraform_left_makes_room(
    engine: Engine, platform: DockerPlatform, kafka: str
) -> None:
    engine.has(kafka, running=False)
    platform.make_room(["kafka-1"], lambda: {"another"}, living=False)
    assert not engine.containers


def test_a_living_container_that_terraform_forgot_is_only_removed_where_it_is_meant(
    engine: Engine, platform: DockerPlatform, kafka: str
) -> None:
    engine.has(kafka)
    with pytest.raises(StepFailed, match=f"docker rm --force {kafka}"):
        platform.make_room(["kafka-1"], lambda: set(), living=False)
    assert kafka in engine.containers
    platform.make_room(["kafka-1"], lambda: set(), living=True)
    assert not engine.containers


def test_a_node_boots_from_what_was_written_before_it_started_and_from_nothing_else(
    engine: Engine, platform: DockerPlatform, settings: Settings, kafka: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nodes, "await_boot", lambda *_: None)  # no init is behind this engine
    engine.has(kafka, running=False)
    root = settings.node_root("kafka-1")
    engine.at_start = [root / "etc/supervisord.conf", root / "etc/ssh/host_key-cert.pub"]
    engine.at_start += [settings.node_volume("kafka-1") / "data", root / "run/supervisor.sock"]
    (root / "run").mkdir(parents=True)
    (root / "run/supervisor.sock").touch()
    platform.power_on("kafka-1")
    assert engine.booted_from == [True, True, True, False]

    (root / "run/supervisor.sock").touch()
    platform.power_on("kafka-1")
    assert engine.asked == [f"start {kafka}"]
    assert (root / "run/supervisor.sock").exists(), "the living init listens there"


def test_nodes_keep_the_image_that_the_first_was_made_of(
    engine: Engine, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KINTSUGI_IMAGE", "kintsugi:here")
    assert docker_engine.image_in_force(settings) == "sha256:1"
    engine.image = "sha256:2"
    assert docker_engine.image_in_force(settings) == "sha256:1"


def test_only_what_is_this_installation_s_is_removed(
    engine: Engine, platform: DockerPlatform, settings: Settings
) -> None:
    ours, theirs = (
        {docker_engine.STATE_LABEL: str(settings.state)},
        {docker_engine.STATE_LABEL: "/somewhere/else"},
    )
    engine.has("ours", labels=ours)
    engine.has("theirs", labels=theirs)
    engine.volumes.update(ours=ours, theirs=theirs)
    platform.remove_all()
    assert list(engine.containers) == list(engine.volumes) == ["theirs"]


def test_what_stands_in_the_way_is_told(
    engine: Engine, platform: DockerPlatform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KINTSUGI_IMAGE", raising=False)
    assert ["make docker-up" in line for line in platform.obstacles()] == [True]
    monkeypatch.setenv("KINTSUGI_IMAGE", "kintsugi:elsewhere")
    [line] = platform.obstacles()
    assert "No such thing" in line
    monkeypatch.setenv("KINTSUGI_IMAGE", "kintsugi:here")
    assert not list(platform.obstacles())
    engine.image = "sha256:2"
    [line] = platform.obstacles()
    assert "No such thing" in line, "the nodes' image was removed from the engine"
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    [line] = platform.obstacles()
    assert line.startswith("the Docker engine doesn't answer")
