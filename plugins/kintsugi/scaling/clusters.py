"""What each role does when a node is added to it or removed from it; `steps` has the order.

Every function looks at the cluster first and does only what is left to do, so it may be killed and run again. ``check``
is called right before each act that can't be undone, so a step that another run has replaced does none.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from kintsugi.core.errors import GuardRefused, StepFailed
from kintsugi.core.fleet import Fleet, Node, Role
from kintsugi.core.settings import KAFKA_CONTROLLER_PORT, KAFKA_PORT
from kintsugi.environments.local.node_identity import kafka_cluster_id
from kintsugi.infra import ssh
from kintsugi.operations.context import Context
from kintsugi.operations.kafka_voters import settle_voters, voter_ids
from kintsugi.operations.node_programs import control_program
from kintsugi.operations.readiness import GOSSIP, master_state, poll_until
from kintsugi.probes.observe import SERVICES
from kintsugi.probes.peers import query_cassandra
from kintsugi.probes.protocols import answering_nodes
from kintsugi.scaling.kafka_partitions import hosted_on, move_replicas, open_admin, read_partition_states
from kintsugi.scaling.partition_moves import Brokers
from kintsugi.scaling.state import Check
from kintsugi.wire.kafka_quorum import find_leader, unregister_broker

STOP_S = START_S = 60.0
GONE_S = 120.0
DECOMMISSION_S = 6 * 3600.0
CLEANUP_S = 4 * 3600.0
ASK_AGAIN_S = 30.0  # between two looks of nodetool, which is a JVM on the node
NODETOOL_S = 60.0
JOIN_FAILED = "JOINING_FAILED"  # Cassandra's mode after a join that failed; its JVM stays up and never serves
SICK_S = 30.0  # a broker that doesn't answer for this long ends the moves of partitions
Say = Callable[[str], None]

log = logging.getLogger(__name__)


def spread_partitions(context: Context, leaving: Sequence[Node], rate: int, say: Say, check: Check) -> str:
    """Spread the replicas of all partitions over the brokers that stay or came, and settle the quorum's voters.

    ``rate``: bytes a second for each broker. Returns a sentence; raises StepFailed.
    """
    names = {node.name for node in leaving}
    staying = [node for node in context.fleet.of(Role.KAFKA) if node.name not in names]
    bootstrap = [f"{node.address}:{KAFKA_PORT}" for node in staying]
    check()
    moved = move_replicas(
        bootstrap,
        Brokers({node.index: node.zone for node in staying}),
        rate=rate,
        say=say,
        give_up=_silence_watch(staying),
    )
    check()
    settle_voters(staying, leaving, kafka_cluster_id(context.settings), on_progress=say)
    return f"the partitions are spread over {len(staying)} brokers ({moved} moved)"


def _silence_watch(nodes: Sequence[Node]) -> Callable[[], str | None]:
    """Return a function that returns a sentence once one of the nodes has not answered for SICK_S."""
    heard = dict.fromkeys((node.name for node in nodes), time.monotonic())

    def look() -> str | None:
        now = time.monotonic()
        heard.update(dict.fromkeys(asyncio.run(answering_nodes(nodes)), now))
        silent = [name for name, at in heard.items() if now - at > SICK_S]
        return f"{', '.join(silent)} does not answer" if silent else None

    return look


def stop_broker(context: Context, node: Node, say: Say, check: Check) -> None:
    """Stop a broker that holds no replica and no vote, and let the cluster forget it.

    Raises GuardRefused if it still holds one, StepFailed if it does not stop.
    """
    others = context.fleet.peers(node)
    bootstrap = [f"{other.address}:{KAFKA_PORT}" for other in others]
    controllers = [f"{other.address}:{KAFKA_CONTROLLER_PORT}" for other in others]
    with open_admin(bootstrap) as admin:
        hosted = hosted_on(read_partition_states(admin), node.index)
    if hosted:
        raise GuardRefused(f"{node.name} still holds {len(hosted)} replicas, as of {', '.join(hosted[:3])}.")
    _, quorum = find_leader(controllers)
    if node.index in voter_ids(quorum):
        raise GuardRefused(f"{node.name} is still a voter of Kafka's quorum.")
    if stop_service(context, node, check):
        say(f"{node.name} holds no replica and no vote; its service is stopped")
    ends = time.monotonic() + GONE_S
    while True:  # the cluster forgets a broker only once it is fenced
        try:
            leader, _ = find_leader(controllers)
            check()
            unregister_broker(leader, node.index)
        except StepFailed as error:
            if time.monotonic() > ends:
                raise
            log.info("%s", error)
            time.sleep(1)
        else:
            return


def stop_worker(context: Context, node: Node, say: Say, check: Check) -> None:
    """Stop a Spark worker and wait until the stream works on the others. Raises StepFailed."""
    if stop_service(context, node, check):
        say(f"{node.name} is stopped; its tasks run on the other workers")
    (master, *_) = context.fleet.of(Role.SPARK_MASTER)
    others = [other.address for other in context.fleet.peers(node)]
    asyncio.run(poll_until(lambda: _worker_gap(master, node, others), GONE_S, f"{node.name} is not released"))


async def _worker_gap(master: Node, node: Node, others: Sequence[str]) -> str | None:
    document = await master_state(master)
    if isinstance(document, str):
        return document
    return worker_gap(document, node.address, others)


def worker_gap(document: Mapping[str, Any], address: str, others: Sequence[str]) -> str | None:
    """Return what is missing until the worker at ``address`` is gone and the others are alive. Pure."""
    alive = {worker["host"] for worker in document.get("workers", []) if worker.get("state") == "ALIVE"}
    if address in alive:
        return "the master still lists its worker as alive"
    missing = sorted(set(others) - alive)
    return f"no worker of {', '.join(missing)} is alive" if missing else None


def decommission(context: Context, node: Node, say: Say, check: Check) -> None:
    """Let a Cassandra node hand its ranges to the others and leave the ring, then stop it.

    ``nodetool decommission`` goes on if its caller dies. Then it is waited for: a second call returns at once. After a
    decommission that failed the node stays LEAVING, and a second call goes on. Raises StepFailed, GuardRefused.
    """
    ends, last_status, ask_at = time.monotonic() + DECOMMISSION_S, None, 0.0
    while (status := asyncio.run(ring_status(context.fleet, node))) != "LEFT":
        if status != last_status:
            last_status = status
            say(f"Cassandra lists {node.name} as {status or 'unknown to one node'}")
        if time.monotonic() > ends:
            raise StepFailed(
                f"{node.name} has not left the ring after {DECOMMISSION_S:.0f} s; it is {status}"
            )
        if status is not None and status.startswith(
            "BOOT"
        ):  # it never joined, so its peers forget it by themselves
            stop_service(context, node, check)
        elif status in ("NORMAL", "LEAVING") and time.monotonic() >= ask_at:
            check()
            _run_nodetool(context, node, "decommission", DECOMMISSION_S, harmless=("already", "in progress"))
            ask_at = time.monotonic() + ASK_AGAIN_S  # the peers learn of the end a moment later
        time.sleep(2)
    if stop_service(context, node, check):
        say(f"{node.name} has left the ring; its service is stopped")


def stop_failed_join(context: Context, node: Node, check: Check) -> bool:
    """Stop a Cassandra node whose join has failed, so that Ansible starts it again; False if it has not.

    Raises StepFailed if it doesn't stop.
    """
    return _operation_mode(context, node) == JOIN_FAILED and stop_service(context, node, check)


def failed_join_watch(context: Context, node: Node) -> Callable[[], str | None]:
    """Return a function that returns a sentence once the join of ``node`` has failed; it looks now and then."""
    look_at = time.monotonic() + ASK_AGAIN_S

    def look() -> str | None:
        nonlocal look_at
        if time.monotonic() < look_at:
            return None
        failed = _operation_mode(context, node) == JOIN_FAILED
        look_at = time.monotonic() + ASK_AGAIN_S
        return f"the join of {node.name} has failed; read its cassandra.log" if failed else None

    return look


def _operation_mode(context: Context, node: Node) -> str | None:
    """Return Cassandra's mode as the node itself says it (JOINING, NORMAL); None if it doesn't answer."""
    nodetool = context.settings.node_root(node.name) / "bin" / "nodetool"
    try:
        done = ssh.run_over_ssh(context.settings, node, [str(nodetool), "netstats"], NODETOOL_S)
    except StepFailed as error:
        log.info("%s", error)
        return None
    return operation_mode(done.stdout)


def operation_mode(text: str) -> str | None:
    """Return the mode from the answer of ``nodetool netstats``; None if there is none. Pure."""
    found = re.search(r"^Mode: (\w+)$", text, re.MULTILINE)
    return found[1] if found else None


async def ring_status(fleet: Fleet, node: Node) -> str | None:
    """Return the status of ``node`` in the gossip of its peers: NORMAL, LEAVING, LEFT (also if all have forgotten it).

    None if the peers don't agree, or one doesn't answer.
    """
    answers = await asyncio.gather(*(query_cassandra(peer, GOSSIP) for peer in fleet.peers(node)))
    return common_status([None if isinstance(rows, str) else rows for rows in answers], node.address)


def common_status(answers: Sequence[Sequence[Mapping[str, Any]] | None], address: str) -> str | None:
    """Return the status that all ``answers`` give the node at ``address``; see `ring_status`. Pure."""
    seen: set[str | None] = set()
    for rows in answers:
        if rows is None:
            return None
        row = next((one for one in rows if one["address"] == address), None)
        seen.add("LEFT" if row is None else str(row["status_with_port"]).partition(",")[0])
    return seen.pop() if len(seen) == 1 else None


def clean_up(context: Context, node: Node, check: Check) -> None:
    """Remove the rows that the node no longer holds a range of (``nodetool cleanup``). Raises StepFailed."""
    check()
    _run_nodetool(context, node, "cleanup", CLEANUP_S, "-j", "1")


def _run_nodetool(
    context: Context,
    node: Node,
    command: str,
    timeout_s: float,
    *arguments: str,
    harmless: Sequence[str] = (),
) -> None:
    nodetool = context.settings.node_root(node.name) / "bin" / "nodetool"
    done = ssh.run_over_ssh(context.settings, node, [str(nodetool), command, *arguments], timeout_s)
    text = f"{done.stdout}{done.stderr}".strip()
    if done.returncode != 0 and not any(word in text for word in harmless):
        raise StepFailed(
            f"{node.name}: 'nodetool {command}' ended with status {done.returncode}: {text[-500:]}"
        )


def start_service(context: Context, node: Node) -> bool:
    """Start the service of the node; False if the node itself is away. Raises StepFailed."""
    if not context.platform().running(node.name):
        return False
    control_program(context, node, "start", SERVICES[node.role], START_S)
    return True


def stop_service(context: Context, node: Node, check: Check) -> bool:
    """Stop the service of the node cleanly; False if it doesn't run any more. Raises StepFailed."""
    service = SERVICES[node.role]
    if not context.platform().running(node.name):
        return False
    status = control_program(context, node, "status", service, STOP_S)
    if "no such process" in status or "STOPPED" in status:
        return False
    check()
    control_program(context, node, "stop", service, STOP_S)
    return True
