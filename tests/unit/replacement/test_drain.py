"""In which order a node is drained, stopped and started again; the node's init is stood in for."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from subprocess import CompletedProcess
from types import SimpleNamespace
from typing import Any

import pytest

from kintsugi.core.errors import StepFailed
from kintsugi.core.fleet import load_fleet
from kintsugi.core.observation import ProbeResult
from kintsugi.operations import stream_driver
from kintsugi.replacement import drain
from kintsugi.wire.kafka import Replicas

FLEET = load_fleet()
CONTEXT: Any = SimpleNamespace(
    settings=SimpleNamespace(node_root=lambda name: Path("/nodes") / name), fleet=FLEET
)


@dataclass
class Server:
    """A node whose init does what it is told; it notes each command by its last two words."""

    monkeypatch: pytest.MonkeyPatch
    serves: bool = True
    answer: tuple[int, str] = (0, "stopped")
    commands: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.monkeypatch.setattr("kintsugi.infra.ssh.run_over_ssh", self.run)
        self.monkeypatch.setattr(drain, "probe_node", self.probe)

    def run(self, settings: Any, node: Any, argv: Any, timeout: float) -> CompletedProcess[str]:
        self.commands.append(" ".join(argv[-2:]).replace(f"/nodes/{node.name}/bin/", ""))
        code, text = self.answer
        return CompletedProcess(argv, code, text, "")

    async def probe(self, node: Any) -> Any:
        return SimpleNamespace(answer=ProbeResult.OK if self.serves else ProbeResult.REFUSED)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    monkeypatch.setattr(drain, "RELEASED_S", 0.0)
    return Server(monkeypatch)


@pytest.mark.parametrize(
    ("node", "commands"),
    [
        ("kafka-2", ["stop kafka"]),
        ("cassandra-2", ["nodetool drain", "stop cassandra"]),
        ("spark-worker-1", ["stop spark-worker"]),
        ("spark-master-1", ["stop stream-trades", "stop spark-master"]),
    ],
)
def test_a_node_is_drained_before_its_service_is_stopped(
    server: Server, node: str, commands: list[str]
) -> None:
    drain.stop_service(CONTEXT, FLEET.node(node))
    assert server.commands == commands


def test_a_cassandra_node_that_a_killed_step_drained_is_only_stopped(server: Server) -> None:
    server.serves = False
    drain.stop_service(CONTEXT, FLEET.node("cassandra-2"))
    assert server.commands == ["stop cassandra"]


@pytest.mark.parametrize(
    ("desired", "commands"), [(True, ["spark-master", "stream-trades"]), (False, ["spark-master"])]
)
def test_a_master_gets_its_driver_back_only_while_the_stream_should_run(
    server: Server, monkeypatch: pytest.MonkeyPatch, desired: bool, commands: list[str]
) -> None:
    monkeypatch.setattr(stream_driver, "should_run", lambda _: desired)
    server.answer = (7, "spark-master: ERROR (already started)")
    drain.start_service(CONTEXT, FLEET.node("spark-master-1"))
    assert server.commands == [f"start {name}" for name in commands]


def test_a_service_that_does_not_stop_fails_the_step(server: Server) -> None:
    server.answer = (255, "connection refused")
    with pytest.raises(StepFailed, match="connection refused"):
        drain.stop_service(CONTEXT, FLEET.node("kafka-2"))


def leads(broker: int) -> dict[str, Replicas]:
    return {"trades-0": Replicas(broker, frozenset({1, 2, 3}), frozenset({1, 3}), frozenset())}


@pytest.mark.parametrize(
    ("serves", "answers", "fault"),
    [
        (False, [leads(1), leads(3)], None),
        (False, [leads(1), leads(2)], "leads trades-0"),
        (False, [], "no other broker"),
        (True, [leads(1)], "still answers"),
    ],
)
def test_a_broker_is_drained_when_it_is_silent_and_leads_nothing(
    server: Server, monkeypatch: pytest.MonkeyPatch, serves: bool, answers: list[Any], fault: str | None
) -> None:
    async def describe(*_: Any) -> list[Any]:
        return answers

    monkeypatch.setattr(drain, "describe_partitions_of", describe)
    server.serves = serves
    if fault is None:
        drain.wait_until_released(FLEET, FLEET.node("kafka-2"))
    else:
        with pytest.raises(StepFailed, match=fault):
            drain.wait_until_released(FLEET, FLEET.node("kafka-2"))


def test_no_broker_is_asked_about_a_node_of_another_role(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.serves = False
    monkeypatch.setattr(drain, "describe_partitions_of", None)
    drain.wait_until_released(FLEET, FLEET.node("cassandra-2"))
