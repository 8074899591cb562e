"""Watch every node, and rebuild the one that dies: one DAG a node, made from the fleet file.

A DAG a node rather than one for all: a second failure during a recovery is noticed just as fast, a node's grid is
its history, and a healed node is watched again as soon as its run ends. The groups aren't mapped: a branch
inside a mapped group runs both sides (docs/decisions/0001).
"""

from __future__ import annotations

from datetime import timedelta

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, task
from kintsugi.fleet import Node, load_fleet
from kintsugi.recovery.subgraph import recovery
from kintsugi.sensors.node_health import NodeHealthSensor

RUNBOOK = """
### Watching `{name}` ({role}, {address})

`health` probes the node each second in the triggerer and costs no worker slot. It ends when the node refuses three
probes in a row (about 3 s) or stays silent for 9 s; a pause of up to 5 s is never an incident.
Then the run branches into `recovery`.

**A run failed?** Open its `record` task: its log is the story with every reason. The next run continues
the same incident and escalates (restart → rebuild → a human). `make status` shows the fleet,
`kintsugi incident <id>` one incident.

**A task waits under "required actions"?** A guard refused; the reason is in the log of `recovery.guard`.

**Stop healing this node:** pause this DAG. **Heal it by hand:** trigger `recover_node`.
"""


@task.branch
def is_sick(finding: dict[str, object]) -> str:
    """Into the recovery when the sensor found something, else to the quiet end."""
    return "all_well" if finding.get("well") else "recovery.confirm"


def watch(node: Node) -> DAG:
    """The watch of one node: sensor → branch → recovery subgraph."""
    with DAG(
        dag_id=f"watch_{node.name}",
        dag_display_name=f"watch {node.name}",
        description=f"Watch {node.name} and rebuild it when it dies",
        doc_md=RUNBOOK.format(name=node.name, role=node.role, address=node.address),
        schedule="@continuous",
        max_active_runs=1,
        catchup=False,
        is_paused_upon_creation=True,
        tags=["kintsugi", "watch", node.role],
        default_args={"owner": "kintsugi", "execution_timeout": timedelta(minutes=15)},
    ) as dag:
        health = NodeHealthSensor(task_id="health", node=node.name, execution_timeout=None)
        is_sick(health.output) >> [
            recovery(node=node.name, finding=health.output),
            EmptyOperator(task_id="all_well"),
        ]
    return dag


for _node in load_fleet():
    globals()[f"watch_{_node.name}"] = watch(_node)
