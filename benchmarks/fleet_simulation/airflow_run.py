"""Airflow with one watch DAG a node: what parsing, the database and the scheduler's loop cost.

``python -m benchmarks.fleet_simulation.airflow_run <report.json>`` runs in the environment of a private Airflow with a
migrated database (`benchmarks.fleet_simulation.dags`). No task runs: a queued sensor becomes deferred at once, as
after its process has ended.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from unittest import mock

from benchmarks.fleet_simulation.figures import spread
from kintsugi.controlplane import airflow_patches
from kintsugi.core.fleet import REPOSITORY, load_fleet

if TYPE_CHECKING:
    from airflow.dag_processing.dagbag import DagBag
    from airflow.jobs.scheduler_job_runner import SchedulerJobRunner

BUNDLE = "dags-folder"
SENSORS = ("health", "flow_health")
WATCHES = REPOSITORY / "dags" / "watch_fleet.py"
PATIENCE_S = 600
START_LIMIT_S = 20.0
"""The loops that start the runs are measured for so long. Then the rest is started in large steps, unmeasured."""
LOOPS = 3

T = TypeVar("T")


def timed(work: Callable[[], T]) -> tuple[T, dict[str, float]]:
    """Return the result, and how long it took: ``s``, and ``cpu_s`` of this process, in seconds."""
    began_s, used_s = time.monotonic(), time.process_time()
    result = work()
    return result, {
        "s": round(time.monotonic() - began_s, 3),
        "cpu_s": round(time.process_time() - used_s, 3),
    }


def measure() -> dict[str, Any]:
    """Return the figures of the fleet in this process's environment."""
    fleet, reading = timed(load_fleet)
    return {
        "nodes": len(fleet.nodes),
        "read_fleet_file": reading,
        **measure_parsing(),
        **measure_scheduler(len(fleet.nodes) + 1),
    }


def measure_parsing() -> dict[str, Any]:
    """Parse, serialise and store the DAGs as the dag-processor does."""
    figures: dict[str, Any] = {}
    bag, figures["parse"] = timed(parse_watches)
    figures["import_errors"] = [error.strip().splitlines()[-1] for error in bag.import_errors.values()]
    if not bag.dags:  # it took longer than Airflow allows; the rest is measured all the same
        os.environ["AIRFLOW__CORE__DAGBAG_IMPORT_TIMEOUT"] = str(PATIENCE_S)
        bag, figures["parse_without_limit"] = timed(parse_watches)
    figures["dags"] = len(bag.dags)
    documents, figures["serialise"] = timed(lambda: serialise(bag))
    figures["serialised_kb_a_dag"] = round(sum(map(len, documents)) / len(documents) / 1000, 1)
    _, figures["write_to_database"] = timed(lambda: write_bag(bag))
    figures["memory_of_the_parser_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return figures


def parse_watches() -> DagBag:
    """Parse ``watch_fleet.py`` as the dag-processor does."""
    from airflow.dag_processing.dagbag import DagBag

    return DagBag(dag_folder=WATCHES, bundle_path=WATCHES.parent, bundle_name=BUNDLE, load_op_links=False)


def serialise(bag: DagBag) -> list[str]:
    """Return each DAG as the text that is stored."""
    from airflow.serialization.serialized_objects import DagSerialization

    return [json.dumps(DagSerialization.to_dict(dag)) for dag in bag.dags.values()]


def write_bag(bag: DagBag) -> None:
    """Write the DAGs to the database as the dag-processor does, and unpause them."""
    from airflow.dag_processing.dagbag import sync_bag_to_db
    from airflow.models.dag import DagModel
    from airflow.models.dagbundle import DagBundleModel
    from airflow.utils.session import create_session
    from sqlalchemy import update

    with create_session() as session:
        session.add(DagBundleModel(name=BUNDLE))
    with create_session() as session:
        sync_bag_to_db(bag, BUNDLE, None, session=session)
    with create_session() as session:
        session.execute(update(DagModel).values(is_paused=False))


def measure_scheduler(dags: int) -> dict[str, Any]:
    """Let the scheduler's loop create and start a run of each DAG, then measure loops in which nothing changes."""
    airflow_patches.apply_patches()
    runner = make_runner()
    starting: list[dict[str, float]] = []
    began_s, started = time.monotonic(), 0
    while started < dags and time.monotonic() - began_s < START_LIMIT_S:
        _, took = timed(lambda: run_loop(runner))
        starting.append(took)
        started += defer_queued(runner)
    if started < dags:
        start_rest(runner, dags - started)
    time.sleep(airflow_patches.COMMITS_WITHIN.total_seconds() + 0.5)  # until then every run counts as changed
    all_s = [timed(lambda: run_loop(runner, all_runs=True))[1] for _ in range(LOOPS)]
    changed_s = [timed(lambda: run_loop(runner, all_runs=False))[1] for _ in range(LOOPS)]
    _, states = timed(lambda: [airflow_patches.task_states() for _ in range(LOOPS)])
    return {
        "runs_started_by_loops": started,
        "runs_a_second_at_most": round(started / sum(took["s"] for took in starting), 2),
        "runs_a_processor_second": round(started / sum(took["cpu_s"] for took in starting), 2),
        "starting_loop_s": spread([took["s"] for took in starting]),
        "runs_in_all": count_runs(),
        "loop_over_all_runs_s": spread([took["s"] for took in all_s]),
        "loop_over_all_runs_cpu_s": spread([took["cpu_s"] for took in all_s]),
        "loop_over_changed_runs_s": spread([took["s"] for took in changed_s]),
        "task_states_query_s": round(states["s"] / LOOPS, 4),
        "memory_of_the_scheduler_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def make_runner() -> SchedulerJobRunner:
    """Return a scheduler whose executor takes tasks and runs none."""
    from airflow.executors.base_executor import BaseExecutor
    from airflow.executors.executor_utils import ExecutorName
    from airflow.jobs.job import Job
    from airflow.jobs.scheduler_job_runner import SchedulerJobRunner
    from airflow.utils.session import create_session

    executor = BaseExecutor(parallelism=12)
    executor.name = ExecutorName(module_path="none")
    job = Job(job_type="SchedulerJob")  # type: ignore[no-untyped-call]
    with create_session() as session:
        session.add(job)
        session.commit()
        session.expunge(job)
    return SchedulerJobRunner(job=job, executors=[executor])


def run_loop(runner: SchedulerJobRunner, *, all_runs: bool | None = None) -> None:
    """Run the deciding part of one scheduler loop. ``all_runs``: whether it examines all runs; None: as it is due."""
    from airflow.models.dagrun import DagRun
    from airflow.utils.session import create_session

    examine = DagRun.get_running_dag_runs_to_examine
    if all_runs is not None and isinstance(examine, airflow_patches.ChangedRunsFirst):
        due_s = 0.0 if all_runs else time.monotonic() + airflow_patches.ALL_AFTER_S
        examine._all_at = due_s  # noqa: SLF001 - what is measured must not depend on the time
    with create_session() as session:
        runner._do_scheduling(session)  # noqa: SLF001 - Airflow has no other name for it
        session.expunge_all()


def defer_queued(runner: SchedulerJobRunner) -> int:
    """Let every queued task count as deferred, and give its slot back; returns how many there were."""
    from airflow.models.taskinstance import TaskInstance
    from airflow.utils.session import create_session
    from sqlalchemy import update

    for executor in runner.executors:
        executor.queued_tasks.clear()
        executor.running.clear()
    with create_session() as session:
        done = session.execute(
            update(TaskInstance).where(TaskInstance.state == "queued").values(state="deferred")
        )
    return int(getattr(done, "rowcount", 0))


def start_rest(runner: SchedulerJobRunner, runs: int) -> None:
    """Create so many runs in one loop, as no loop of Airflow would, and let them count as started and deferred."""
    from airflow.models.dag import DagModel
    from airflow.models.dagrun import DagRun
    from airflow.models.taskinstance import TaskInstance
    from airflow.utils.session import create_session
    from sqlalchemy import func, update

    with mock.patch.object(DagModel, "NUM_DAGS_PER_DAGRUN_QUERY", runs):
        run_loop(runner, all_runs=False)
    with create_session() as session:
        session.execute(
            update(DagRun).where(DagRun.state == "queued").values(state="running", start_date=func.now())
        )
        session.execute(
            update(TaskInstance).where(TaskInstance.task_id.in_(SENSORS)).values(state="deferred")
        )


def count_runs() -> int:
    """Return how many runs watch now."""
    from airflow.models.taskinstance import TaskInstance
    from airflow.utils.session import create_session
    from sqlalchemy import func, select

    with create_session() as session:
        watching = select(func.count()).where(
            TaskInstance.state == "deferred", TaskInstance.task_id.in_(SENSORS)
        )
        return session.scalar(watching) or 0


def main(words: Sequence[str] = sys.argv[1:]) -> None:
    """Write the figures to the file that the first argument names."""
    Path(words[0]).write_text(json.dumps(measure()))


if __name__ == "__main__":
    main()
