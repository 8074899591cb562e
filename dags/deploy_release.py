"""Roll a release out node by node; back to the last known-good one by itself when a probe is bad."""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG, Param

from kintsugi.airflow_ext.rollout_task_group import roll_out
from kintsugi.core.fleet import load_fleet
from kintsugi.notify.deadline import deadline_alert

RUNBOOK = """
### Roll out a release

*Trigger* opens a form. A **release** is what the servers run (artifact versions, fleet file, Ansible's roles and
templates, the pipeline's code), named by its digest; `kintsugi release list` shows which there are. *working tree*
packs this checkout. **Dry run** shows in the log of `plan` which files change on which node and touches nothing.

Nodes go one at a time while the steady state holds: workers, Kafka, Cassandra, the Spark master. A node whose files
don't change isn't touched. Known-good is a release only after every node held and a canary passed (`hold`).

**`plan` failed?** Either the pipeline wasn't well (nothing was touched; try again), or the release doesn't render: then
it is marked bad, and the log names node, task and reason.
**`<node>.apply` or `<node>.prove` failed?** A bad probe. `go_back` has returned the node; `finish` tells the story.
**`go_back` failed?** A node didn't come back. It is released to its watch, which heals it; look at its incident.
**`finish` says *stopped*?** Something else was sick for too long. Nothing returns by itself then: heal it, then trigger
the same digest again (it goes on where it stopped) or the digest of the last known-good release.
**Roll back by hand:** trigger this with the digest of the release to return to.

Any task may be killed and cleared. The same with the whole run: a new one takes over when the lease of the old has
lapsed (10 minutes).
"""

with DAG(
    dag_id="deploy_release",
    description="Roll a release out node by node, with probes between and a way back",
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
            description="First digits of a digest, or 'working tree' to pack this checkout",
        ),
        "hold_seconds": Param(
            default=60,
            type="integer",
            minimum=5,
            maximum=900,
            title="Hold time",
            description="Seconds for which the whole fleet must be well at the end",
        ),
        "dry_run": Param(
            default=True,
            type="boolean",
            title="Dry run",
            description="Render and compare everything, and touch nothing",
        ),
        "again": Param(
            default=False,
            type="boolean",
            title="Also when marked bad",
            description="Try a release again that was found bad before",
        ),
    },
) as dag:
    roll_out(
        load_fleet(),
        release="{{ params.release }}",
        hold_s="{{ params.hold_seconds }}",
        dry_run="{{ params.dry_run }}",
        again="{{ params.again }}",
    )
