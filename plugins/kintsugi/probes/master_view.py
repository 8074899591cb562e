"""The peer views of the Spark master: it has no peers, so its workers, the driver and the stream's offsets are asked.

The driver runs on the master's node. So the driver's port, and offsets that advance, prove that the host lives. They
prove nothing about the master's own process. They are asked only if the host does not answer us at all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from datetime import UTC, datetime

from kintsugi.core.errors import StepFailed
from kintsugi.core.fleet import Fleet, Node, Role
from kintsugi.core.observation import PeerOpinion, ProbeResult
from kintsugi.core.settings import KAFKA_PORT, Settings
from kintsugi.infra import ssh as ssh_client
from kintsugi.probes.node_view import look_command, parse_look
from kintsugi.probes.peers import PeerView
from kintsugi.probes.protocols import Probe, probe_http
from kintsugi.probes.stream_progress import read_offsets

DRIVER_UI_PORT = 4040
OFFSETS_WATCH_S = 2.0
SSH_TIMEOUT_S = 5.0


async def ask_master(settings: Settings, node: Node, ssh: Probe) -> list[PeerView]:
    """Return the peer views of the Spark master; an empty list for a node of another role. Takes at most 7 s."""
    if node.role is not Role.SPARK_MASTER:
        return []
    fleet = settings.fleet
    questions: list[Coroutine[None, None, PeerView | None]]
    questions = [_ask_worker(settings, worker, node) for worker in fleet.of(Role.SPARK_WORKER)]
    if ssh.answer is not ProbeResult.OK:
        questions += [_ask_driver(node), _watch_offsets(fleet)]
    return [view for view in await asyncio.gather(*questions) if view is not None]


async def _ask_worker(settings: Settings, worker: Node, master: Node) -> PeerView | None:
    try:
        done = await asyncio.to_thread(
            ssh_client.run_over_ssh, settings, worker, look_command(settings, worker, master), SSH_TIMEOUT_S
        )
    except (StepFailed, OSError) as error:
        return PeerView(worker.name, PeerOpinion.UNKNOWN, str(error))
    return worker_view(worker.name, *parse_look(done.stdout), datetime.now(UTC))


def worker_view(worker: str, answer: ProbeResult | None, established: bool, now: datetime) -> PeerView:
    """Return the worker's view of the master. ``answer``: to a probe from the worker; ``established``: a connection.

    An established connection while new ones are refused proves that the process lives: something else refuses. A
    stopped process keeps its connections too, but its kernel never refuses. Then the connection proves nothing.
    """
    if answer is None:
        return PeerView(worker, PeerOpinion.UNKNOWN, "could not be asked")
    if answer is ProbeResult.OK:
        return PeerView(worker, PeerOpinion.UP, "the master answers it", now)
    if answer is ProbeResult.REFUSED and established:
        return PeerView(worker, PeerOpinion.UP, "its connection to the master is established", now)
    return PeerView(worker, PeerOpinion.DOWN, f"the master does not answer it ({answer})")


async def _ask_driver(master: Node) -> PeerView | None:
    probe = await probe_http(master.address, DRIVER_UI_PORT)
    if probe.answer is not ProbeResult.OK:
        return None  # there may be no driver
    return PeerView("streaming driver", PeerOpinion.UP, "its port answers on the same node", probe.at)


async def _watch_offsets(fleet: Fleet) -> PeerView | None:
    brokers = fleet.endpoints(Role.KAFKA, KAFKA_PORT)
    first = await asyncio.to_thread(read_offsets, brokers)
    await asyncio.sleep(OFFSETS_WATCH_S)
    second = await asyncio.to_thread(read_offsets, brokers)
    if first is None or second is None or second[0] <= first[0]:
        return None  # perhaps there are no trades
    detail = f"the stream committed {second[0] - first[0]} messages within {OFFSETS_WATCH_S:.0f} s"
    return PeerView("committed offsets", PeerOpinion.UP, detail, datetime.now(UTC))
