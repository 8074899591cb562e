"""A change of the fleet runs its steps in this order, on a real Airflow (``DAG.test``).

The steps themselves are replaced by recorders here: this is about wiring. They run on a real store in
tests/integration/test_scaling_steps.py.
"""

from __future__ import annotations

from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from kintsugi.core.errors import GuardRefused, KintsugiError, StepFailed
from kintsugi.operations.context import Context
from kintsugi.scaling import steps
from kintsugi.scaling.steps import ScalingResult, ScalingState
from tests.dags.in_process import run_in_process

ORDER = [
    "begin", "add spark_worker", "remove spark_worker", "add kafka", "spread", "remove kafka", "add cassandra",
    "remove cassandra", "clean_up", "settle",
]  # fmt: skip


class Recorder:
    """Stands in for the steps: notes which were carried out, fails where told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.acted: list[str] = []
        self.reasons: list[str] = []
        self.fails: tuple[str, KintsugiError] | None = None
        self.state = ScalingState.DONE
        self.asked_for: dict[str, Any] = {}
        monkeypatch.setattr(Context, "from_environment", SimpleNamespace)
        monkeypatch.setattr(steps, "check_scaling", lambda *_: (self.act("check"), self.reasons))
        monkeypatch.setattr(steps, "begin_scaling", self.begin)
        monkeypatch.setattr(steps, "add_nodes", lambda _, __, role: self.act(f"add {role.value}"))
        monkeypatch.setattr(steps, "remove_nodes", lambda _, __, role: self.act(f"remove {role.value}"))
        monkeypatch.setattr(steps, "spread_partitions", self.spread)
        monkeypatch.setattr(steps, "clean_up", lambda *_: self.act("clean_up"))
        monkeypatch.setattr(steps, "settle", lambda *_: self.act("settle"))
        monkeypatch.setattr(steps, "finish_scaling", self.finish)

    def act(self, name: str) -> str:
        self.acted.append(name)
        if self.fails is not None and self.fails[0] == name:
            raise self.fails[1]
        return name

    def begin(self, _: Any, holder: str, started_by: str) -> str:
        self.asked_for |= {"holder": holder, "started_by": started_by}
        return self.act("begin")

    def spread(self, _: Any, holder: str, rate: int) -> str:
        self.asked_for["rate"] = rate
        return self.act("spread")

    def finish(self, _: Any, holder: str, **given: Any) -> ScalingResult:
        self.act("finish")
        self.asked_for |= given
        return ScalingResult(self.state, "the end")

    def run(self, dag_bag: Any, **conf: Any) -> dict[str, str]:
        """Run ``scale_fleet``; the end state of every task by its id."""
        dag = dag_bag.dags["scale_fleet"]
        for task in dag.tasks:
            task.retries, task.retry_delay = 0, timedelta(0)
        return run_in_process(dag, {"rate_mib": 5, "dry_run": False, **conf})


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    return Recorder(monkeypatch)


def test_workers_then_brokers_then_cassandra_and_additions_before_removals(
    dag_bag: Any, made: Recorder
) -> None:
    states = made.run(dag_bag)
    assert made.acted == ["check", *ORDER, "finish"]
    assert made.asked_for["holder"].startswith("scale_fleet/")
    assert made.asked_for["rate"] == 5 * 2**20
    assert made.asked_for["refusal"] is None
    assert set(states.values()) == {"success"}


@pytest.mark.parametrize("dry_run", [True, False])
def test_a_refusal_touches_nothing_and_fails_nothing(dag_bag: Any, made: Recorder, dry_run: bool) -> None:
    made.reasons, made.state = ["kafka-1 is down."], ScalingState.REFUSED
    states = made.run(dag_bag, dry_run=dry_run)
    assert made.acted == ["check", "finish"]
    assert "kafka-1 is down." in made.asked_for["refusal"]
    assert set(states.values()) == {"success", "skipped"}


def test_a_dry_run_ends_after_the_guards(dag_bag: Any, made: Recorder) -> None:
    made.state = ScalingState.DRY_RUN
    made.run(dag_bag, dry_run=True)
    assert made.acted == ["check", "finish"]
    assert made.asked_for["dry_run"] is True
    assert made.asked_for["refusal"] is None


@pytest.mark.parametrize("broken", ["begin", "add kafka", "spread", "remove cassandra", "settle"])
@pytest.mark.parametrize("error", [StepFailed("it broke"), GuardRefused("a guard refused")])
def test_after_a_failure_nothing_follows_but_the_end(
    dag_bag: Any, made: Recorder, broken: str, error: KintsugiError
) -> None:
    made.fails, made.state = (broken, error), ScalingState.FAILED
    states = made.run(dag_bag)
    assert made.acted == ["check", *ORDER[: ORDER.index(broken) + 1], "finish"]
    assert states["finish"] == "failed"


def test_guards_that_could_not_be_asked_are_no_success(dag_bag: Any, made: Recorder) -> None:
    made.fails = ("check", StepFailed("Postgres is away"))
    states = made.run(dag_bag)
    assert made.acted == ["check"]
    assert states["finish"] == "failed"
