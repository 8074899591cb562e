"""The roll-out runs node by node, stops at the first bad probe and goes back, on a real Airflow (``DAG.test``).

The steps themselves are replaced by recorders here: this is about wiring. They run for real in tests/integration.
"""

from __future__ import annotations

from typing import Any

import pytest

from kintsugi.airflow_ext.rollout_task_group import group_of
from kintsugi.core.errors import StepFailed
from kintsugi.core.fleet import load_fleet
from kintsugi.operations.context import Context
from kintsugi.recovery.planned_stop import stop_reasons
from kintsugi.releases import drift, rollout_record, rollout_steps
from kintsugi.releases.rollout import update_order
from tests.dags.in_process import run_in_process

NODES = [node.name for node in update_order(load_fleet())]


class Recorder:
    """Stands in for the steps: notes which were carried out, fails where told to."""

    class Opened:
        id = "deployment"

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.acted: list[str] = []
        self.fails_at: str | None = None
        monkeypatch.setattr(Context, "from_environment", lambda: None)
        monkeypatch.setattr(
            rollout_steps, "prepare_rollout", lambda *_, **__: self._act("prepare") and self.Opened()
        )
        monkeypatch.setattr(rollout_steps, "plan_rollout", lambda *_: self._act("plan"))
        monkeypatch.setattr(rollout_steps, "roll_back", lambda *a: self._act("go_back", *a[2:]))
        monkeypatch.setattr(rollout_steps, "bake_release", lambda *a: self._act(f"hold {a[2]:.0f}"))
        for name, step in (("update_node", "apply"), ("verify_update", "prove")):
            monkeypatch.setattr(
                rollout_steps, name, lambda *a, step=step: self._act(f"{step} {a[2]}", *a[3:])
            )
        monkeypatch.setattr(
            rollout_steps,
            "finish_rollout",
            lambda *_, **__: rollout_record.RolloutRecord(self.fails_at is None, self._act("finish")),
        )

    def _act(self, name: str, *judgement: Any) -> str:
        """``judgement``: what a step that stops a service asks before."""
        assert judgement in ((), (stop_reasons,))
        self.acted.append(name)
        if name == self.fails_at:
            raise StepFailed(f"{name} was told to fail")
        return name

    def run(self, dag_bag: Any, **conf: Any) -> dict[str, str]:
        """Run ``deploy_release``; the end state of every task by its id."""
        dag = dag_bag.dags["deploy_release"]
        return run_in_process(dag, {"release": "working tree", "hold_seconds": 60, "again": False, **conf})


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    return Recorder(monkeypatch)


def rolled_out(names: list[str]) -> list[str]:
    return [f"{step} {name}" for name in names for step in ("apply", "prove")]


def test_every_node_in_turn_then_the_hold(dag_bag: Any, steps: Recorder) -> None:
    states = steps.run(dag_bag, dry_run=False)
    assert steps.acted == ["prepare", "plan", *rolled_out(NODES), "hold 60", "finish"]
    assert states["go_back"] == "skipped"
    assert states["finish"] == "success"


def test_a_dry_run_touches_nothing(dag_bag: Any, steps: Recorder) -> None:
    states = steps.run(dag_bag, dry_run=True)
    assert steps.acted == ["prepare", "plan", "finish"]
    assert {states[f"{group_of(name)}.apply"] for name in NODES} == {"skipped"}
    assert states["go_back"] == "skipped"


@pytest.mark.parametrize("step", ["apply", "prove"])
def test_the_first_bad_probe_is_final_and_the_way_back_follows(
    dag_bag: Any, steps: Recorder, step: str
) -> None:
    steps.fails_at = f"{step} kafka-1"
    states = steps.run(dag_bag, dry_run=False)
    before = NODES[: NODES.index("kafka-1")]
    last = rolled_out(["kafka-1"])[: 1 if step == "apply" else 2]
    assert steps.acted == ["prepare", "plan", *rolled_out(before), *last, "go_back", "finish"]
    assert states["kafka_2.apply"] == "upstream_failed"
    assert states["finish"] == "failed", "a roll-out that failed must not look like a success in the grid"


@pytest.mark.parametrize(
    ("broken", "acted"),
    [
        ("plan", ["prepare", "plan", "go_back", "finish"]),
        ("hold 60", ["prepare", "plan", *rolled_out(NODES), "hold 60", "go_back", "finish"]),
    ],
)
def test_what_concerns_the_fleet_ends_it_too(
    dag_bag: Any, steps: Recorder, broken: str, acted: list[str]
) -> None:
    steps.fails_at = broken
    assert steps.run(dag_bag, dry_run=False)["finish"] == "failed"
    assert steps.acted == acted


def test_nothing_happens_without_a_deployment(dag_bag: Any, steps: Recorder) -> None:
    steps.fails_at = "prepare"
    states = steps.run(dag_bag, dry_run=False)
    assert steps.acted == ["prepare"]
    assert (states["go_back"], states["finish"]) == ("skipped", "failed")


@pytest.mark.parametrize(("remaining", "state"), [({}, "success"), ({"kafka-1": ("/etc/x",)}, "failed")])
def test_drift_that_stays_fails_the_run(
    dag_bag: Any, monkeypatch: pytest.MonkeyPatch, remaining: dict[str, tuple[str, ...]], state: str
) -> None:
    monkeypatch.setattr(Context, "from_environment", lambda: None)
    asked: list[bool] = []

    def look(context: None, *, holder: str, put_right: bool) -> drift.DriftReport:
        asked.append(put_right)
        return drift.DriftReport(remaining, {}, {})

    monkeypatch.setattr(drift, "detect_drift", look)
    run = dag_bag.dags["check_drift"].test(run_conf={"put_right": True})
    assert {str(ti.state) for ti in run.get_task_instances()} == {state}
    assert asked == [True]
