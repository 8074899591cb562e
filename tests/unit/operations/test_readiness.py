"""What a Spark node lacks to be redundant, and the waiting itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from kintsugi.core.errors import StepFailed
from kintsugi.core.fleet import Node, Role
from kintsugi.operations.readiness import is_older_generation, poll_until, spark_readiness_gap
from kintsugi.operations.verification import TaskActivity, completed_tasks, tasks_missing

ONE = Node("spark-worker-1", Role.SPARK_WORKER, "127.35.3.2", 2222)
TWO = Node("spark-worker-2", Role.SPARK_WORKER, "127.35.3.3", 2222)
APP = {"name": "stream_trades", "state": "RUNNING", "cores": 2}


def document(
    used: dict[Node, int], *, status: str = "ALIVE", apps: list[Any] | None = None
) -> dict[str, Any]:
    workers = [{"host": n.address, "state": "ALIVE", "cores": 2, "coresused": c} for n, c in used.items()]
    return {"status": status, "workers": workers, "activeapps": [APP] if apps is None else apps}


@pytest.mark.parametrize(
    ("seen", "wanted", "stream", "lacks"),
    [
        (document({ONE: 1, TWO: 1}), [ONE], True, None),
        (document({ONE: 0, TWO: 1}), [ONE], True, "no core on spark-worker-1"),
        (document({ONE: 0, TWO: 0}, apps=[]), [ONE], False, None),
        (document({ONE: 1, TWO: 1}, apps=[]), [ONE], True, "not registered"),
        (document({TWO: 1}), [ONE], True, "no worker of spark-worker-1"),
        (document({TWO: 1}), [ONE, TWO], False, "no worker of spark-worker-1"),
        (document({ONE: 1, TWO: 1}, status="RECOVERING"), [ONE], False, "the master is RECOVERING"),
    ],
)
def test_spark(seen: dict[str, Any], wanted: list[Node], stream: bool, lacks: str | None) -> None:
    said = spark_readiness_gap(seen, wanted, stream)
    assert said is None if lacks is None else lacks in (said or "")


def test_a_dead_worker_of_the_same_address_does_not_hide_its_successor() -> None:
    seen = document({ONE: 1})
    seen["workers"].append({"host": ONE.address, "state": "DEAD", "cores": 2, "coresused": 0})
    assert spark_readiness_gap(seen, [ONE], stream=True) is None


def test_a_node_that_its_peers_remember_from_the_future_is_told_what_to_do() -> None:
    three_hours = 3 * 3600
    said = is_older_generation(ONE, TWO, held=three_hours + 3600, own=three_hours)
    assert said == (
        "spark-worker-2 ignores spark-worker-1: it knows a gossip generation of it that is 3600 s newer, from a clock "
        "that was ahead; a recovery starts it with a newer one (recover_node, action restart)"
    )
    assert is_older_generation(ONE, TWO, held=three_hours, own=three_hours) is None
    assert is_older_generation(ONE, TWO, held=None, own=three_hours) is None
    assert is_older_generation(ONE, TWO, held=three_hours, own=None) is None


async def test_waiting_ends_when_nothing_is_missing_and_says_at_the_deadline_what_was() -> None:
    lacking = iter(["it is behind", "it is behind", None])

    async def soon() -> str | None:
        return next(lacking)

    async def never() -> str | None:
        return "it is out of sync in trades-3"

    assert 0.9 < await poll_until(soon, 10, "kafka-1 is not ready") < 5
    with pytest.raises(StepFailed, match=r"kafka-1 is not ready after \d+ s: it is out of sync in trades-3"):
        await poll_until(never, 0.2, "kafka-1 is not ready")


def test_completed_tasks_by_address() -> None:
    found = [
        {"hostPort": "127.35.3.2:41001", "completedTasks": 3},
        {"hostPort": "127.35.3.2:41002", "completedTasks": 4},
        {"hostPort": "127.35.3.3:41001", "completedTasks": 0},
    ]
    assert completed_tasks(found) == {"127.35.3.2": 7, "127.35.3.3": 0}


def executors(done: Mapping[str, int], active: Mapping[str, int] | None = None) -> list[dict[str, Any]]:
    """What the driver says: completed and active tasks by address."""
    return [
        {
            "hostPort": f"{address}:41001",
            "completedTasks": tasks,
            "activeTasks": (active or {}).get(address, 0),
        }
        for address, tasks in done.items()
    ]


def test_a_task_on_the_healed_worker_is_the_proof() -> None:
    assert tasks_missing([ONE], executors({ONE.address: 1, TWO.address: 9}), idle_s=1) is None
    assert "no task" in (tasks_missing([ONE], executors({ONE.address: 0, TWO.address: 9}), idle_s=1) or "")
    assert "no executor" in (tasks_missing([ONE], executors({TWO.address: 9}), idle_s=99) or "")


def test_an_idle_stream_owes_no_task() -> None:
    idle = executors({ONE.address: 0, TWO.address: 5})
    assert "no task" in (tasks_missing([ONE], idle, idle_s=5) or "")
    assert tasks_missing([ONE], idle, idle_s=11) is None


def test_a_stream_is_idle_again_some_time_after_a_task_of_another_worker() -> None:
    """One trade in a while, always to the other worker: the healed one waited for its task until the deadline."""
    activity = TaskActivity(100.0)
    assert activity.idle_s({TWO.address: 5}, 101.0) == 0
    assert activity.idle_s({TWO.address: 5}, 109.0) == 8
    assert activity.idle_s({TWO.address: 6, ONE.address: 0}, 110.0) == 0
    assert activity.idle_s({TWO.address: 6, ONE.address: 0}, 121.0) == 11


def test_a_stream_that_is_at_a_long_task_is_not_idle() -> None:
    """A batch of 54 s was taken for an idle stream, and a worker proven that hadn't completed anything."""
    before = {ONE.address: 0, TWO.address: 5}
    for busy in (ONE, TWO):
        found = executors(before, {busy.address: 1})
        assert "no task" in (tasks_missing([ONE], found, idle_s=99) or "")
