"""Add nodes to the fleet, or remove some, after an edit of the fleet file."""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG, Param

from kintsugi.airflow_ext.scaling_task_group import build_scaling

RUNBOOK = """
### Add or remove nodes

Edit the fleet file first: add a line for a new node, or delete the line of one that is to go. Then *Trigger*. On the
command line: `make scale-fleet`, which also follows the run.

- **Dry run** (on by default): shows the plan and asks the guards; changes nothing.
- **Rate**: how many MiB a second each Kafka broker may send and receive for replicas that move.

Spark's workers come first, then Kafka, then Cassandra. In each role nodes are added before others are removed. A node
that is added or removed is in maintenance: no recovery starts for it. Injected faults, roll-outs and replacements are
refused meanwhile.

**Everything is skipped but `finish`?** The change was refused, and nothing was touched. The result and the log of
`finish` say why and what to do.
**A task failed?** What is left to do stays on record. Remove the cause, then trigger this DAG again: it goes on. To
undo the change, revert the edit of the fleet file and trigger it again.
**A task was killed, or the run was ended?** The same. A lease of the ended run may hold the next one up for 5 minutes.
"""

with DAG(
    dag_id="scale_fleet",
    description="Add nodes to the fleet, or remove some, as the fleet file declares",
    doc_md=RUNBOOK,
    schedule=None,
    catchup=False,
    max_active_runs=1,
    is_paused_upon_creation=False,
    tags=["kintsugi", "release"],
    default_args={"owner": "kintsugi", "execution_timeout": timedelta(minutes=25)},
    params={
        "rate_mib": Param(
            default=20,
            type="integer",
            minimum=1,
            maximum=1000,
            title="Rate",
            description="MiB a second for each Kafka broker",
        ),
        "dry_run": Param(
            default=True,
            type="boolean",
            title="Dry run",
            description="Show the plan and ask the guards; change nothing",
        ),
    },
) as dag:
    build_scaling(dry_run="{{ params.dry_run }}", rate_mib="{{ params.rate_mib }}")
