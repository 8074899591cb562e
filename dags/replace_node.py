"""Drain and replace a node that serves, on purpose: for an update of its kernel, or to retire a machine or a disk."""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG, Param

from kintsugi.airflow_ext.replacement_task_group import build_replacement
from kintsugi.core.settings import load_settings

RUNBOOK = """
### Replace a node on purpose

*Trigger* opens a form. On the command line: `make replace-node NODE=<node>`, which also follows the run.

- **Keep the volume** (on by default): a new node on the old volume. Off: a new node with a new, empty volume, which
  is filled from its peers before the run ends.
- **Dry run** (on by default): asks the guards and shows Terraform's plan; changes nothing.

`check` asks every guard before anything is touched. `drain` asks them again, then hands over the node's work and stops
its service. `recovery` is the recovery of a stopped node. While it runs the node is in maintenance: its watch starts no
recovery.

**Everything is skipped but `finish`?** The replacement was refused, and nothing was touched. The result and the log of
`finish` say why and what to do. Nobody is paged.
**A task waits under *Required Actions*?** The node is protected. It serves until a person approves.
**`drain` or a task of `recovery` failed?** `finish` starts the service again if the old node was not destroyed yet.
Otherwise the node's watch recovers it. Look at the incident.
**A task was killed?** Clear it. You can also end the whole run: the node's watch takes over within 5 minutes.
"""

with DAG(
    dag_id="replace_node",
    description="Drain and replace a node that serves",
    doc_md=RUNBOOK,
    schedule=None,
    catchup=False,
    max_active_runs=4,
    is_paused_upon_creation=False,
    tags=["kintsugi", "recovery"],
    default_args={"owner": "kintsugi", "execution_timeout": timedelta(minutes=15)},
    params={
        "node": Param(
            default=next(iter(load_settings().fleet.nodes)),
            enum=list(load_settings().fleet.nodes),
            title="Node",
            description="The node to replace; it must be healthy",
        ),
        "keep_volume": Param(
            default=True,
            type="boolean",
            title="Keep the volume",
            description="Off: the volume is replaced by an empty one too",
        ),
        "dry_run": Param(
            default=True,
            type="boolean",
            title="Dry run",
            description="Ask the guards and show Terraform's plan; change nothing",
        ),
    },
) as dag:
    build_replacement(
        node="{{ params.node }}",
        action="{{ 'rebuild_node' if params.keep_volume else 'rebuild' }}",
        what="{{ 'a new node on the old volume' if params.keep_volume else 'a new node with an empty volume' }}",
        dry_run="{{ params.dry_run }}",
    )
