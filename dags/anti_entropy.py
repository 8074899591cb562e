"""Each night: every range of Cassandra is compared with its replicas, and what differs is repaired."""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG, CronTriggerTimetable, task

from kintsugi.core.fleet import Role, load_fleet

RUNBOOK = """
### Anti-entropy

A replica misses writes quietly: nobody notices while the others hold them. So each night Cassandra compares every range
with its replicas and repairs what differs (`nodetool repair --full`), one node after another, each the ranges that are
its own first. Pipeline Health and `make status` say when each was compared last. Trigger it by hand whenever you like.

**A comparison failed, or was put off?** It waits while a Cassandra node is being repaired or a release is rolled out,
and is tried again every 15 minutes, four times. Its log says why; the next night compares again.

**Not compared for more than a week?** Rows that were deleted may come back after ten days (`gc_grace_seconds`), and a
lost disk may take with it the only replica that has a row. Clear the failed task, and read the node's `cassandra.log`.
"""

with DAG(
    dag_id="anti_entropy",
    description="Compare Cassandra's replicas, and repair what differs",
    doc_md=RUNBOOK,
    # Without a start, because a new installation would begin with the night before.
    schedule=CronTriggerTimetable("0 4 * * *", timezone="America/New_York"),
    catchup=False,
    max_active_runs=1,
    is_paused_upon_creation=False,
    tags=["kintsugi", "recovery"],
    default_args={"owner": "kintsugi", "retries": 4, "retry_delay": timedelta(minutes=15)},
) as dag:

    @task(
        execution_timeout=timedelta(hours=5),
        max_active_tis_per_dagrun=1,  # one after another: each makes all its replicas read their disks
        map_index_template="{{ task.op_kwargs['node'] }}",
    )
    def compare(node: str, **context: object) -> str:
        """Compare one node's ranges; returns a sentence."""
        from kintsugi.operations.cassandra_repair import repair_tonight
        from kintsugi.operations.context import Context

        run = context["dag_run"]
        return repair_tonight(Context.from_environment(), node, by=f"{run.dag_id}/{run.run_id}")  # type: ignore[attr-defined]

    compare.expand(node=[node.name for node in load_fleet().of(Role.CASSANDRA)])
