"""Watch every node and recover it when it fails: one DAG for each node of the fleet file.

Each node has its own DAG for three reasons. A second failure during a recovery is detected just as fast. The grid of
the DAG is the history of the node. A recovered node is watched again as soon as its run ends. The task groups are not
mapped, because a branch inside a mapped group runs both sides (docs/decisions/0001).
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from airflow.sdk import DAG, get_parsing_context, task

from kintsugi.airflow_ext.recovery_task_group import build_recovery
from kintsugi.airflow_ext.sensors.flow_health import FlowHealthSensor
from kintsugi.airflow_ext.sensors.node_health import NodeHealthSensor
from kintsugi.core.fleet import Node, watch_dag_id
from kintsugi.core.settings import load_settings

# Without a start date the first two runs of @continuous get the same logical date, and the second is not created.
EPOCH = datetime(2024, 1, 1, tzinfo=UTC)
DEFAULTS = {"owner": "kintsugi", "execution_timeout": timedelta(minutes=15)}

RUNBOOK = """
### Watching `{name}` ({role}, {address})

`health` probes the node every second in the triggerer and uses no worker slot. It ends when the node refuses three
probes in a row (about 3 s), or does not answer for 8 s. A pause of up to 5 s is never an incident. Then `recovery`
starts. After six hours without a failure all other tasks are skipped, and the next run watches.

**A run failed?** Read the log of its `record` task: it reports every step with its reason.

- The node still does not answer: the next run continues with the next escalation step. The steps are: restart, a new
  node with the old volume, a new node with a new volume, a person.
- The node answers: a run of `recover_node` named `sweep__…` verifies it within two minutes and closes the incident.
- That run fails too: the incident is closed as failed and a person is paged. Look at the node. Then trigger
  `recover_node`, which completes the repair.

**A task waits under *Required Actions*?** A guard refused, or every escalation step failed. The question says why.
*Approve* overrides only the guards that the question names; a node that still answers is not destroyed. *Look again*
verifies the node, for example after you repaired it. The question is withdrawn when the node is ready again, when
another run has closed its incident, or when the maintenance has ended. Without an answer the repair is declined after
30 minutes, and a new question is asked while the node is down.

**Stop the recovery of this node:** use *Pause recovery…* on Pipeline Health, or trigger `maintenance`. Do not pause
this DAG: that would stop a repair halfway. **Recover it by hand:** trigger `recover_node`.

`make status` shows the fleet, `make incident ID=<id>` one incident.
"""


FLOW_RUNBOOK = """
### Watching the flow

`flow_health` reads the state of the stream every 5 s in the triggerer. It ends in one of three cases: the application
has been gone for 20 s; messages wait and no offset was committed for 90 s; a large lag has grown for 3 minutes.
Then `restart_stream` starts the driver again from its checkpoint. It does nothing if the driver has just started, or
while a node is being repaired. `committing` waits until the driver has cores.

**It restarts the stream again and again?** Read `stream-trades.log` of the Spark master's node. If every node is ready
and batches are committed, but the lag grows, then more trades arrive than the machine can store; see `make status`.
A person is paged when nothing was stored for 15 minutes, or when a large lag has grown for 30 minutes.
"""


@task(retries=2, retry_delay=timedelta(seconds=5))
def restart_stream() -> str:
    """Restart the driver from its checkpoint; does nothing when the stream was never submitted."""
    from kintsugi.operations import stream_driver
    from kintsugi.operations.context import Context

    return stream_driver.restart_if_desired(Context.from_environment())


@task(task_id="committing")
def wait_for_cores() -> str:
    """Wait until the application has cores again."""
    from kintsugi.operations import stream_driver
    from kintsugi.operations.context import Context

    return stream_driver.wait_until_running(Context.from_environment(), deadline_s=180)


def watch_node(node: Node) -> DAG:
    """The watch of one node: a sensor, then the recovery task group."""
    with DAG(
        dag_id=watch_dag_id(node.name),
        dag_display_name=f"watch {node.name}",
        description=f"Watch {node.name} and recover it when it fails",
        doc_md=RUNBOOK.format(name=node.name, role=node.role, address=node.address),
        schedule="@continuous",
        start_date=EPOCH,
        max_active_runs=1,
        catchup=False,
        is_paused_upon_creation=True,
        tags=["kintsugi", "watch", node.role.value],
        default_args=DEFAULTS,
    ) as dag:
        health = NodeHealthSensor(task_id="health", node=node.name, execution_timeout=None)
        build_recovery(node=node.name, finding=health.output)
    return dag


def watch_flow() -> DAG:
    """The watch of the stream: a sensor, then the tasks that restart the driver."""
    with DAG(
        dag_id="watch_flow",
        dag_display_name="watch the flow",
        description="Watch lag, commits and the streaming driver; restart the driver",
        doc_md=FLOW_RUNBOOK,
        schedule="@continuous",
        start_date=EPOCH,
        max_active_runs=1,
        catchup=False,
        is_paused_upon_creation=True,
        tags=["kintsugi", "watch", "flow"],
        default_args=DEFAULTS,
    ) as dag:
        health = FlowHealthSensor(task_id="flow_health", execution_timeout=None)
        health >> restart_stream() >> wait_for_cores()
    return dag


# A task needs only its own DAG; building the other nine would take most of its start time.
wanted = get_parsing_context().dag_id
if wanted in (None, "watch_flow"):
    flow_dag = watch_flow()
for _node in load_settings().fleet:
    if wanted in (None, watch_dag_id(_node.name)):
        globals()[watch_dag_id(_node.name)] = watch_node(_node)
