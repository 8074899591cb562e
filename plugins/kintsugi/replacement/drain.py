"""Drain a node: hand over its work, then stop its service; and start it again if it is not replaced.

* **Kafka**: a broker that stops cleanly hands over its leaderships. Then no other broker may list it as a leader.
* **Cassandra**: ``nodetool drain`` writes its data to the disk and ends its connections; then the stop.
* **Spark worker**: it stops; the master gives its work to the other worker.
* **Spark master**: the streaming driver stops, then the master. As in a roll-out, the stream pauses until both run.

A step may be killed at any moment and run again: to stop what is stopped does nothing.
"""

from __future__ import annotations

import asyncio

from kintsugi.core.errors import StepFailed
from kintsugi.core.fleet import Fleet, Node, Role
from kintsugi.core.observation import ProbeResult
from kintsugi.infra import ssh
from kintsugi.operations import stream_driver
from kintsugi.operations.context import Context
from kintsugi.operations.node_programs import control_program
from kintsugi.operations.readiness import poll_until
from kintsugi.probes.observe import SERVICES
from kintsugi.probes.protocols import probe_node
from kintsugi.replacement.leaderships import describe_partitions_of, led_partitions

# Together less than the 120 s for which `Attempts.kill_lock` may be held. An init waits 30 s for a service to stop.
DRAIN_S = 50.0
STOP_S = 45.0
START_S = 30.0  # the init has started it; whether it serves is not waited for
RELEASED_S = 30.0


def stop_service(context: Context, node: Node) -> None:
    """Drain the node and stop its service cleanly. Raises StepFailed."""
    if node.role is Role.CASSANDRA and asyncio.run(_serves(node)):
        _drain_cassandra(context, node)
    for program in programs_of(node.role):
        control_program(context, node, "stop", program, STOP_S)


def _drain_cassandra(context: Context, node: Node) -> None:
    nodetool = context.settings.node_root(node.name) / "bin" / "nodetool"
    done = ssh.run_over_ssh(context.settings, node, [str(nodetool), "drain"], DRAIN_S)
    if done.returncode != 0:
        text = f"{done.stdout}{done.stderr}".strip()
        raise StepFailed(f"{node.name}: 'nodetool drain' ended with status {done.returncode}: {text[-500:]}")


def start_service(context: Context, node: Node) -> None:
    """Start the service of a drained node again; what runs is left alone. Raises StepFailed."""
    for program in reversed(programs_of(node.role)):
        if program != stream_driver.PROGRAM or stream_driver.should_run(context):
            control_program(context, node, "start", program, START_S)


def programs_of(role: Role) -> list[str]:
    """Return the programs of a node's init in the order in which they are stopped."""
    service = SERVICES[role]
    return [stream_driver.PROGRAM, service] if role is Role.SPARK_MASTER else [service]


def wait_until_released(fleet: Fleet, node: Node) -> str:
    """Wait until nothing depends on the stopped node; returns a sentence. Raises StepFailed with what still does."""
    asyncio.run(poll_until(lambda: _release_gap(fleet, node), RELEASED_S, f"{node.name} is not drained"))
    led = ", and no other broker lists it as a leader" if node.role is Role.KAFKA else ""
    return f"{node.name} is drained: its service is stopped{led}"


async def _release_gap(fleet: Fleet, node: Node) -> str | None:
    """Return what keeps the node from being drained, or None."""
    if await _serves(node):
        return "it still answers its own protocol"
    if node.role is not Role.KAFKA:
        return None
    answers = await describe_partitions_of(fleet, node)
    if not answers:
        return "no other broker describes its partitions"
    led = led_partitions(node.index, answers)
    return f"it still leads {', '.join(led[:3])}" if led else None


async def _serves(node: Node) -> bool:
    return (await probe_node(node)).answer is ProbeResult.OK
