"""What holds for every DAG of the project."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest

from kintsugi.core.fleet import load_fleet

DAGS = Path(__file__).resolve().parents[2] / "dags"
EXPECTED = {
    "ingest_trades",
    "replay_trades",
    "redrive_files",
    "reconcile_trades",
    "build_baseline",
    "stream_trades",
    "watch_flow",
    "recover_node",
    "replace_node",
    "scale_fleet",
    "chaos_nightly",
    "chaos_switch",
    "deploy_release",
    "check_drift",
    "rotate_secrets",
    "anti_entropy",
    "back_up_control_plane",
    "expire_archives",
    "digest",
    "maintenance",
    *(f"watch_{name}" for name in load_fleet().nodes),
}


def test_every_file_imports(dag_bag: Any) -> None:
    assert dag_bag.import_errors == {}
    assert set(dag_bag.dags) == EXPECTED


TASKS = {
    "anti_entropy": {"compare"},
    "back_up_control_plane": {"back_up"},
    "build_baseline": {"new_file", "package", "statistics"},
    "chaos_switch": {"switch"},
    "check_drift": {"compare"},
    "expire_archives": {"expire"},
    "ingest_trades": {"new_file", "ingest", "check_manifests"},
    "maintenance": {"flag"},
    "reconcile_trades": {"reconcile"},
    "redrive_files": {"redrive"},
    "replay_trades": {"replay", "check_manifests"},
    "rotate_secrets": {"renew", "hand_out", "roll_out", "back_up", "certify_hosts", "finish"},
    "stream_trades": {"absent", "submit", "committing"},
    "watch_flow": {"flow_health", "restart_stream", "committing"},
}
"""The stored ids of tasks, which runbooks and earlier runs refer to; those of a recovery: test_recovery_wiring."""


MANY_RUNS = {"recover_node": 16}
"""A question to a person keeps a run active; those of several nodes must not keep a person's request queued."""


def test_the_ids_of_tasks_stay(dag_bag: Any) -> None:
    assert {name: {task.task_id for task in dag_bag.dags[name].tasks} for name in TASKS} == TASKS


def test_every_dag_has_runbook_tags_owner_and_bounded_tasks(dag_bag: Any) -> None:
    for dag in dag_bag.dags.values():
        assert len((dag.doc_md or "").strip().splitlines()) >= 5, f"{dag.dag_id}: no runbook"
        assert "kintsugi" in dag.tags, dag.dag_id
        assert len(dag.tags) >= 2, dag.dag_id
        assert not dag.catchup, dag.dag_id
        assert dag.max_active_runs <= MANY_RUNS.get(dag.dag_id, 4), dag.dag_id
        for task in dag.tasks:
            assert task.owner == "kintsugi", f"{dag.dag_id}.{task.task_id}"
            waits_in_the_triggerer = getattr(task, "timeout", None) is not None
            assert task.execution_timeout or waits_in_the_triggerer, (
                f"{dag.dag_id}.{task.task_id} may run for ever"
            )


def test_a_question_about_each_node_leaves_room_for_a_persons_request(dag_bag: Any) -> None:
    assert dag_bag.dags["recover_node"].max_active_runs > len(load_fleet().nodes)


def test_a_continuous_dag_has_a_start_date(dag_bag: Any) -> None:
    """Without one its first two runs have the same logical date, and Airflow never makes the second."""
    continuous = [
        dag for dag in dag_bag.dags.values() if type(dag.timetable).__name__ == "ContinuousTimetable"
    ]
    assert len(continuous) == 3 + 1 + len(load_fleet().nodes)
    for dag in continuous:
        assert dag.start_date is not None, dag.dag_id
        assert dag.start_date.year < 2026, dag.dag_id


def test_a_dag_with_a_time_of_its_own_waits_for_it(dag_bag: Any) -> None:
    """With a start date in the past Airflow makes its last missed run as soon as it is unpaused: chaos at noon."""
    timed = [dag for dag in dag_bag.dags.values() if type(dag.timetable).__name__ == "CronTriggerTimetable"]
    assert {dag.dag_id for dag in timed} >= {"chaos_nightly", "digest", "check_drift", "anti_entropy"}
    assert {dag.dag_id: dag.start_date for dag in timed if dag.start_date is not None} == {}


def test_no_branch_stands_in_a_mapped_group(dag_bag: Any) -> None:
    """Airflow runs both sides of such a branch (apache/airflow 67265): it would rebuild healthy nodes."""
    for dag in dag_bag.dags.values():
        for task in dag.tasks:
            assert not list(task.iter_mapped_task_groups()), f"{dag.dag_id}.{task.task_id}"


def test_dangerous_dags_start_paused(dag_bag: Any) -> None:
    assert dag_bag.dags["chaos_nightly"].is_paused_upon_creation
    assert dag_bag.dags["rotate_secrets"].is_paused_upon_creation
    assert dag_bag.dags["recover_node"].params["dry_run"] is True
    assert dag_bag.dags["deploy_release"].params["dry_run"] is True
    assert dag_bag.dags["replace_node"].params["dry_run"] is True
    assert dag_bag.dags["replace_node"].params["keep_volume"] is True


@pytest.mark.parametrize("path", sorted(DAGS.glob("*.py")), ids=lambda path: path.stem)
def test_dag_files_only_wire(path: Path) -> None:
    """No heavy import and no I/O at parse time: the dag-processor would pay for it every 30 s."""
    heavy = {"pyspark", "cassandra", "kafka", "boto3", "ansible_runner", "pandas", "psycopg", "requests"}
    tree = ast.parse(path.read_text())
    for node in tree.body:
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        assert not {name.partition(".")[0] for name in names} & heavy
    assert len(path.read_text().splitlines()) <= 130


def test_every_file_is_looked_for_by_one_rule(dag_bag: Any) -> None:
    """Where the ingest of a DAG begins with another sensor, that one misses files which the ledger sees."""
    for name, kind in (("ingest_trades", "trades"), ("build_baseline", "eod")):
        first = [task for task in dag_bag.dags[name].tasks if not task.upstream_task_ids]
        sensors = [task for task in first if task.task_type.endswith("Sensor")]
        assert [(task.task_type, task.kind) for task in sensors] == [("NewObjectsSensor", kind)]


def test_a_day_with_a_line_end_and_a_month_pass_the_form_of_a_replay(dag_bag: Any) -> None:
    params = dag_bag.dags["replay_trades"].params
    for day in ("2024-10-08\n", "2024-10", "", None):
        params.get_param("day").resolve(value=day)
