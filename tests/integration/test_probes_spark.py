"""A real Spark master with a worker: what the master says of a dead one."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from kintsugi.core.errors import StepFailed
from kintsugi.core.fleet import ControlPlaneEndpoints, Fleet, Node, Role
from kintsugi.core.observation import PeerOpinion, ProbeResult
from kintsugi.operations import readiness
from kintsugi.operations.verification import verify_spark
from kintsugi.probes.peers import ask_peers
from kintsugi.probes.protocols import probe_node
from kintsugi.probes.stream import probe_stream
from tests.integration import servers

pytestmark = pytest.mark.timed

MASTER = Node("spark-master-1", Role.SPARK_MASTER, "127.35.44.1", 2222)
WORKER = Node("spark-worker-1", Role.SPARK_WORKER, "127.35.44.2", 2222)
FLEET = Fleet(
    "test",
    "local",
    ControlPlaneEndpoints("127.35.44.9", 1, 2, 3, 4),
    {node.name: node for node in (MASTER, WORKER)},
)


def start_worker(folder: Path) -> servers.Server:
    url = f"spark://{MASTER.address}:7077"
    return servers.spark_worker(folder, WORKER.address, url, memory="512m", cores=1)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[list[servers.Server]]:
    running: list[servers.Server] = []
    try:
        running.append(servers.spark_master(tmp_path / "master", MASTER.address))
        running.append(start_worker(tmp_path / "worker"))
        yield running
    finally:
        servers.stop_all(running)


def test_a_worker_dies_and_comes_back(cluster: list[servers.Server], tmp_path: Path) -> None:
    for node in (WORKER, MASTER):
        asyncio.run(readiness.poll_until(partial(readiness.readiness_gap, FLEET, node), 40, node.name))
        assert asyncio.run(probe_node(node)).answer is ProbeResult.OK
        assert "offer their cores" in verify_spark(FLEET, node, stream=False)
    (witness,) = asyncio.run(ask_peers(FLEET, WORKER))
    assert (witness.peer, witness.opinion) == (MASTER.name, PeerOpinion.UP)
    assert asyncio.run(ask_peers(FLEET, MASTER)) == []

    stream = asyncio.run(probe_stream(MASTER))
    assert stream.answer is ProbeResult.WRONG
    assert "0 applications called stream_trades" in stream.detail
    with pytest.raises(StepFailed, match="the stream holds no core on spark-worker-1"):
        verify_spark(FLEET, WORKER, stream=True, deadline_s=1)

    cluster[1].kill()
    assert asyncio.run(probe_node(WORKER)).answer is ProbeResult.REFUSED

    async def unheard() -> str | None:
        (said,) = await ask_peers(FLEET, WORKER)
        return said.detail if said.opinion is PeerOpinion.UP else None

    asyncio.run(readiness.poll_until(unheard, 30, "the master still hears the dead worker"))
    cluster.append(start_worker(tmp_path / "worker"))
    asyncio.run(readiness.poll_until(lambda: readiness.readiness_gap(FLEET, WORKER), 40, "not ready"))
    (witness,) = asyncio.run(ask_peers(FLEET, WORKER))
    assert witness.opinion is PeerOpinion.UP
