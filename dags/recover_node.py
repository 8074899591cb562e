"""Start a recovery by hand, with a form; it runs the same task group as a watch."""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG, Param

from kintsugi.airflow_ext.recovery_task_group import build_recovery
from kintsugi.core.settings import load_settings
from kintsugi.notify.deadline import deadline_alert

RUNBOOK = """
### Recover a node by hand

*Trigger* opens a form: the node, the action, and whether to show only the plan.

- **auto**: diagnose and choose the action, as the watch does. A ready node is left alone. An unfinished recovery is
  completed: the node rejoins, its data is repaired, and it is verified.
- **restart**: restart the service; the disk stays.
- **rebuild**: create a new node with an empty volume and fill it from its peers. The guards are evaluated as always.
- **roll_back**: configure the node with the last known-good release.
- **dry run** (on by default): shows Terraform's plan in the log and result of `recovery.show_plan`; changes nothing.

If a run takes more than 30 minutes, a deadline alert goes to the channels tagged `page`.

If another run holds the node's lease, `confirm` waits for one minute. Then your run fails, and the log of `confirm`
names that run. Wait for it, or end it, and trigger again. A run of a sweep (`sweep__…`) or of a webhook
(`honeycomb__…`) skips everything after `confirm` instead.
"""

with DAG(
    dag_id="recover_node",
    description="Recover a node by hand: restart, rebuild or roll back",
    doc_md=RUNBOOK,
    schedule=None,
    catchup=False,
    max_active_runs=16,  # of people, sweeps and webhooks; the pools bound what acts, a question holds no slot
    is_paused_upon_creation=False,
    tags=["kintsugi", "recovery"],
    deadline=deadline_alert(timedelta(minutes=30)),
    default_args={"owner": "kintsugi", "execution_timeout": timedelta(minutes=15)},
    params={
        "node": Param(
            default=next(iter(load_settings().fleet.nodes)),
            enum=list(load_settings().fleet.nodes),
            title="Node",
            description="The node to recover",
        ),
        "action": Param(
            default="auto",
            enum=["auto", "restart", "rebuild", "roll_back"],
            title="Action",
            description="auto diagnoses the node and chooses the action",
        ),
        "dry_run": Param(
            default=True,
            type="boolean",
            title="Dry run",
            description="Show Terraform's plan; change nothing",
        ),
    },
) as dag:
    build_recovery(node="{{ params.node }}", action="{{ params.action }}", dry_run="{{ params.dry_run }}")
