"""Verify a recovered node by its own work, not by what other nodes report of it.

* **Kafka**: the broker leads its partition of the topic ``kintsugi.verify``, accepts a record with acks=all,
  and returns it.
* **Cassandra**: rows that a quorum of the other nodes holds are read at consistency level ONE from this node, and
  the trace shows that it read them from its own disk.
* **Spark worker**: an executor of the stream on this node has completed tasks.
* **Spark master**: ALIVE with all workers, and the stream completes tasks under it.

Each waits for its condition with a deadline. It returns what it verified, as a sentence, or raises StepFailed with
what is missing. All may be run again at any time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kintsugi.core.certificates import Principal
from kintsugi.core.errors import StepFailed
from kintsugi.core.fleet import Fleet, Node, Role
from kintsugi.core.settings import Settings
from kintsugi.operations import stream_driver
from kintsugi.operations.context import Context
from kintsugi.operations.readiness import master_state, poll_until, spark_readiness_gap, stream_should_run
from kintsugi.operations.verification_cassandra import verify_cassandra
from kintsugi.operations.verification_kafka import verify_kafka
from kintsugi.pipeline import synthetic_trade as trade
from kintsugi.pipeline.cassandra_session import installation_session, shut_down_after
from kintsugi.probes import clock_skew
from kintsugi.probes.peers import ask_spark
from kintsugi.probes.stream import stream_apps

DRIVER_UI_PORT = 4040
DEADLINE_S = 60.0
# A new executor gets tasks only with the next batch. The batch before may be long: it holds all delayed messages.
BATCHES_S = 180.0
IDLE_AFTER_S = 10.0


def verify_node(settings: Settings, fleet: Fleet, node: Node, deadline_s: float = DEADLINE_S) -> str:
    """Verify ``node`` by its role; returns a sentence. Raises StepFailed at the deadline (seconds)."""
    if node.role is Role.KAFKA:
        return verify_kafka(fleet, node, deadline_s)
    if node.role is Role.CASSANDRA:
        return verify_cassandra(fleet, node, deadline_s)
    return verify_spark(fleet, node, stream=stream_should_run(settings), deadline_s=deadline_s)


def verify_synthetic_trade(
    context: Context, send: Callable[[], tuple[str, str]], give_up: Callable[[float], bool]
) -> str:
    """Verify the whole pipeline: send a synthetic trade and wait for it in Cassandra; returns a sentence.

    ``send`` sends it, and returns its trade_id and where it was sent. If the stream is not submitted, no trade can
    arrive, so none is sent. Raises StepFailed once ``give_up``, called with the seconds waited, returns True.
    """
    if not stream_driver.should_run(context):
        return "no synthetic trade was sent: the stream is not submitted"
    trade_id, entrance = send()
    seconds = trade.await_arrival(
        lambda: shut_down_after(installation_session(context.settings, Principal.RECOVERY)), trade_id, give_up
    )
    return f"a synthetic trade went from {entrance} to Cassandra in {seconds:.1f} s"


def verify_clock(settings: Settings, node: Node) -> str:
    """Verify that the clock of ``node`` agrees with its peers; raises StepFailed if it doesn't."""
    ahead = asyncio.run(clock_skew.seconds_ahead(settings, node))
    if (off := clock_skew.describe_skew(ahead)) is not None:
        raise StepFailed(f"{node.name} serves, but {off}")
    if ahead is None:
        raise StepFailed(f"{node.name} serves, but its clock could not be read")
    return f"the clock of {node.name} agrees with its peers"


def verify_spark(fleet: Fleet, node: Node, *, stream: bool, deadline_s: float = DEADLINE_S) -> str:
    """Verify a Spark node. ``stream``: whether the streaming application should run.

    The deadline is ``deadline_s`` for the cluster and BATCHES_S for the tasks.
    """
    return asyncio.run(_verify_spark(fleet, node, stream, deadline_s))


async def _verify_spark(fleet: Fleet, node: Node, stream: bool, deadline_s: float) -> str:
    master = fleet.of(Role.SPARK_MASTER)[0]
    wanted = [node] if node.role is Role.SPARK_WORKER else fleet.of(Role.SPARK_WORKER)

    async def cluster_gap() -> str | None:
        document = await master_state(master)
        return document if isinstance(document, str) else spark_readiness_gap(document, wanted, stream)

    await poll_until(cluster_gap, deadline_s, f"{node.name} is not ready")
    names = " and ".join(worker.name for worker in wanted)
    if not stream:
        return f"{names} offer their cores to the master; no stream is submitted, so none is used"
    activity = TaskActivity(time.monotonic())

    async def tasks_gap() -> str | None:
        now = await stream_executors(master)
        if isinstance(now, str):
            return f"the driver reports: {now}"
        return tasks_missing(wanted, now, activity.idle_s(completed_tasks(now), time.monotonic()))

    await poll_until(tasks_gap, BATCHES_S, f"{node.name} is not verified")
    return await _task_proof(master, names, wanted)


async def _task_proof(master: Node, names: str, wanted: list[Node]) -> str:
    now = await stream_executors(master)
    tasks = {} if isinstance(now, str) else completed_tasks(now)
    counts = [tasks.get(worker.address, 0) for worker in wanted]
    if all(counts):
        return f"the stream's executors on {names} have completed {sum(counts)} tasks"
    return f"the stream's executors on {names} are registered; the stream is idle, so they got no task"


@dataclass
class TaskActivity:
    """When the stream last completed a task. ``since``: monotonic seconds, at first the beginning of the observation.

    The time counts from the last task, not from the beginning: a stream that gets one trade in a while is idle between
    two of them, and its few tasks may all go to another worker.
    """

    since: float
    completed: dict[str, int] = field(default_factory=dict)

    def idle_s(self, completed: dict[str, int], now: float) -> float:
        """Return the seconds without a completed task until ``now``. ``completed``: tasks by address."""
        if completed != self.completed:
            self.completed, self.since = completed, now
        return now - self.since


def tasks_missing(wanted: list[Node], executors: Sequence[Mapping[str, Any]], idle_s: float) -> str | None:
    """Return what is missing of the executors on ``wanted``, or None. ``executors``: all of them, by the driver.

    An idle stream gives no tasks. So if no task is active, and none was completed for IDLE_AFTER_S (``idle_s``:
    seconds since the last one), it is enough that the executors are registered.
    """
    tasks = completed_tasks(executors)
    absent = [node.name for node in wanted if node.address not in tasks]
    if absent:
        return f"no executor of the stream is active on {' and '.join(absent)}"
    fresh = [node.name for node in wanted if tasks[node.address] == 0]
    idle = idle_s > IDLE_AFTER_S and not any(executor["activeTasks"] for executor in executors)
    if fresh and not idle:
        return f"no task of the stream has been completed on {' and '.join(fresh)}"
    return None


async def stream_executors(master: Node) -> list[Mapping[str, Any]] | str:
    """Return the stream's active executors by its driver (on the master's node), or why they are unknown."""
    document = await master_state(master)
    if isinstance(document, str):
        return document
    apps = stream_apps(document)
    if not apps:
        return "the streaming application is not registered"
    path = f"/api/v1/applications/{apps[0]['id']}/executors"
    documents: list[Mapping[str, Any]] | str = await ask_spark(master, DRIVER_UI_PORT, path)
    if isinstance(documents, str):
        return documents
    return [executor for executor in documents if executor["isActive"] and executor["id"] != "driver"]


def completed_tasks(executors: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Return completed tasks by address, from the driver's list of executors."""
    tasks: dict[str, int] = {}
    for executor in executors:
        address = str(executor["hostPort"]).rpartition(":")[0]
        tasks[address] = tasks.get(address, 0) + int(executor["completedTasks"])
    return tasks
