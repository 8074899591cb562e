"""Start a recovery by hand: the same subgraph as the watch's, with a form."""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG, Param

from kintsugi.airflow_ext.recovery_task_group import recovery
from kintsugi.core.fleet import load_fleet
from kintsugi.notify.deadline import deadline_alert

RUNBOOK = """
### Recover a node by hand

*Trigger* opens a form: the node, what to do, and whether only to show the plan.

- **auto**: diagnose and choose, as the watch does. A healthy node is left alone; a repair of it that was begun and
  never finished is finished: rejoined, its data made whole, proven.
- **restart**: start the service again; the disk stays.
- **rebuild**: a new server with an empty volume, filled from its peers. The guards are asked as always.
- **roll_back**: configure the node anew from the last known-good release.
- **dry run**, on by default: shows Terraform's plan in the log and result of `recovery.show_plan`; nothing changes.

A run that isn't done after 30 minutes is told to the channels tagged `page` (a deadline alert of this DAG).

A run that skips everything after `confirm`: another run holds the node's lease; its name is in the log of `confirm`.
"""

with DAG(
    dag_id="recover_node",
    description="Rebuild or restart a node by hand",
    doc_md=RUNBOOK,
    schedule=None,
    catchup=False,
    max_active_runs=4,
    is_paused_upon_creation=False,
    tags=["kintsugi", "recovery"],
    deadline=deadline_alert(timedelta(minutes=30)),
    default_args={"owner": "kintsugi", "execution_timeout": timedelta(minutes=15)},
    params={
        "node": Param(
            default=next(iter(load_fleet().nodes)),
            enum=list(load_fleet().nodes),
            title="Node",
            description="Which server",
        ),
        "action": Param(
            default="auto",
            enum=["auto", "restart", "rebuild", "roll_back"],
            title="Action",
            description="What to do; auto diagnoses and chooses",
        ),
        "dry_run": Param(
            default=True,
            type="boolean",
            title="Dry run",
            description="Show Terraform's plan and change nothing",
        ),
    },
) as dag:
    recovery(node="{{ params.node }}", action="{{ params.action }}", dry_run="{{ params.dry_run }}")
