"""While a person starts a node, nobody else does; and afterwards somebody watches it again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from datetime import datetime
from types import SimpleNamespace
from typing import Any

import pytest

from kintsugi.core.errors import StepFailed
from kintsugi.core.fleet import load_fleet
from kintsugi.infra.airflow_client import TaskRun
from kintsugi.operations import manual_mode


class Recorder:
    """A store and an Airflow that write down in which order they are called; the watch returns at the third look."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.states: Iterator[str] = iter(("scheduled", "success", "deferred"))

    def acquire_lease(self, node: str, holder: str, ttl_s: float, *, fresh_token: bool) -> Any:
        self.said.append(f"lease {node}")
        return SimpleNamespace(token=5)

    def release_lease(self, node: str, token: int) -> None:
        self.said.append(f"release {node} {token}")

    def set_maintenance(self, scope: str, *, reason: str, user: str, until: datetime) -> None:
        self.said.append(f"maintenance {scope}")

    def clear_maintenance(self, scope: str, *, user: str) -> None:
        self.said.append(f"clear {scope}")

    def pause(self, dag: str) -> None:
        self.said.append(f"pause {dag}")

    def unpause(self, dag: str) -> None:
        self.said.append(f"unpause {dag}")

    def youngest_run(self, dag: str) -> dict[str, str]:
        return {"dag_run_id": "run-1", "state": "running"}

    def tasks(self, dag: str, run: str) -> list[TaskRun]:
        state = next(self.states)
        self.said.append(f"health is {state}")
        return [TaskRun("health", state, None, None, 1, -1)]


@pytest.mark.parametrize("fails", [False, True])
def test_the_lease_is_given_back_only_when_the_watch_watches_again(fails: bool) -> None:
    seen: Any = Recorder()
    context: Any = SimpleNamespace(store=seen)
    with (
        pytest.raises(StepFailed, match="ansible gave up") if fails else nullcontext(),
        manual_mode.manual_mode(context, seen, "kafka-2", holder="make mttr", reason="measured"),
    ):
        seen.said.append("hand")
        if fails:
            raise StepFailed("ansible gave up")
    assert seen.said == [
        "lease kafka-2", "maintenance kafka-2", "pause watch_kafka-2", "hand", "unpause watch_kafka-2",
        "health is scheduled", "health is success", "health is deferred", "clear kafka-2", "release kafka-2 5",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("run", "health", "watched"),
    [
        ({"dag_run_id": "r", "state": "running"}, "deferred", True),
        ({"dag_run_id": "r", "state": "running"}, "scheduled", False),
        ({"dag_run_id": "r", "state": "queued"}, None, False),
        (None, None, False),
    ],
)
def test_a_node_is_watched_while_its_sensor_is_deferred(
    run: dict[str, str] | None, health: str | None, watched: bool
) -> None:
    airflow: Any = SimpleNamespace(
        youngest_run=lambda dag: run, tasks=lambda dag, run_id: [TaskRun("health", health, None, None, 1, -1)]
    )
    assert manual_mode.is_watched(airflow, "kafka-2") is watched


def test_an_airflow_that_does_not_answer_watches_nothing() -> None:
    def away(dag: str) -> None:
        raise StepFailed("Airflow does not answer")

    airflow: Any = SimpleNamespace(youngest_run=away)
    assert manual_mode.is_watched(airflow, "kafka-2") is False


def test_what_a_killed_run_left_is_lifted_and_a_persons_own_is_kept() -> None:
    said: list[str] = []
    store = SimpleNamespace(
        give_back=lambda name, holder: said.append(f"give back {name} of {holder}"),
        clear_maintenance=lambda name, user: said.append(f"clear {name} of {user}"),
    )
    context: Any = SimpleNamespace(fleet=load_fleet(), store=store)
    manual_mode.end_manual_mode(context, "make mttr")
    assert set(said) == {
        f"{act} {name} of make mttr" for name in context.fleet.nodes for act in ("give back", "clear")
    }
