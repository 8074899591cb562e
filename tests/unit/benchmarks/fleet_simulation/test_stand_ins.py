"""Stand-in nodes answer the production probes, and fail as servers do."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.fleet_simulation import stand_ins
from benchmarks.fleet_simulation.simulated_fleet import write_fleet
from benchmarks.fleet_simulation.stand_ins import NodeFault, StandIn, server_context
from kintsugi.core.certificates import create_authority
from kintsugi.core.client_tls import TLS_DIRECTORY
from kintsugi.core.fleet import Node, Role
from kintsugi.core.observation import ProbeResult
from kintsugi.core.settings import load_settings
from kintsugi.probes.clock_skew import seconds_ahead
from kintsugi.probes.protocols import probe_node

NODES = [Node(f"{role.value}-1".replace("_", "-"), role, "127.97.0.1", 2222) for role in Role]


@pytest.fixture
def without_certificates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TLS_DIRECTORY, "")


async def answer(node: Node, timeout_s: float = 2.0) -> ProbeResult:
    return (await probe_node(node, timeout_s)).answer


@pytest.mark.usefixtures("without_certificates")
@pytest.mark.parametrize("node", NODES, ids=lambda node: str(node.role))
async def test_it_answers_then_hangs_then_refuses(node: Node) -> None:
    stand_in = StandIn(node, None)
    stand_in.accept()
    assert await answer(node) is ProbeResult.OK
    stand_in.fail(NodeFault.HANG)
    assert await answer(node, 0.2) is ProbeResult.TIMEOUT
    stand_in.fail(NodeFault.REFUSE)
    assert await answer(node) is ProbeResult.REFUSED


@pytest.mark.usefixtures("without_certificates")
async def test_a_pause_ends_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stand_ins, "PAUSE_S", 0.5)
    stand_in = StandIn(NODES[0], None)
    stand_in.accept()
    stand_in.fail(NodeFault.PAUSE)
    assert await answer(NODES[0], 0.1) is ProbeResult.TIMEOUT
    assert await answer(NODES[0], 5.0) is ProbeResult.OK
    stand_in.fail(NodeFault.REFUSE)


async def test_with_certificates_it_answers_nobody_without_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in write_fleet(tmp_path / "state", 10, mutual_tls=True).items():
        monkeypatch.setenv(name, value)
    settings = load_settings()
    create_authority(settings)
    node = Node("cassandra-1", Role.CASSANDRA, "127.97.0.1", 2222)
    stand_in = StandIn(node, server_context(settings, node))
    stand_in.accept()
    assert await answer(node) is ProbeResult.OK
    ahead_s = await seconds_ahead(settings, node)
    assert ahead_s is not None
    assert abs(ahead_s) < 1
    monkeypatch.setenv(TLS_DIRECTORY, "")
    assert await answer(node, 0.5) is not ProbeResult.OK
    stand_in.fail(NodeFault.REFUSE)
