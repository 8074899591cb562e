"""Watch every node, and rebuild the one that dies: one DAG a node, made from the fleet file.

A DAG a node rather than one for all: a second failure during a recovery is noticed just as fast, a node's grid is
its history, and a healed node is watched again as soon as its run ends. The groups aren't mapped: a branch
inside a mapped group runs both sides (docs/decisions/0001).
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from airflow.sdk import DAG, get_parsing_context, task

from kintsugi.airflow_ext.recovery_task_group import recovery
from kintsugi.airflow_ext.sensors.flow_health import FlowHealthSensor
from kintsugi.airflow_ext.sensors.node_health import NodeHealthSensor
from kintsugi.core.fleet import Node, load_fleet, watch_of

# Without a start date the first two runs of @continuous share a logical date, and the second is never made.
EPOCH = datetime(2024, 1, 1, tzinfo=UTC)
DEFAULTS = {"owner": "kintsugi", "execution_timeout": timedelta(minutes=15)}

RUNBOOK = """
### Watching `{name}` ({role}, {address})

`health` probes the node each second in the triggerer and costs no worker slot. It ends when the node refuses three
probes in a row (about 3 s) or stays silent for 8 s; a pause of up to 5 s is never an incident.
Then the run goes on into `recovery`. After six hours without a finding everything is skipped, and the next run watches.

**A run failed?** Open its `record` task: its log is the story with every reason. If the node still doesn't answer, the
next run continues the incident on the next rung: restart → a new server on the old volume → a new server and volume →
a person. If it answers, a run of `recover_node` named `sweep__…` proves it within two minutes and closes the incident.
Only when that fails too, the incident is closed as failed and a person is called: look at the node, then trigger
`recover_node`, which finishes the repair. `make status` shows the fleet, `make incident ID=<id>` one incident.

**A task waits under *Required Actions*?** A guard refused, or every rung was tried; the question says why. *Approve*
opens what the question names and nothing else; a node that still answers isn't destroyed even then. *Look again* proves
the node, as after a repair by hand. That is answered by itself when the node serves again, when its incident was closed
by another run, or when the maintenance that refused has ended. Without an answer the repair is declined after 30
minutes, and asked again while the node is sick.

**Stop healing this node:** *Pause healing…* on Pipeline Health, or trigger `maintenance`; pausing this DAG would freeze
a repair that is under way. **Heal it by hand:** trigger `recover_node`.
"""


FLOW_RUNBOOK = """
### Watching the flow

`flow_health` reads the stream every 5 s in the triggerer. It ends when the application has been gone for 20 s,
when there is lag and no offset was committed for 90 s, or when a large lag has only grown for 3 minutes.
Then `restart_stream` starts the driver again from its checkpoint, unless it only just began or a node is being
repaired, and `committing` waits until it holds cores.

**It fires again and again?** Read `stream-trades.log` of the Spark master's node. When every node is well and batches
commit, but the lag grows: more trades come in than the machine takes; look at `make status`. A person is called when
nothing was stored for 15 minutes, or when a large lag has grown for 30.
"""


@task(retries=2, retry_delay=timedelta(seconds=5))
def restart_stream() -> str:
    """End the driver and start it from its checkpoint; left alone when nobody submitted the stream."""
    from kintsugi.operations import stream_driver
    from kintsugi.operations.context import Context

    return stream_driver.restart_if_desired(Context.from_environment())


@task
def committing() -> str:
    """Wait until the application holds cores again."""
    from kintsugi.operations import stream_driver
    from kintsugi.operations.context import Context

    return stream_driver.wait_until_running(Context.from_environment(), deadline_s=180)


def watch(node: Node) -> DAG:
    """The watch of one node: a sensor that branches into the recovery subgraph."""
    with DAG(
        dag_id=watch_of(node.name),
        dag_display_name=f"watch {node.name}",
        description=f"Watch {node.name} and rebuild it when it dies",
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
        recovery(node=node.name, finding=health.output)
    return dag


def watch_flow() -> DAG:
    """The watch of the flow itself: a sensor that branches to where the driver is started again."""
    with DAG(
        dag_id="watch_flow",
        dag_display_name="watch the flow",
        description="Watch lag, commits and the streaming driver",
        doc_md=FLOW_RUNBOOK,
        schedule="@continuous",
        start_date=EPOCH,
        max_active_runs=1,
        catchup=False,
        is_paused_upon_creation=True,
        tags=["kintsugi", "watch", "flow"],
        default_args=DEFAULTS,
    ) as dag:
        FlowHealthSensor(task_id="flow_health", execution_timeout=None) >> restart_stream() >> committing()
    return dag


# A task needs its own DAG only; building the other nine would be most of its start.
wanted = get_parsing_context().dag_id
if wanted in (None, "watch_flow"):
    flow_dag = watch_flow()
for _node in load_fleet():
    if wanted in (None, watch_of(_node.name)):
        globals()[watch_of(_node.name)] = watch(_node)
