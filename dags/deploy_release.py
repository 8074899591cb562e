"""Roll out a release node by node; roll back to the last known-good release when a probe fails."""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG, Param

from kintsugi.airflow_ext.rollout_task_group import roll_out
from kintsugi.core.settings import load_settings
from kintsugi.notify.deadline import deadline_alert

RUNBOOK = """
### Roll out a release

*Trigger* opens a form. A **release** is what the nodes run: artifact versions, fleet file, Ansible's roles and
templates, the pipeline's code. Its name is its digest; `kintsugi release list` lists all releases. *working tree*
packs this checkout. With **Dry run** the log of `plan` shows which files change on which node; nothing is changed.

Nodes are updated one at a time while the steady state holds: workers, Kafka, Cassandra, the Spark master. A node whose
files don't change is not touched. A release becomes known-good after every node stayed ready and a synthetic trade
arrived (`hold`).

**`prepare` failed?** The release doesn't fit the fleet, or its jars can't be had. No node was changed; its log says
what to do.
**`plan` failed?** Either the pipeline was not ready: nothing was touched, try again. Or the release does not render:
it is marked bad, and the log names node, task and reason.
**`<node>.apply` or `<node>.prove` failed?** A probe failed. `go_back` has rolled the node back; `finish` reports it.
**`go_back` failed?** The node did not come back. Its watch recovers it now. Look at its incident.
**`finish` says *stopped*?** Another failure lasted too long. Nothing is rolled back automatically. Recover what failed.
Then trigger the same digest again (it continues), or the digest of the last known-good release.
**Roll back by hand:** trigger this DAG with the digest of the release that you want.

You can kill and clear any task. You can also end the whole run: a new run takes over when the lease of the old one has
expired (10 minutes).
"""

with DAG(
    dag_id="deploy_release",
    description="Roll out a release node by node; roll back when a probe fails",
    doc_md=RUNBOOK,
    schedule=None,
    catchup=False,
    max_active_runs=1,
    is_paused_upon_creation=False,
    tags=["kintsugi", "release"],
    deadline=deadline_alert(timedelta(minutes=90)),
    default_args={"owner": "kintsugi", "execution_timeout": timedelta(minutes=25)},
    params={
        "release": Param(
            default="working tree",
            type="string",
            pattern="^(working tree|[0-9a-f]{6,64})$",
            title="Release",
            description="The first 6 or more digits of a digest, or 'working tree' to pack this checkout",
        ),
        "hold_seconds": Param(
            default=60,
            type="integer",
            minimum=5,
            maximum=900,
            title="Hold time",
            description="Seconds for which the whole fleet must stay ready at the end",
        ),
        "dry_run": Param(
            default=True,
            type="boolean",
            title="Dry run",
            description="Render and compare everything; change nothing",
        ),
        "again": Param(
            default=False,
            type="boolean",
            title="Even if marked bad",
            description="Try a release again that was marked bad before",
        ),
    },
) as dag:
    roll_out(
        load_settings().fleet,
        release="{{ params.release }}",
        hold_s="{{ params.hold_seconds }}",
        dry_run="{{ params.dry_run }}",
        again="{{ params.again }}",
    )
