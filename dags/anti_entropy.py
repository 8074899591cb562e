"""Repair every range of Cassandra each night: compare its replicas and repair what differs."""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG, CronTriggerTimetable, task

from kintsugi.core.dag_ids import holder_of
from kintsugi.core.fleet import Role
from kintsugi.core.settings import load_settings

RUNBOOK = """
### Anti-entropy repair

A replica can miss a write, and no error is reported while the other replicas hold the row. So each night
`nodetool repair --full` compares all replicas and repairs what differs: one node after another, each its primary
ranges. Pipeline Health and `make status` show when each node was repaired last. You can trigger this DAG at any time.

**A repair failed, or was postponed?** It waits while a Cassandra node is being recovered or a release is rolled out.
It is tried again every 15 minutes, four times. The task's log gives the reason. The next night runs it again.

**Not repaired for more than a week?** Deleted rows can come back after ten days (`gc_grace_seconds`). A lost disk can
hold the only replica of a row. Clear the failed task, and read the node's `cassandra.log`.
"""

with DAG(
    dag_id="anti_entropy",
    description="Repair Cassandra's replicas each night (nodetool repair)",
    doc_md=RUNBOOK,
    # No start date: with one, a new installation would first run for the night before.
    schedule=CronTriggerTimetable("0 4 * * *", timezone="America/New_York"),
    catchup=False,
    max_active_runs=1,
    is_paused_upon_creation=False,
    tags=["kintsugi", "recovery"],
    default_args={"owner": "kintsugi", "retries": 4, "retry_delay": timedelta(minutes=15)},
) as dag:

    @task(
        task_id="compare",
        execution_timeout=timedelta(hours=5),
        max_active_tis_per_dagrun=1,  # one at a time: each makes all its replicas read their disks
        map_index_template="{{ task.op_kwargs['node'] }}",
    )
    def repair_replicas(node: str, **context: object) -> str:
        """Repair the primary ranges of one node; returns a sentence about the result."""
        from kintsugi.operations.cassandra_repair import repair_tonight
        from kintsugi.operations.context import Context

        return repair_tonight(Context.from_environment(), node, by=holder_of(context["dag_run"]))

    repair_replicas.expand(node=[node.name for node in load_settings().fleet.of(Role.CASSANDRA)])
